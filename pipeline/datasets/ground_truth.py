"""Accurate masks to compare with, whatever format they come in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from bpr._paths import AnyPath
from bpr.pipeline.datasets.precision_rules import PrecisionRules
from bpr.pipeline.formats.cityscapes import IMAGE_SUFFIX
from bpr.pipeline.formats.coco import ImageId
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.instance import BoolArray, Float64Array, Mask, Size

# What data sets add to the name of an image: the rest says which image it is.
_ENDINGS = ("_gtFine_instanceIds", IMAGE_SUFFIX)


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotation:
    """One object, as a person outlined it."""

    mask: Mask
    label: int  # category id; 0 where the format knows no categories
    id: int  # of the annotation in its file
    is_crowd: bool = False
    """A region of many objects of the label: nothing to find, and no fault to be in."""
    polygons: tuple[Float64Array, ...] = ()
    """What the mask was drawn from: parts x0, y0, x1, y1, ... in pixels; none of a bitmap."""
    index: int = 0
    """Position in the list of its file, where it has one."""


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """The ground truth of one image."""

    size: Size
    annotations: tuple[Annotation, ...]
    ignore: BoolArray | None = None  # (H, W), True where nothing is scored; see `ignored_pixels`
    left: tuple[LeftObject, ...] = ()  # what has no mask, or none that can be read

    @property
    def objects(self) -> tuple[Annotation, ...]:
        """The annotations that are one object each."""
        return tuple(item for item in self.annotations if not item.is_crowd)


def ignored_pixels(ignore: BoolArray) -> BoolArray | None:
    """The pixels where nothing is scored; None if there are none: metrics are faster without."""
    return ignore if ignore.any() else None


class GroundTruth(Protocol):
    """The annotated images of a data set, read one at a time."""

    @property
    def kind(self) -> str:
        """Name of the format, for reports."""

    @property
    def categories(self) -> Mapping[int, str] | None:
        """Names by category id; None where the format knows no categories."""

    @property
    def boundary_ratio(self) -> float:
        """Share of the diagonal that its users take as the width of a boundary region."""

    @property
    def rules(self) -> PrecisionRules:
        """By whose rules its users measure average precision."""

    def keys(self) -> Sequence[str]:
        """Names of the images, unique and in order, as `image_key` gives them."""

    def image_id(self, key: str) -> ImageId | None:
        """What a COCO json calls the image; None in other formats."""

    def file_name(self, key: str) -> str | None:
        """What the format calls the file of an image; None where it has but the key."""

    def files(self, key: str) -> Sequence[AnyPath]:
        """What the annotations of an image are read from."""

    def part(self, keys: Collection[str]) -> GroundTruth:
        """The same with these images alone: small to send to another process."""

    def read(self, key: str) -> AnnotatedImage:
        """Read the annotations of an image.

        Raises:
            ValueError: they cannot be read; the message says what and where.
        """


def image_key(name: str) -> str:
    """Which image a file belongs to: its name without folder, suffix and data set's ending."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    for ending in _ENDINGS:
        stem = stem.removesuffix(ending)
    return stem


def unique_keys(names: Sequence[tuple[str, str]], where: str) -> list[str]:
    """Check that no two files stand for one image.

    Args:
        names: (key, file) pairs.
        where: what holds them, for the message.

    Raises:
        ValueError: two have one key.
    """
    seen: dict[str, str] = {}
    for key, file in names:
        if key in seen:
            raise ValueError(
                f"{where}: expected one file for each image, got {seen[key]} and {file} for {key!r}"
            )
        seen[key] = file
    return list(seen)
