"""Coarse masks from accurate ones: the errors that real producers of masks make.

Each function takes (H, W) bool, the accurate mask of one object with some margin around it, and
a numpy Generator, and returns a coarse (H, W) bool mask. Amounts follow the object's size,
because mask heads work on a fixed grid and annotators zoom. They are deterministic in the
Generator.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from bpr.pipeline.instance import BoolArray, Float32Array, UInt8Array

MASK_HEAD_GRID = 28  # cells of the mask head of Mask R-CNN


def mask_head(gt: BoolArray, rng: np.random.Generator) -> BoolArray:
    """What a 28 x 28 mask head makes of it: jittered box, grid, blur, displaced outline."""
    x0, y0, x1, y1 = _box(gt)
    width, height = x1 - x0, y1 - y0
    jitter = rng.normal(0, 0.03, 4)
    left, right = x0 + jitter[0] * width, x1 + jitter[1] * width
    top, bottom = y0 + jitter[2] * height, y1 + jitter[3] * height
    cells_x = max(right - left, 2.0) / MASK_HEAD_GRID
    cells_y = max(bottom - top, 2.0) / MASK_HEAD_GRID
    # Smoothing by a box of one cell and sampling at the cell centres is the area average.
    blurred = cv2.blur(gt.astype(np.float32), (max(round(cells_x), 1), max(round(cells_y), 1)))
    to_image = np.array(
        [[cells_x, 0, left + cells_x / 2 - 0.5], [0, cells_y, top + cells_y / 2 - 0.5]]
    )
    grid = cv2.warpAffine(
        blurred,
        to_image,
        (MASK_HEAD_GRID, MASK_HEAD_GRID),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )
    grid = cv2.GaussianBlur(grid, (0, 0), float(rng.uniform(0.3, 1.0)))
    grid = grid + float(rng.uniform(0, 0.25)) * smooth_noise(
        rng, grid.shape, cell=rng.uniform(1.5, 6)
    )
    threshold = 0.5 + rng.normal(0, 0.05)
    pasted = cv2.warpAffine(
        grid,
        to_image,
        (gt.shape[1], gt.shape[0]),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
    )
    return np.asarray(pasted > threshold)


def polygon(gt: BoolArray, rng: np.random.Generator) -> BoolArray:
    """A quick polygon: simplified contours, vertices a little off, small holes filled."""
    diagonal = float(np.hypot(*(np.subtract(_box(gt)[2:], _box(gt)[:2]))))
    tolerance = float(rng.uniform(0.005, 0.03)) * diagonal
    contours, levels = cv2.findContours(gt.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    drawn = np.zeros(gt.shape, np.uint8)
    for is_hole in (False, True):
        for contour, level in zip(contours, levels[0] if levels is not None else (), strict=True):
            if (level[3] >= 0) != is_hole:
                continue
            if is_hole and cv2.contourArea(contour) < (2 * tolerance) ** 2:
                continue
            vertices = cv2.approxPolyDP(contour, tolerance, closed=True).astype(np.float64)
            vertices += rng.normal(0, 0.15 * tolerance, vertices.shape)
            cv2.fillPoly(drawn, [np.rint(vertices).astype(np.int32)], 0 if is_hole else 1)
    return drawn.astype(np.bool_)


def displaced_outline(gt: BoolArray, rng: np.random.Generator) -> BoolArray:
    """An outline that wanders smoothly inwards and outwards."""
    size = long_side(gt)
    amount = float(rng.uniform(0.005, 0.05)) * size
    field = smooth_noise(rng, gt.shape, cell=max(float(rng.uniform(0.05, 0.3)) * size, 3.0))
    return np.asarray(_signed_distance(gt) + amount * field > 0)


def over_or_under_segmented(gt: BoolArray, rng: np.random.Generator) -> BoolArray:
    """The whole outline too far out or too far in, with rounded corners."""
    shift = float(rng.uniform(-0.03, 0.03)) * long_side(gt)
    return np.asarray(cv2.blur(_signed_distance(gt), (5, 5)) + shift > 0)


def low_resolution(gt: BoolArray, rng: np.random.Generator) -> BoolArray:
    """A mask predicted at a fraction of the resolution and enlarged, in steps or smoothly."""
    cell = float(np.exp(rng.uniform(np.log(2), np.log(max(0.06 * long_side(gt), 3)))))
    height, width = gt.shape
    small = cv2.resize(
        gt.astype(np.float32),
        (max(round(width / cell), 1), max(round(height / cell), 1)),
        interpolation=cv2.INTER_AREA,
    )
    if rng.random() < 0.5:
        how = cv2.INTER_LINEAR
    else:
        how, small = cv2.INTER_NEAREST, (small > 0.5).astype(np.float32)
    return np.asarray(cv2.resize(small, (width, height), interpolation=how) > 0.5)


def missing_or_leaking(gt: BoolArray, rng: np.random.Generator) -> BoolArray:
    """Bites out of the object and leaks into the background, on a slightly displaced outline."""
    size = long_side(gt)
    field = smooth_noise(rng, gt.shape, max(0.1 * size, 3))
    coarse = np.asarray(_signed_distance(gt) + 0.01 * size * field > 0)
    ys, xs = np.nonzero(cv2.morphologyEx(gt.view(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3))))
    if len(xs) == 0:
        return coarse  # the object fills the view: no outline to bite into
    drawn = coarse.astype(np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(xs)))
        axes = np.maximum(rng.uniform(0.02, 0.08, 2) * size, 1).astype(int)
        cv2.ellipse(
            drawn,
            (int(xs[at]), int(ys[at])),
            (int(axes[0]), int(axes[1])),
            float(rng.uniform(0, 180)),
            0,
            360,
            int(rng.integers(2)),
            -1,
        )
    return drawn.astype(np.bool_)


def nearly_perfect(gt: BoolArray, rng: np.random.Generator) -> BoolArray:
    """About a pixel off, at most 3: what a good annotator draws. It should be left alone."""
    field = np.clip(smooth_noise(rng, gt.shape, cell=float(rng.uniform(4, 20))), -2, 2)
    return np.asarray(_signed_distance(gt) + float(rng.uniform(0, 1.2)) * field > 0)


def perfect(gt: BoolArray, rng: np.random.Generator) -> BoolArray:  # noqa: ARG001
    """No error at all."""
    return np.array(gt)


Simulator = Callable[[BoolArray, np.random.Generator], BoolArray]

SIMULATORS: dict[Simulator, float] = {
    mask_head: 0.34,
    polygon: 0.18,
    displaced_outline: 0.10,
    over_or_under_segmented: 0.06,
    low_resolution: 0.08,
    missing_or_leaking: 0.06,
    nearly_perfect: 0.09,
    perfect: 0.09,
}
"""The kinds of error, and how often `simulate_coarse_mask` draws each."""


def simulate_coarse_mask(gt: BoolArray, rng: np.random.Generator) -> BoolArray:
    """Draw one kind of error and make it.

    Args:
        gt: (H, W) bool, the accurate mask; not empty.
        rng: the only source of chance.

    Returns:
        (H, W) bool coarse mask; the accurate one where the error would have left nothing.
    """
    kinds = list(SIMULATORS)
    kind = kinds[int(rng.choice(len(kinds), p=list(SIMULATORS.values())))]
    coarse = kind(gt, rng)
    return coarse if coarse.any() else gt.copy()


def _box(gt: BoolArray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(gt.any(axis=1)), np.flatnonzero(gt.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def long_side(gt: BoolArray) -> float:
    """The longer side of an object's box in pixels."""
    x0, y0, x1, y1 = _box(gt)
    return float(max(x1 - x0, y1 - y0))


def _signed_distance(gt: BoolArray) -> Float32Array:
    """Distance to the outline in pixels, positive inside; the outline runs between pixels."""
    inside = gt.view(np.uint8)
    outside: UInt8Array = 1 - inside
    if not outside.any():
        return np.full(gt.shape, max(gt.shape), np.float32)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3) - cv2.distanceTransform(
        outside, cv2.DIST_L2, 3
    )
    return np.asarray(distance - np.where(gt, 0.5, -0.5), np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], cell: float) -> Float32Array:
    """Noise of standard deviation about 1 that varies over `cell` pixels."""
    height, width = shape[0], shape[1]
    small = rng.normal(size=(int(height / cell) + 2, int(width / cell) + 2)).astype(np.float32)
    noise = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(1.3 * noise, np.float32)
