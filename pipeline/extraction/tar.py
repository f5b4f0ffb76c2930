"""Tar files whose bytes depend on the names and contents in them alone."""

from __future__ import annotations

import tarfile


def tar_member(name: str, content: bytes) -> bytes:
    """A file in a tar: its header, its content from byte `tarfile.BLOCKSIZE` on, and padding.

    Time, owner and mode are always the same. For webdataset the files of one sample stand
    together, and its key, the part of the name before the first dot, has no dot.

    Args:
        name: at most 100 characters.
        content: of the file.
    """
    member = tarfile.TarInfo(name)  # mtime, uid and gid are 0, names of owners empty
    member.size = len(content)
    header = member.tobuf(tarfile.USTAR_FORMAT)
    return header + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def tar_end(size: int) -> bytes:
    """What follows the last member: two empty blocks, up to a whole record.

    Args:
        size: bytes of all members.
    """
    end = 2 * tarfile.BLOCKSIZE
    return bytes(end + -(size + end) % tarfile.RECORDSIZE)
