"""How many pixels are right near the outline of an object, and away from it.

Source: Zhang et al., RefineMask, CVPR 2021 (arXiv:2104.08569), figure 1 and section 3.3: the
boundary region holds the pixels nearer to the outline than d. There masks are resized to a fixed
size first, of which d is 2 pixels of 28: here d is that share of the object's own size, so that
no mask is resized. Pixels away from the outline are those of the windows of both masks: of the
whole image nearly all would be right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from bpr.pipeline.instance import BoolArray, Mask

SHARE = 2 / 28
"""Of the object's size, the square root of its window's area: the distance d."""


@dataclass(frozen=True, kw_only=True)
class PixelAccuracy:
    """Share of right pixels of one mask, each in [0, 1]; NaN without such pixels."""

    boundary: float
    away: float


def pixel_accuracy(mask: Mask, gt: Mask, ignore: BoolArray | None = None) -> PixelAccuracy:
    """Compare a mask with the truth, near the outline and away from it.

    Args:
        mask: predicted.
        gt: accurate, not empty.
        ignore: (height, width) of the image, True where nothing counts.
    """
    left, top, right, bottom = gt.window
    distance = max(1.0, SHARE * math.sqrt((right - left) * (bottom - top)))
    edge = math.ceil(distance)
    height, width = gt.size
    windows = (gt.window, mask.window) if not mask.is_empty else (gt.window,)
    x0 = max(min(window[0] for window in windows) - edge, 0)
    y0 = max(min(window[1] for window in windows) - edge, 0)
    x1 = min(max(window[2] for window in windows) + edge, width)
    y1 = min(max(window[3] for window in windows) + edge, height)
    # a frame of background, so that an object that fills the part has an outline too
    truth = gt.read((x0 - 1, y0 - 1, x1 + 1, y1 + 1)).view(np.uint8)
    inner, outer = (
        cv2.distanceTransform(side, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        for side in (truth, 1 - truth)
    )
    near = np.maximum(inner, outer)[1:-1, 1:-1] <= distance
    is_right = mask.read((x0, y0, x1, y1)) == (truth[1:-1, 1:-1] != 0)
    counts = np.ones(near.shape, np.bool_) if ignore is None else ~ignore[y0:y1, x0:x1]
    return PixelAccuracy(
        boundary=_share(is_right, near & counts), away=_share(is_right, ~near & counts)
    )


def mean_accuracy(found: Sequence[PixelAccuracy]) -> PixelAccuracy:
    """The mean over objects, of each without NaN."""
    return PixelAccuracy(
        boundary=_mean([item.boundary for item in found]), away=_mean([item.away for item in found])
    )


def _share(is_right: BoolArray, chosen: BoolArray) -> float:
    number = int(np.count_nonzero(chosen))
    return int(np.count_nonzero(is_right & chosen)) / number if number else math.nan


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
