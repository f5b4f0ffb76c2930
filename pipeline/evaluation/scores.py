"""What is measured of one object and its prediction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from bpr.pipeline.instance import BoolArray, Mask
from bpr.pipeline.metrics import boundary_f, boundary_iou

SMALL, MEDIUM = 32**2, 96**2  # px; COCO's borders between small, medium and large
SIZE_CLASSES = ("small", "medium", "large")
TOLERANCES = (1, 2, 3)  # px


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How well one mask fits, each in [0, 1]."""

    mask_iou: float
    boundary_iou: float
    f_1px: float
    f_2px: float
    f_3px: float


SCORE_NAMES = tuple(field.name for field in fields(Scores))
SCORE_TITLES = {
    "mask_iou": "mask IoU",
    "boundary_iou": "Boundary IoU",
    "f_1px": "F 1 px",
    "f_2px": "F 2 px",
    "f_3px": "F 3 px",
}


def score(
    mask: Mask, gt: Mask, iou: float, dilation_ratio: float, ignore: BoolArray | None
) -> Scores:
    """Measure a mask in the windows of it and its ground truth.

    Args:
        mask: predicted.
        gt: accurate.
        iou: of the two, as the matching found it.
        dilation_ratio: of Boundary IoU.
        ignore: (H, W), True where nothing counts.
    """
    f = [boundary_f(mask, gt, tolerance, ignore) for tolerance in TOLERANCES]
    return _from_row([iou, boundary_iou(mask, gt, dilation_ratio, ignore), *f])


def mean(scores: Iterable[Scores]) -> Scores | None:
    """The mean of each score over instances; None without instances."""
    rows = [astuple(item) for item in scores]
    return _from_row(np.mean(rows, axis=0).tolist()) if rows else None


def _from_row(row: Sequence[float]) -> Scores:
    """The values in the order of `SCORE_NAMES`."""
    return Scores(**dict(zip(SCORE_NAMES, row, strict=True)))


def size_class(area: int) -> str:
    """Name the size of an object: COCO's borders, on its pixels in the ground truth."""
    return SIZE_CLASSES[int(np.searchsorted([SMALL, MEDIUM], area, side="right"))]


def as_columns(scores: Sequence[Scores]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(N, 5) float64, a column per name in `SCORE_NAMES`."""
    return np.array([astuple(item) for item in scores], np.float64).reshape(-1, len(SCORE_NAMES))
