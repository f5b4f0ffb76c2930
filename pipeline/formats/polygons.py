"""Masks as polygons, within a tolerance that is stated.

Refining moves outlines by one to three pixels; simplifying them by as much would undo it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from contourpy import contour_generator

from bpr.pipeline.instance import BoolArray, Mask, Size

Points = npt.NDArray[np.float64]
"""(K, 2) x and y in pixels, closed: the last point is joined to the first."""

DEFAULT_TOLERANCE = 0.5  # pixels
MAX_TOLERANCE = 10.0
_FAR = 1e9  # pixels; no image is that large
_NEAR = 10  # times the image's size; no outline comes near it


@dataclass(frozen=True, eq=False)
class Outlines:
    """The outer outlines of a mask's parts, the largest first."""

    parts: tuple[Points, ...]
    holes: tuple[Points, ...]  # most formats have no place for them

    @property
    def num_holes(self) -> int:
        """Holes that polygons without them fill."""
        return len(self.holes)


def trace_pixels(mask: Mask, tolerance: float) -> Outlines:
    """Outlines through the centres of the outermost pixels: (x, y) is the pixel's index.

    Filled with their outline, as PIL and OpenCV fill, they give the mask (without holes) back.

    Args:
        mask: may be empty.
        tolerance: how far in pixels an outline may be from the exact one, >= 0.

    Raises:
        ValueError: a tolerance below 0 or above MAX_TOLERANCE.
    """
    _check(tolerance)
    contours, hierarchy = cv2.findContours(
        mask.bitmap.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    if not contours:
        return Outlines((), ())
    is_hole = hierarchy[0, :, 3] >= 0
    x0, y0, _, _ = mask.window
    parts: list[Points] = []
    holes: list[Points] = []
    for contour, hole in zip(contours, is_hole, strict=True):
        points = cv2.approxPolyDP(contour, tolerance, True)[:, 0].astype(np.float64)
        (holes if hole else parts).append(_at_least_a_triangle(points + np.array([x0, y0])))
    return Outlines(_by_size(parts), _by_size(holes))


def trace_edges(mask: Mask, tolerance: float) -> Outlines:
    """Outlines between the pixels: the pixel (x, y) is the square from there to (x + 1, y + 1).

    As COCO's polygons are meant. Corners are cut at half a pixel; centres stay where they were.

    Args:
        mask: may be empty.
        tolerance: how far in pixels an outline may be from that one, >= 0.

    Raises:
        ValueError: a tolerance below 0 or above MAX_TOLERANCE.
    """
    _check(tolerance)
    x0, y0, _, _ = mask.window
    padded = np.pad(mask.bitmap, 1).astype(np.float32)
    parts: list[Points] = []
    holes: list[Points] = []
    for contour in contour_generator(z=padded).lines(0.5):
        points = np.asarray(contour, np.float64)[:-1]
        # a hole's outline runs the other way round
        found = holes if _signed_area(points) < 0 else parts
        kept = cv2.approxPolyDP(points.astype(np.float32)[:, None], tolerance, True)[:, 0]
        found.append(_at_least_a_triangle(kept + np.array([x0 - 0.5, y0 - 0.5])))
    return Outlines(_by_size(parts), _by_size(holes))


def as_points(xs: Any, ys: Any) -> Points:
    """Coordinates of a json as points.

    Args:
        xs, ys: lists of numbers of one length.

    Raises:
        ValueError: other values, fewer than three points, or points that no image can have.
    """
    are_lists = isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys)
    if not are_lists or not all(type(v) in (int, float) and abs(v) < _FAR for v in (*xs, *ys)):
        raise ValueError("expected x and y of points as numbers")
    if len(xs) < 3:
        raise ValueError(f"it has no outline: {len(xs)} points")
    return np.column_stack([np.array(xs, np.float64), np.array(ys, np.float64)])


def check_near(points: Points, size: Size) -> Points:
    """The points, if they are near an image of a size.

    Raises:
        ValueError: they are not.
    """
    farthest = float(np.abs(points).max())
    if farthest > _NEAR * max(size):
        raise ValueError(f"expected points near the image, got {farthest:g}")
    return points


def fill_even_odd(outlines: Sequence[Points], size: Size) -> Mask:
    """The pixels inside an odd number of outlines, which run between the pixels.

    Args:
        outlines: near the image; those inside another one are its holes.
        size: (height, width) of the image.
    """
    windows = [point for outline in outlines for point in outline]
    low = np.clip(np.floor(np.min(windows, axis=0)).astype(np.int64) - 1, 0, size[::-1])
    high = np.clip(np.ceil(np.max(windows, axis=0)).astype(np.int64) + 1, 0, size[::-1])
    (x0, y0), (x1, y1) = low.tolist(), high.tolist()
    inside = np.zeros((y1 - y0, x1 - x0), np.bool_)
    if inside.size:
        xs, ys = np.meshgrid(np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5)
        for outline in outlines:
            _flip(outline, xs, ys, inside)
    return Mask.from_array(inside, (x0, y0), size)


def _flip(outline: Points, xs: Points, ys: Points, inside: BoolArray) -> None:
    """Turn over the pixels whose centres lie inside an outline, edge by edge."""
    first_y, left = ys[0, 0], xs[0, 0]
    for (ax, ay), (bx, by) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if ay == by:
            continue
        (lx, ly), (hx, hy) = ((ax, ay), (bx, by)) if ay < by else ((bx, by), (ax, ay))
        start = max(int(np.ceil(ly - first_y)), 0)
        stop = min(int(np.ceil(hy - first_y)), len(inside))
        if start >= stop:
            continue
        rows = np.arange(start, stop)
        cross = lx + (rows + first_y - ly) * (hx - lx) / (hy - ly)
        columns = np.clip(np.ceil(cross - left).astype(np.int64), 0, inside.shape[1])
        # to the right of an odd number of crossings is inside
        inside[start:stop] ^= np.arange(inside.shape[1]) >= columns[:, None]


def fill(points: Points, size: Size) -> Mask:
    """The pixels inside an outline through pixel indices, and those on it.

    Args:
        points: (K, 2), near the image; what leaves it is cut off.
        size: (height, width) of the image.
    """
    height, width = size
    corners = np.floor(points).astype(np.int64)
    x0, y0 = np.maximum(corners.min(axis=0), 0)
    x1, y1 = np.minimum(corners.max(axis=0) + 1, (width, height))
    if x0 >= x1 or y0 >= y1:
        return Mask.from_array(np.zeros((0, 0), np.bool_), size=size)
    canvas = np.zeros((int(y1 - y0), int(x1 - x0)), np.uint8)
    cv2.fillPoly(canvas, [(corners - (x0, y0)).astype(np.int32)], 1)
    return Mask.from_array(canvas, (int(x0), int(y0)), size)


def join(parts: Sequence[Points]) -> Points:
    """One outline of several, joined by lines to and fro between their nearest points."""
    joined = parts[0]
    for part in parts[1:]:
        apart = np.linalg.norm(joined[:, None] - part[None], axis=-1)
        here, there = np.unravel_index(int(apart.argmin()), apart.shape)
        detour = np.concatenate([np.roll(part, -there, axis=0), part[there : there + 1]])
        joined = np.concatenate([joined[: here + 1], detour, joined[here:]])
    return joined


def describe_loss(holes: int, joined: int = 0) -> list[str]:
    """What polygons could not hold, in words for the report."""
    notes = []
    if holes:
        notes.append(f"{holes} hole(s) filled: polygons have none")
    if joined:
        notes.append(f"{joined} instance(s) of several parts joined by lines into one polygon")
    return notes


def _check(tolerance: float) -> None:
    if not 0 <= tolerance <= MAX_TOLERANCE:
        raise ValueError(
            f"polygon_tolerance: expected pixels in 0..{MAX_TOLERANCE:g}, got {tolerance:g}"
        )


def _at_least_a_triangle(points: Points) -> Points:
    """Readers refuse polygons of fewer than three points: single pixels and lines repeat theirs."""
    missing = max(3 - len(points), 0)
    return np.concatenate([points, np.repeat(points[-1:], missing, axis=0)])


def _by_size(parts: list[Points]) -> tuple[Points, ...]:
    return tuple(sorted(parts, key=lambda points: -abs(_signed_area(points))))


def _signed_area(points: Points) -> float:
    x, y = points.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
