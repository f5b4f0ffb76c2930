"""Finding the image file that a prediction belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.images import IMAGE_SUFFIXES


class ImageIndex:
    """The image files below a folder, by stem.

    Raises:
        ValueError: the folder is missing or holds no images.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder}: expected a folder of images, found none")
        self.folder = folder
        self._by_stem: dict[str, list[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                self._by_stem.setdefault(path.stem, []).append(path)
        if not self._by_stem:
            raise ValueError(f"{folder}: expected images ({_suffixes()}), found none")

    def find(self, stems: Sequence[str]) -> Path:
        """The one image with the first of the stems that any image has.

        Raises:
            ValueError: no image, or two with the same stem.
        """
        for stem in stems:
            found = self._by_stem.get(stem, [])
            if len(found) > 1:
                names = ", ".join(str(path.relative_to(self.folder)) for path in found)
                raise ValueError(
                    f"{self.folder}: expected one image with the stem {stem!r}, "
                    f"found {len(found)}: {names}"
                )
            if found:
                return found[0]
        wanted = " or ".join(f"{stem}.*" for stem in stems)
        raise ValueError(f"{self.folder}: expected an image {wanted} ({_suffixes()}), found none")


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))
