"""Files that are either there as a whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable
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
        OSError: the disk is full or the folder not writable. Nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces = [content] if isinstance(content, bytes) else content
    digest = hashlib.sha256()
    handle, name = tempfile.mkstemp(dir=partial_folder or path.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
        # mkstemp makes files private; results are as public as the user's umask allows
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
