"""Outlines of masks as SVG paths: small enough to draw every object of a data set in one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from bpr.pipeline.instance import Box, Mask, Size, grow

SIDE = 384  # px of the longer side of a drawing, at most
UNITS = 4  # of a path, per pixel of the drawing: whole numbers suffice


@dataclass(frozen=True)
class Outlined:
    """An object in a crop of its image, as lines."""

    box: Box  # of the crop in the image
    paths: tuple[str, ...]  # one per mask; empty where there is no mask


def outline_masks(masks: Sequence[Mask | None], size: Size) -> Outlined | None:
    """Trace several masks of one object.

    Args:
        masks: of the same image; None or empty: no line.
        size: (height, width) of the image.

    Returns:
        None if no mask has a pixel.
    """
    windows = [mask.window for mask in masks if mask is not None and not mask.is_empty]
    if not windows:
        return None
    x0, y0 = (min(window[axis] for window in windows) for axis in (0, 1))
    x1, y1 = (max(window[axis] for window in windows) for axis in (2, 3))
    box = grow((x0, y0, x1, y1), max((x1 - x0 + y1 - y0) // 16, 6), size)
    return Outlined(box, tuple(svg_path(mask, box) for mask in masks))


def drawing_size(box: Box) -> Size:
    """(height, width) of the drawing of a crop, in pixels: small crops are not enlarged."""
    scale = drawing_scale(box)
    return max(round((box[3] - box[1]) * scale), 1), max(round((box[2] - box[0]) * scale), 1)


def drawing_scale(box: Box) -> float:
    """Pixels of the drawing per pixel of the image, at most 1."""
    return min(SIDE / max(box[2] - box[0], box[3] - box[1]), 1)


def svg_path(mask: Mask | None, box: Box) -> str:
    """The outline of a mask inside a box, in `UNITS` per pixel of the drawing.

    The line runs through the centres of the outermost object pixels and is off by at most half a
    pixel of the drawing. Holes are outlined too.
    """
    if mask is None or mask.is_empty:
        return ""
    x0, y0, _, _ = mask.window
    contours, _ = cv2.findContours(
        mask.bitmap.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    scale = UNITS * drawing_scale(box)
    parts = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, 0.5 * UNITS / scale, True)[:, 0]
        offset = np.array([x0 - box[0] + 0.5, y0 - box[1] + 0.5])
        corners = np.rint((points + offset) * scale).astype(int)
        steps = np.diff(corners, axis=0)
        (x, y), rest = corners[0].tolist(), " ".join(f"{dx} {dy}" for dx, dy in steps.tolist())
        parts.append(f"M{x} {y}l{rest}z" if rest else f"M{x} {y}h1z")
    return "".join(parts)
