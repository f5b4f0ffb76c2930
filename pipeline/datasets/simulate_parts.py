"""Coarse masks with the errors of real networks: whole parts missing or too much, and small ones.

As in `pipeline.simulate`, each function takes the accurate mask, (H, W) bool, and a Generator, and
returns a coarse mask.
"""

from __future__ import annotations

import cv2
import numpy as np

from bpr.pipeline.datasets.simulate import displaced_outline, long_side, mask_head, smooth_noise
from bpr.pipeline.instance import BoolArray, UInt8Array

SMALL = 3  # pixels that a small error reaches at most


def small_error(gt: BoolArray, rng: np.random.Generator) -> BoolArray:
    """Moved by up to 3 px, grown or shrunk by up to 3 px, corners rounded: a good mask."""
    mask = gt.view(np.uint8)
    if rng.random() < 0.7:
        shift = rng.uniform(-SMALL, SMALL, 2)
        matrix = np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]])
        size = (gt.shape[1], gt.shape[0])
        mask = cv2.warpAffine(
            mask, matrix, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
        )
    change = int(rng.integers(-SMALL, SMALL + 1)) if rng.random() < 0.6 else 0
    if change:
        mask = (cv2.dilate if change > 0 else cv2.erode)(mask, _disk(abs(change)))
    if rng.random() < 0.5:
        mask = np.asarray(cv2.medianBlur(mask, int(2 * rng.integers(1, 4) + 1)), np.uint8)
    return np.asarray(mask != 0)


def lost_and_added_parts(gt: BoolArray, rng: np.random.Generator) -> BoolArray:
    """What a weak network finds: thin parts lost, gaps filled, pieces cut off or swallowed."""
    size = long_side(gt)
    coarse = (mask_head if rng.random() < 0.6 else displaced_outline)(gt, rng).view(np.uint8)
    if rng.random() < 0.5:  # legs, arms, tails: what an opening takes off
        opened = cv2.morphologyEx(coarse, cv2.MORPH_OPEN, _disk(_radius(0.02, 0.07, size, rng)))
        coarse = _change_some(coarse, opened, rng)
    if rng.random() < 0.5:  # between legs, under arms: what a closing fills
        closed = cv2.morphologyEx(coarse, cv2.MORPH_CLOSE, _disk(_radius(0.02, 0.08, size, rng)))
        coarse = _change_some(coarse, closed, rng)
    for value, chance in ((0, 0.35), (1, 0.45)):
        if rng.random() < chance:
            coarse[_piece(coarse, 0.5 * float(rng.uniform(0.12, 0.45)) * size, rng)] = value
    return np.asarray(coarse != 0)


def _piece(mask: UInt8Array, radius: float, rng: np.random.Generator) -> BoolArray:
    """A blob with its centre on the mask's outline."""
    ys, xs = np.nonzero(cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)))
    if len(xs) == 0:
        return np.zeros(mask.shape, np.bool_)
    at = int(rng.integers(len(xs)))
    y, x = np.ogrid[: mask.shape[0], : mask.shape[1]]
    stretch = float(np.exp(rng.uniform(-0.5, 0.5)))
    distance = np.hypot((x - xs[at]) * stretch, (y - ys[at]) / stretch) / radius
    return np.asarray(distance + 0.35 * smooth_noise(rng, mask.shape, max(radius, 3)) < 1)


def _change_some(mask: UInt8Array, changed: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Take over each connected change with a chance of 60 %."""
    count, parts = cv2.connectedComponents((mask != changed).astype(np.uint8))
    taken = np.asarray(rng.random(count) < 0.6)
    taken[0] = False
    return np.where(taken[parts], changed, mask)


def _radius(low: float, high: float, size: float, rng: np.random.Generator) -> int:
    return max(round(float(rng.uniform(low, high)) * size), 1)


def _disk(radius: int) -> UInt8Array:
    side = 2 * radius + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
