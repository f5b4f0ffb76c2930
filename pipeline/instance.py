"""What flows through the pipeline: masks, instances, predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
UInt8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

Size = tuple[int, int]
"""(height, width) in pixels."""

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels, end exclusive."""


def size_text(size: Size) -> str:
    """A size as people write it: "1024 x 512 pixels", width first."""
    return f"{size[1]} x {size[0]} pixels"


def grow(box: Box, margin: int, size: Size) -> Box:
    """A box larger by a margin on all sides, cut at the image."""
    x0, y0, x1, y1 = box
    height, width = size
    return (
        max(x0 - margin, 0),
        max(y0 - margin, 0),
        min(x1 + margin, width),
        min(y1 + margin, height),
    )


@dataclass(frozen=True, eq=False)
class Mask:
    """A binary mask, kept as the bitmap of its window: its cost follows the object.

    Pixels outside the window are background. An empty mask has the window (0, 0, 0, 0).
    """

    bitmap: BoolArray  # (y1 - y0, x1 - x0), read-only
    window: Box  # the box of the image that the bitmap covers
    size: Size  # of the whole image

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.window
        height, width = self.size
        if not (0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height):
            raise ValueError(
                f"window: expected a box inside {width} x {height} (width x height), "
                f"got {self.window}"
            )
        if self.bitmap.dtype != np.bool_ or self.bitmap.shape != (y1 - y0, x1 - x0):
            raise ValueError(
                f"bitmap: expected bool of shape {(y1 - y0, x1 - x0)}, "
                f"got {self.bitmap.dtype} of shape {self.bitmap.shape}"
            )
        self.bitmap.setflags(write=False)

    @classmethod
    def from_array(
        cls, array: npt.NDArray[Any], offset: tuple[int, int] = (0, 0), size: Size | None = None
    ) -> Mask:
        """Wrap an array, cut to the tight window of its non-zero pixels.

        Args:
            array: (h, w) of any type; non-zero is the object.
            offset: (x, y) of the array's first pixel in the image.
            size: of the image; the array's own where it is the whole image.
        """
        if array.ndim != 2:
            raise ValueError(f"mask: expected shape (height, width), got {array.shape}")
        size = size if size is not None else (array.shape[0], array.shape[1])
        # reduce, not nonzero: a frame-sized array costs two passes and no index arrays
        rows = np.flatnonzero(array.any(axis=1))
        if rows.size == 0:
            return cls(np.zeros((0, 0), np.bool_), (0, 0, 0, 0), size)
        y0, y1 = int(rows[0]), int(rows[-1]) + 1
        columns = np.flatnonzero(array[y0:y1].any(axis=0))
        x0, x1 = int(columns[0]), int(columns[-1]) + 1
        bitmap = array[y0:y1, x0:x1] != 0
        dx, dy = offset
        return cls(bitmap, (x0 + dx, y0 + dy, x1 + dx, y1 + dy), size)

    @property
    def is_empty(self) -> bool:
        """No pixel belongs to the object."""
        return not self.bitmap.any()

    @property
    def area(self) -> int:
        """Number of object pixels."""
        return int(np.count_nonzero(self.bitmap))

    def read(self, box: Box) -> BoolArray:
        """Cut a box, which may leave the window and the image: False there.

        Returns:
            (y1 - y0, x1 - x0) bool, a fresh array.
        """
        return _read(self.bitmap, self.window, box)

    def to_array(self) -> BoolArray:
        """The mask over the whole image, (height, width) bool."""
        return self.read((0, 0, self.size[1], self.size[0]))


@dataclass(frozen=True, eq=False)
class SoftMask:
    """How sure the network is of each pixel, kept as the bitmap of a window.

    Outside the window the probability is 0.
    """

    values: UInt8Array  # (y1 - y0, x1 - x0), 255 times the probability; above 127 is the object
    window: Box  # the box of the image that the values cover
    size: Size  # of the whole image

    @classmethod
    def of_mask(cls, mask: Mask) -> SoftMask:
        """0 and 255: the mask itself."""
        return cls(mask.bitmap * np.uint8(255), mask.window, mask.size)

    @classmethod
    def of_probability(cls, probability: Float32Array, window: Box, size: Size) -> SoftMask:
        """Round probabilities, (h, w) in [0, 1], so that above 0.5 stays above 127."""
        values = np.ceil(probability * np.float32(256)) - 1
        return cls(values.clip(0, 255).astype(np.uint8), window, size)

    def read(self, box: Box) -> UInt8Array:
        """Cut a box, which may leave the window and the image: 0 there.

        Returns:
            (y1 - y0, x1 - x0) uint8, a fresh array.
        """
        return _read(self.values, self.window, box)

    def to_array(self) -> UInt8Array:
        """The values over the whole image, (height, width) uint8."""
        return self.read((0, 0, self.size[1], self.size[0]))

    def agreeing(self, mask: Mask) -> SoftMask:
        """The same, moved to the side of 127 that a mask says: the mask is the last word."""
        windows = np.array([self.window, mask.window] if not mask.is_empty else [self.window] * 2)
        x0, y0 = windows[:, :2].min(axis=0).tolist()
        x1, y1 = windows[:, 2:].max(axis=0).tolist()
        box = (x0, y0, x1, y1)
        values, inside = self.read(box), mask.read(box)
        agreeing = np.where(inside, np.maximum(values, 128), np.minimum(values, 127))
        return SoftMask(agreeing.astype(np.uint8), box, self.size)


def common_box(first: Box, second: Box) -> Box | None:
    """What two boxes have in common; None where that is nothing."""
    x0, y0 = max(first[0], second[0]), max(first[1], second[1])
    x1, y1 = min(first[2], second[2]), min(first[3], second[3])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _read(bitmap: npt.NDArray[Any], window: Box, box: Box) -> npt.NDArray[Any]:
    x0, y0, x1, y1 = box
    out = np.zeros((y1 - y0, x1 - x0), bitmap.dtype)
    common = common_box(window, box)
    if common is not None:
        cx0, cy0, cx1, cy1 = common
        out[cy0 - y0 : cy1 - y0, cx0 - x0 : cx1 - x0] = bitmap[
            cy0 - window[1] : cy1 - window[1], cx0 - window[0] : cx1 - window[0]
        ]
    return out


def paint(
    pixels: npt.NDArray[Any],
    masks: Sequence[Mask],
    values: Sequence[Any],
    scores: Sequence[float],
) -> None:
    """Paint masks into one map.

    Where masks overlap, the one with the higher score is seen; among equals, the earlier one.

    Args:
        pixels: (H, W) of any type, painted into.
        masks: of the same size.
        values: one per mask.
        scores: one per mask.
    """
    for index in sorted(range(len(masks)), key=lambda index: (scores[index], -index)):
        x0, y0, x1, y1 = masks[index].window
        pixels[y0:y1, x0:x1][masks[index].bitmap] = values[index]


def differing_pixels(first: Mask, second: Mask) -> int:
    """Pixels in which two masks of one image differ."""
    common = int(np.count_nonzero(first.bitmap & second.read(first.window)))
    return first.area + second.area - 2 * common


@dataclass(frozen=True, eq=False, kw_only=True)
class Instance:
    """One object predicted in one image."""

    mask: Mask
    label: int  # category id of the data set, kept as it came
    score: float  # detector confidence, usually in [0, 1]
    record: Mapping[str, Any] = field(default_factory=dict)
    """What the file format said besides (file name, further fields): carried along for it."""
    soft: SoftMask | None = None
    """Probabilities of a refined mask, where they were asked for."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """All instances predicted in one image, in the order of their file."""

    size: Size  # of the image
    instances: tuple[Instance, ...]

    def __post_init__(self) -> None:
        for index, instance in enumerate(self.instances):
            if instance.mask.size != self.size:
                raise ValueError(
                    f"instance {index}: expected a mask of {self.size} (height, width), "
                    f"got {instance.mask.size}"
                )
