"""Zip archives from outside, unpacked within limits."""

from __future__ import annotations

import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_PIECE = 2**20  # bytes
_LONGEST_PART = 255  # bytes of a file's name
_ENCRYPTED = 0x1


@dataclass
class UnpackBudget:
    """What all archives of a job together may still hold."""

    files: int
    num_bytes: int


def unpack(archive: Path, folder: Path, budget: UnpackBudget, name: str) -> None:
    """Unpack an archive.

    Args:
        archive: a zip file.
        folder: is made; nothing is written outside of it.
        budget: is used up.
        name: of the archive, for messages.

    Raises:
        ValueError: the archive is damaged or encrypted, holds links or names that lead out of the
            folder, or more than the budget.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened.infolist(), budget, name)
            for path, member in members:
                with opened.open(member) as source:
                    _write(source, folder / path, budget, name)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise ValueError(f"{name}: expected a zip archive, got: {error}") from None


def _members(
    found: Sequence[zipfile.ZipInfo], budget: UnpackBudget, name: str
) -> list[tuple[PurePosixPath, zipfile.ZipInfo]]:
    """The files of an archive, checked before the first is written."""
    files = [member for member in found if not member.is_dir()]
    if len(files) > budget.files:
        raise ValueError(f"{name}: expected fewer files in all archives, got {len(files)} more")
    budget.files -= len(files)
    if sum(member.file_size for member in files) > budget.num_bytes:
        raise _too_much(name)
    paths: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for member in files:
        path = _path_of(member, name)
        if path in paths:
            raise ValueError(f"{name}: expected each file once, got {_shown(path)} twice")
        paths[path] = member
    folders = {above for path in paths for above in path.parents}
    if both := folders & paths.keys():
        raise ValueError(f"{name}: expected files or folders, got both at {_shown(min(both))}")
    return list(paths.items())


def _path_of(member: zipfile.ZipInfo, name: str) -> PurePosixPath:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    shown = _shown(path)
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise ValueError(f"{name}: expected names inside of the archive, got {shown}")
    if not str(path).isprintable() or any(
        len(part.encode("utf-8", "surrogateescape")) > _LONGEST_PART for part in path.parts
    ):
        raise ValueError(f"{name}: expected plain names of at most 255 bytes, got {shown}")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(f"{name}: expected files, got the link {shown}")
    if member.flag_bits & _ENCRYPTED:
        raise ValueError(f"{name}: expected files without a password, got {shown}")
    return path


def _write(source: object, path: Path, budget: UnpackBudget, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        # what the archive says of sizes may be false
        while piece := source.read(min(_PIECE, budget.num_bytes + 1)):  # type: ignore[attr-defined]
            budget.num_bytes -= len(piece)
            if budget.num_bytes < 0:
                raise _too_much(name)
            file.write(piece)


def _too_much(name: str) -> ValueError:
    return ValueError(f"{name}: expected fewer bytes in all archives, got more than the limit")


def _shown(path: PurePosixPath) -> str:
    text = "".join(c if c.isprintable() else "?" for c in unicodedata.normalize("NFC", str(path)))
    return text if len(text) <= 100 else text[:97] + "..."


def remove_folder(folder: Path) -> None:
    """Remove a folder and what is in it, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
