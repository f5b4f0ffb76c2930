"""Files that are either there as a whole or not at all, on a disk or in an object store.

Here are the cases in which the two kinds of `AnyPath` differ.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, overload
from weakref import WeakSet

from bpr._extras import install_command
from bpr._paths import AnyPath, is_local
from bpr._replace import replace_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


WORK = ".bpr"
"""The folder inside a folder of results in which a command keeps its journal."""


def object_path(url: str) -> AnyPath:
    """A place in an object store.

    Args:
        url: s3://bucket/folder for instance.

    Raises:
        ValueError: the store cannot be reached, or the libraries for it are missing.
    """
    try:
        from upath import UPath

        # what other workers write must be seen, so listings are not remembered
        path = UPath(url, use_listings_cache=False)
        path.exists()
    except ImportError as error:
        raise ValueError(
            f"{url}: expected the libraries of object stores, found no module {error.name!r}: "
            f"{install_command('stores')}"
        ) from None
    except Exception as error:  # each store has errors of its own
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{url}: expected an object store that can be reached, got: {reason}"
        ) from None
    return path


def write_atomically(
    path: AnyPath, content: bytes | Iterable[bytes], partial_folder: AnyPath | None = None
) -> str:
    """Write a file under a temporary name and rename it; to an object store, put it at once.

    Args:
        path: final name; its folder is made if it is missing.
        content: the whole file, or its pieces in order.
        partial_folder: where the temporary file lives, on the same file system as `path`;
            the folder of `path` if not given.

    Returns:
        The SHA-256 of the content, in hex.

    Raises:
        OSError: the disk is full or the folder not writable; it names the file. Nothing is left
            behind.
    """
    pieces = [content] if isinstance(content, bytes) else content
    folder = partial_folder or path.parent
    if not (is_local(path) and is_local(folder)):
        return _put(path, pieces)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    partial = folder / f"{uuid.uuid4().hex}.partial"
    try:
        with partial.open("xb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
        replace_file(partial, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # not the temporary name, or none
        raise
    return digest.hexdigest()


def _put(path: Any, pieces: Iterable[bytes]) -> str:
    """An object is there when the last byte of its upload is, so no other name is needed."""
    digest = hashlib.sha256()
    # a folder, because Windows opens no temporary file twice
    with tempfile.TemporaryDirectory() as folder:
        whole = os.path.join(folder, "whole")
        with open(whole, "wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
        try:
            path.fs.put_file(whole, path.path)
        except OSError as error:
            error.filename = str(path)
            raise
    return digest.hexdigest()


def read_if_there(path: AnyPath) -> bytes | None:
    """The content of a file; None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


@contextmanager
def claimed(path: AnyPath, what: str) -> Iterator[None]:
    """Keep other processes out while this one works; object stores know no locks.

    Args:
        path: a file for the purpose.
        what: is claimed, for the message.

    Raises:
        ValueError: another process holds the lock.
    """
    if not is_local(path):
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        claim(file, what)
        yield


def claim(file: IO[bytes], what: str) -> None:
    """Keep other processes out until this one closes the file or ends.

    Raises:
        ValueError: another process has claimed it.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{what}: another run is using it") from None
    except OSError:
        return  # some network drives know no locks
    _CLAIMED.add(file)


_CLAIMED: WeakSet[IO[bytes]] = WeakSet()


def _leave_claims() -> None:
    """Let a forked process, which may outlive a killed parent, not keep what that claimed."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for file in _CLAIMED:
        if not file.closed:
            os.dup2(nothing, file.fileno())
    os.close(nothing)


if fcntl is not None:
    os.register_at_fork(after_in_child=_leave_claims)


def refuse_to_overwrite(outputs: Iterable[AnyPath], inputs: Iterable[AnyPath]) -> None:
    """Check that nothing that a command reads is in the place of what it writes.

    Args:
        outputs: files to be written.
        inputs: files that are read, whatever --overwrite says.

    Raises:
        ValueError: an output is an input; it names both.
    """
    there = {path.resolve(): path for path in outputs if path.exists()}
    if not there:
        return
    for taken in inputs:
        if (output := there.get(taken.resolve())) is not None:
            raise ValueError(
                f"{output}: expected another place than that of an input, which is never "
                f"overwritten, got that of {taken}"
            )


def stamp(path: AnyPath) -> str:
    """Tell a file's content from another without reading it: size and time of change."""
    try:
        status = path.stat()
    except OSError:
        return "missing"
    changed = status.st_mtime_ns if is_local(path) else status.st_mtime
    return f"{status.st_size}:{changed}"


@overload
def find_files(folder: Path) -> Sequence[Path]: ...
@overload
def find_files(folder: AnyPath) -> Sequence[AnyPath]: ...


def find_files(folder: AnyPath) -> Sequence[AnyPath]:
    """All files below a folder, sorted.

    Links to folders are followed, but not into a folder that they lie in; hidden files and
    folders are passed over.

    Raises:
        OSError: a folder cannot be read.
    """
    if not is_local(folder):
        return sorted(_objects_below(folder), key=str)
    return sorted(_files_below(folder, frozenset()))


def _objects_below(folder: Any) -> Iterator[AnyPath]:
    """One listing: object stores have no folders to walk."""
    for found in folder.fs.find(folder.path):
        name = found[len(folder.path) :].lstrip("/")
        if not any(part.startswith(".") for part in name.split("/")):
            yield folder / name


def _files_below(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue  # also what macOS leaves beside files on foreign disks
            if not entry.is_dir():
                yield path
            else:
                yield from _files_below(path, above | {real})
