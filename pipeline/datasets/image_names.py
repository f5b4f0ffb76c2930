"""Which file a name means: names come from other machines, in other spellings.

Tried in this order, the first that any file fits: the name as it stands; with slashes for
backslashes; with accents composed otherwise (NFC, NFD); percent-decoded; in another case; with
another ending.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote

_SPELLINGS = (
    "as it stands",
    "with slashes for backslashes",
    "with its accents composed otherwise",
    "percent-decoded",
    "in another case",
    "with another ending",
)
_ANOTHER_ENDING = len(_SPELLINGS) - 1


def fold(name: str) -> str:
    """What all spellings of a file name have in common: its last part without its ending."""
    return _case(PurePosixPath(_slashed(_decoded(_slashed(name)))).stem)


def fold_stem(stem: str) -> str:
    """The same of a name that has no ending, but perhaps dots."""
    return fold(f"{stem}.any")


def best_matches(name: str, files: Sequence[str], needs_ending: bool = True) -> list[int]:
    """Positions of the files that fit a name best; several where it does not tell them apart.

    A file at the very path of the name comes before one that has its last part alone; of those,
    the ones that share most of the folders above it.

    Args:
        name: as an annotation file has it, perhaps with folders of another machine.
        files: paths relative to the folder of images, with slashes.
        needs_ending: whether the name has the ending of its file.
    """
    found = []
    for position, file in enumerate(files):
        path = file if needs_ending else _without_ending(file)
        spelling, shared = _likeness(name, path)
        if spelling is not None:
            is_whole = shared == len(PurePosixPath(path).parts) == len(_parts(name))
            found.append(((not is_whole, spelling, -shared), position))
    best = min((rank for rank, _ in found), default=None)
    return [position for rank, position in found if rank == best]


def describe_guess(name: str, file: str) -> str:
    """What was done to a name to find its file, for the report; nothing where it stands."""
    spelling, _ = _likeness(name, file)
    if spelling is None or spelling == 0:
        return ""
    return f"image name {name!r} taken as {file!r}: {_SPELLINGS[spelling]}"


def _likeness(name: str, file: str) -> tuple[int | None, int]:
    """The first spelling in which the last parts agree, and how many parts of the paths do."""
    for spelling in range(len(_SPELLINGS)):
        wanted, own = _spelled(name, spelling), _spelled(file, spelling)
        a, b = PurePosixPath(wanted).parts, PurePosixPath(own).parts
        shared = 0
        while shared < min(len(a), len(b)) and a[-1 - shared] == b[-1 - shared]:
            shared += 1
        if shared:
            return spelling, shared
    return None, 0


def _spelled(name: str, spelling: int) -> str:
    steps = (_slashed, _composed, _decoded, _case)
    for step in steps[:spelling]:
        name = step(name)
    return _without_ending(name) if spelling == _ANOTHER_ENDING else name


def _slashed(name: str) -> str:
    return name.replace("\\", "/")


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _decoded(name: str) -> str:
    return _composed(unquote(name))


def _case(name: str) -> str:
    return _composed(name.casefold())


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(_slashed(name)).parts


def _without_ending(name: str) -> str:
    path = PurePosixPath(name)
    return path.with_suffix("").as_posix() if path.name else name
