"""Masks as polygons, within a tolerance that is stated.

Refining moves outlines by one to three pixels; simplifying them by as much would undo it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from contourpy import contour_generator

from bpr.pipeline.instance import Mask, Size

Points = npt.NDArray[np.float64]
"""(K, 2) x and y in pixels, closed: the last point is joined to the first."""

DEFAULT_TOLERANCE = 0.5  # pixels
MAX_TOLERANCE = 10.0


@dataclass(frozen=True, eq=False)
class Outlines:
    """The outer outlines of a mask's parts, the largest first."""

    parts: tuple[Points, ...]
    num_holes: int  # that no polygon of these formats can have


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
        return Outlines((), 0)
    is_hole = hierarchy[0, :, 3] >= 0
    x0, y0, _, _ = mask.window
    parts = []
    for contour, hole in zip(contours, is_hole, strict=True):
        if not hole:
            points = cv2.approxPolyDP(contour, tolerance, True)[:, 0].astype(np.float64)
            parts.append(_at_least_a_triangle(points + np.array([x0, y0])))
    return Outlines(_by_size(parts), int(is_hole.sum()))


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
    parts, num_holes = [], 0
    for contour in contour_generator(z=padded).lines(0.5):
        points = np.asarray(contour, np.float64)[:-1]
        if _signed_area(points) < 0:  # a hole's outline runs the other way round
            num_holes += 1
        else:
            kept = cv2.approxPolyDP(points.astype(np.float32)[:, None], tolerance, True)[:, 0]
            parts.append(_at_least_a_triangle(kept + np.array([x0 - 0.5, y0 - 0.5])))
    return Outlines(_by_size(parts), num_holes)


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
