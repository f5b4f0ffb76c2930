"""What a detector finds in an image, and its masks in the image's own pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class PastedMask(NamedTuple):
    """A mask where it lies; outside its window there is nothing."""

    window: tuple[int, int, int, int]  # x0, y0, x1, y1, end exclusive, inside the image
    bitmap: Tensor  # (y1 - y0, x1 - x0) bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Detections:
    """The instances of one image, best first, on the detector's device."""

    boxes: Tensor  # (N, 4) float32 x0, y0, x1, y1 in pixels, inside the image
    labels: Tensor  # (N,) int64, 1 to the number of categories
    scores: Tensor  # (N,) float32 in [0, 1]
    mask_probabilities: Tensor  # (N, S, S) float32 in [0, 1], over the box
    size: tuple[int, int]  # height, width of the image
    keypoints: Tensor | None = None  # (N, K, 3) float32 x, y in pixels, logit; None: no such head

    def __len__(self) -> int:
        return len(self.boxes)

    def windows(self) -> Iterator[PastedMask]:
        """The masks one at a time, each as large as its box."""
        for box, probability in zip(self.boxes, self.mask_probabilities, strict=True):
            yield paste(probability, box, self.size)

    def masks(self) -> Iterator[Tensor]:
        """The masks one at a time, each (H, W) bool."""
        for (x0, y0, x1, y1), bitmap in self.windows():
            mask = bitmap.new_zeros(self.size)
            mask[y0:y1, x0:x1] = bitmap
            yield mask


def paste(probability: Tensor, box: Tensor, size: tuple[int, int]) -> PastedMask:
    """Stretch a mask over its box: a pixel belongs to it where its centre has at least 0.5.

    Args:
        probability: (S, S) in [0, 1].
        box: (4,) x0, y0, x1, y1 in pixels, not rounded.
        size: height, width of the image.

    Returns:
        The window is empty where the box is, or lies outside the image.

    Source: detectron2, `paste_masks_in_image`; torchvision's rounds boxes and adds a pixel, by
    which masks grow a third of a pixel along the whole contour.
    """
    x0, y0, x1, y1 = box.tolist()
    height, width = size
    left, right = _pixels(x0, x1, width)
    top, bottom = _pixels(y0, y1, height)
    if not (left < right and top < bottom):
        empty = torch.zeros((0, 0), dtype=torch.bool, device=probability.device)
        return PastedMask((0, 0, 0, 0), empty)
    # positions of the pixels' centres in the mask, from -1 to 1, in the reference's order
    box = box.float()
    rows, columns = (
        (torch.arange(start, end, device=box.device, dtype=torch.float32) + 0.5 - box[low])
        / (box[low + 2] - box[low])
        * 2
        - 1
        for start, end, low in ((top, bottom, 1), (left, right, 0))
    )
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    pasted = functional.grid_sample(
        probability[None, None].float(), grid[None], align_corners=False
    )
    return PastedMask((left, top, right, bottom), pasted[0, 0] >= 0.5)


def _pixels(start: float, end: float, side: int) -> tuple[int, int]:
    """Pixels that a box touches on one axis, within the image."""
    if not (math.isfinite(start) and math.isfinite(end) and start < end):
        return 0, 0
    return max(math.floor(start), 0), min(math.ceil(end), side)
