"""Files that are either there as a whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path


def write_atomically(
    path: Path, content: bytes | Iterable[bytes], partial_folder: Path | None = None
) -> str:
    """Write a file under a temporary name and rename it.

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
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces = [content] if isinstance(content, bytes) else content
    digest = hashlib.sha256()
    partial = (partial_folder or path.parent) / f"{uuid.uuid4().hex}.partial"
    try:
        with partial.open("xb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # not the temporary name, or none
        raise
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def stamp(path: Path) -> str:
    """Tell a file's content from another without reading it: size and time of change."""
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"


def find_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted.

    Links to folders are followed, but not into a folder that they lie in; hidden files and
    folders are passed over.

    Raises:
        OSError: a folder cannot be read.
    """
    return sorted(_files_below(folder, frozenset()))


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
