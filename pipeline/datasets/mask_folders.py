"""Plain folders of mask files: which image each of them belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bpr._paths import AnyPath
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.files import find_files
from bpr.pipeline.formats.cityscapes import image_stems
from bpr.pipeline.formats.images import IMAGE_SUFFIXES, read_map
from bpr.pipeline.formats.label_maps import looks_like_label_map

_LABEL_IDS = ("labelids", "trainids")  # ends of names of Cityscapes
_INSTANCE_IDS = ("instanceids",)
_CLASS_FOLDER = "segmentationclass"  # of Pascal VOC
_SAMPLE = 12  # maps that are looked at


def are_label_maps(pictures: Sequence[AnyPath]) -> bool:
    """Whether files are label maps of classes: told by names, else by some of the files."""
    if any(
        _ends(path, _LABEL_IDS) or path.parent.name.lower() == _CLASS_FOLDER for path in pictures
    ):
        return True
    step = max(len(pictures) // _SAMPLE, 1)
    looks = [_looks_like_label_map(path) for path in pictures[::step][:_SAMPLE]]
    return bool(looks) and 2 * sum(looks) > len(looks)


def of_one_kind(pictures: Sequence[AnyPath], wants_label_maps: bool) -> list[AnyPath]:
    """The files of one kind where Cityscapes has several for each image."""
    wanted = _LABEL_IDS if wants_label_maps else _INSTANCE_IDS
    found = [path for path in pictures if _ends(path, wanted)]
    if wants_label_maps and len({path.stem.lower()[-8:] for path in found}) > 1:
        found = [path for path in found if _ends(path, _LABEL_IDS[:1])]  # of both, the whole ids
    return found or list(pictures)


def _ends(path: AnyPath, ends: tuple[str, ...]) -> bool:
    return path.stem.lower().endswith(ends)


def _looks_like_label_map(path: AnyPath) -> bool:
    try:
        values, is_palette = read_map(path)
    except ValueError:
        return False
    return looks_like_label_map(values, is_palette)


@dataclass(frozen=True)
class MaskFolder:
    """The mask files below a folder, by image."""

    files: Mapping[AnyPath, Sequence[AnyPath]]  # image -> its mask files, sorted
    strays: Mapping[AnyPath, str]  # mask files without an image, and what was looked for


def group_masks(
    folder: AnyPath, images: ImageIndex, without: AnyPath, wants_label_maps: bool = False
) -> MaskFolder:
    """Find the image of each mask file below a folder.

    A file is the mask of `<image>` where it is called `<image>.png`, `<image>_<anything>.png` (the
    longest such image), or lies in a folder `<image>`.

    Args:
        folder: of mask files.
        images: the photographs.
        without: a folder, perhaps inside, whose files are results and not input.
        wants_label_maps: of maps of Cityscapes, take those of labels and not of instances.
    """
    results = without.resolve()
    files: dict[AnyPath, list[AnyPath]] = {}
    strays = {}
    pictures = [
        path
        for path in find_files(folder)
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.resolve().is_relative_to(results)
    ]
    for path in of_one_kind(pictures, wants_label_maps):
        try:
            files.setdefault(_find_image(path, folder, images), []).append(path)
        except ValueError as error:
            strays[path] = str(error)
    return MaskFolder(files, strays)


def _find_image(path: AnyPath, folder: AnyPath, images: ImageIndex) -> AnyPath:
    """The image of a mask file. ValueError: none, or several."""
    words = path.stem.split("_")
    stems = ["_".join(words[:count]) for count in range(len(words), 0, -1)]
    names = [name for stem in stems for name in image_stems(stem)]
    inside = path.relative_to(folder).parent
    if inside.name:
        names.append(inside.name)
    return images.find(names, inside.as_posix())
