"""Plain folders of mask files: which image each of them belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.files import find_files
from bpr.pipeline.formats.images import IMAGE_SUFFIXES


@dataclass(frozen=True)
class MaskFolder:
    """The mask files below a folder, by image."""

    files: Mapping[Path, Sequence[Path]]  # image -> its mask files, sorted
    strays: Mapping[Path, str]  # mask files without an image, and what was looked for


def group_masks(folder: Path, images: ImageIndex, without: Path) -> MaskFolder:
    """Find the image of each mask file below a folder.

    A file is the mask of `<image>` where it is called `<image>.png`, `<image>_<anything>.png` (the
    longest such image), or lies in a folder `<image>`.

    Args:
        folder: of mask files.
        images: the photographs.
        without: a folder, perhaps inside, whose files are results and not input.
    """
    results = without.resolve()
    files: dict[Path, list[Path]] = {}
    strays = {}
    for path in find_files(folder):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.resolve().is_relative_to(results):
            continue
        try:
            files.setdefault(_find_image(path, folder, images), []).append(path)
        except ValueError as error:
            strays[path] = str(error)
    return MaskFolder(files, strays)


def _find_image(path: Path, folder: Path, images: ImageIndex) -> Path:
    """The image of a mask file. ValueError: none, or several."""
    words = path.stem.split("_")
    names = ["_".join(words[:count]) for count in range(len(words), 0, -1)]
    inside = path.relative_to(folder).parent
    if inside.name:
        names.append(inside.name)
    return images.find(names, inside.as_posix())
