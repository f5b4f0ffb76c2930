"""The photograph that belongs to an image of the ground truth."""

from __future__ import annotations

from bpr._paths import AnyPath
from bpr.pipeline.datasets.ground_truth import GroundTruth
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.formats.cityscapes import image_stems
from bpr.pipeline.formats.frame import Frame
from bpr.pipeline.formats.images import read_image
from bpr.pipeline.instance import Size, UInt8Array, size_text


def find_photograph(images: ImageIndex, truth: GroundTruth, key: str) -> AnyPath:
    """The file of an image: by its name where the ground truth has it, else by the stem.

    Raises:
        ValueError: there is none, or several.
    """
    name = truth.file_name(key)
    return images.find(image_stems(key)) if name is None else images.find_name(name)


def photograph_names(truth: GroundTruth, key: str) -> list[str]:
    """What the file of an image may be called, for `ImageIndex.part`."""
    name = truth.file_name(key)
    return image_stems(key) if name is None else [name]


def read_photograph(path: AnyPath, size: Size) -> UInt8Array:
    """Read the photograph of ground truth.

    Args:
        path: of the image file.
        size: (height, width) of the ground truth.

    Returns:
        (H, W, 3) RGB.

    Raises:
        ValueError: it is unreadable or of another size.
    """
    photograph = read_image(path, Frame(bitmaps=size))
    if photograph.size != size:
        raise ValueError(
            f"{path}: expected an image of the size of its ground truth, {size_text(size)}, got "
            f"{size_text(photograph.size)}"
        )
    return photograph.pixels
