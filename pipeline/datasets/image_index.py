"""Finding the image file that a prediction belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from pathlib import Path, PurePosixPath

from bpr.pipeline.files import WORK, find_files
from bpr.pipeline.formats.images import IMAGE_SUFFIXES


class ImageIndex:
    """The image files below a folder, by stem; see `find_files`.

    Subfolders in which a command has left its results hold no images: masks are PNGs too.

    Args:
        folder: of images.
        without: a folder, perhaps inside, whose files are results and not images.

    Raises:
        ValueError: the folder is missing or holds no images.
    """

    def __init__(self, folder: Path, without: Path | None = None) -> None:
        if not folder.is_dir():
            got = "got a file" if folder.exists() else "found none"
            raise ValueError(f"{folder}: expected a folder of images, {got}")
        self.folder = folder
        self._by_stem: dict[str, list[Path]] = {}
        results = without.resolve() if without is not None else None
        if results is not None and not results.is_relative_to(folder.resolve()):
            results = None
        holds_results = {folder: False}
        for path in find_files(folder):
            if path.suffix.lower() not in IMAGE_SUFFIXES or _is_result(path.parent, holds_results):
                continue
            if results is None or not path.resolve().is_relative_to(results):
                self._by_stem.setdefault(path.stem, []).append(path)
        if not self._by_stem:
            raise ValueError(f"{folder}: expected images ({_suffixes()}), found none")

    def files(self) -> list[Path]:
        """All images, sorted."""
        return sorted(path for found in self._by_stem.values() for path in found)

    def part(self, stems: Iterable[str]) -> ImageIndex:
        """The same with images of these stems alone: small to send to another process."""
        part = copy(self)
        part._by_stem = {stem: self._by_stem[stem] for stem in stems if stem in self._by_stem}
        return part

    def find(self, stems: Sequence[str], inside: str | None = None) -> Path:
        """The one image with the first of the stems that any image has.

        Args:
            stems: in the order of preference.
            inside: the subfolder, "" for none, whose image is meant where several have one stem.

        Raises:
            ValueError: no image, or two with the same stem.
        """
        for stem in stems:
            found = self._by_stem.get(stem, [])
            if inside is not None and len(found) > 1:
                own = [p for p in found if p.parent == self.folder / inside]
                found = own or found
            if len({path.resolve() for path in found}) > 1:  # links to one file are one
                names = ", ".join(str(path.relative_to(self.folder)) for path in found)
                raise ValueError(
                    f"{self.folder}: expected one image with the stem {stem!r}, "
                    f"found {len(found)}: {names}"
                )
            if found:
                return found[0]
        wanted = " or ".join(f"{stem}.*" for stem in stems)
        raise ValueError(f"{self.folder}: expected an image {wanted} ({_suffixes()}), found none")

    def find_name(self, name: str) -> Path:
        """The image of a file name that an annotation file gives.

        It is looked for at its path below the folder, then by its last part anywhere below.

        Raises:
            ValueError: no image, or two of that name and none at its path.
        """
        wanted = PurePosixPath(name)
        found = [path for path in self._by_stem.get(wanted.stem, []) if path.name == wanted.name]
        for path in found:
            if path.relative_to(self.folder).as_posix() == wanted.as_posix():
                return path
        if len({path.resolve() for path in found}) == 1:
            return found[0]
        names = ", ".join(str(path.relative_to(self.folder)) for path in found)
        raise ValueError(
            f"{self.folder}: expected one image {name!r}, found {names or 'none'} ({_suffixes()})"
        )


def _is_result(folder: Path, known: dict[Path, bool]) -> bool:
    """A command has written into the folder, or one above it; `known` begins with the uppermost."""
    if folder not in known:
        known[folder] = (folder / WORK).is_dir() or _is_result(folder.parent, known)
    return known[folder]


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))
