"""Picture strips of one object: where it is, and a close-up before, after and as it should be."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import cv2
import numpy as np

from bpr.pipeline.evaluation.result import Picture
from bpr.pipeline.formats.images import encode_png
from bpr.pipeline.instance import BoolArray, Box, Size, UInt8Array, grow

SIDE = 240  # px of every panel, at most
CLOSEUP = 80  # px of the image at most in a close-up, which is then enlarged three times
LIGHT = {"before": (230, 159, 0), "after": (86, 180, 233), "gt": (240, 228, 66)}
"""Colours of the outlines: Okabe and Ito's, told apart with every kind of colour vision."""
_INK = (20, 20, 20)
_FRAME = (255, 255, 255)
_MISSING: UInt8Array = np.full((1, 1, 3), 128, np.uint8)


@dataclass(frozen=True, eq=False, kw_only=True)
class Strip:
    """Panels of one object, RGB."""

    overview: UInt8Array  # the whole object, the place of the close-up framed
    crop: UInt8Array  # the close-up without outlines
    before: UInt8Array
    after: UInt8Array
    gt: UInt8Array
    box: Box  # of the close-up in the image


def draw_strip(image: UInt8Array | None, picture: Picture) -> Strip:
    """Draw an object.

    Args:
        image: (H, W, 3) RGB; None: masks are drawn on grey.
        picture: its masks.
    """
    size = picture.gt.size
    around = _around(picture, size)
    box = closeup_box(picture)
    x0, y0, x1, y1 = box
    plain = image[y0:y1, x0:x1] if image is not None else _grey(box)
    scale = max(SIDE // max(x1 - x0, y1 - y0), 1)
    crop = np.ascontiguousarray(plain.repeat(scale, axis=0).repeat(scale, axis=1))
    panels = {
        name: outlined(crop, mask.read(box), scale, LIGHT[name])
        for name, mask in (
            ("before", picture.before), ("after", picture.after), ("gt", picture.gt)
        )
    }  # fmt: skip
    overview = _overview(image, around, box)
    return Strip(
        overview=overview,
        crop=crop,
        before=panels["before"],
        after=panels["after"],
        gt=panels["gt"],
        box=box,
    )


def closeup_box(picture: Picture) -> Box:
    """A square where most pixels became right or wrong, inside the image."""
    left, top, right, bottom = around = _around(picture, picture.gt.size)
    changed = picture.before.read(around) ^ picture.after.read(around)
    if picture.ignore is not None:
        changed &= ~picture.ignore[top:bottom, left:right]
    # Pixels that moved in the direction of the whole change explain it; others blur the picture.
    right_now = picture.after.read(around) == picture.gt.read(around)
    telling = changed & (right_now == (picture.change > 0))
    if telling.any():
        changed = telling
    width, height = min(CLOSEUP, right - left), min(CLOSEUP, bottom - top)
    sums = cv2.integral(changed.view(np.uint8))
    total = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width]
    total = total + sums[:-height, :-width]
    y, x = (int(i) for i in np.unravel_index(int(total.argmax()), total.shape))
    ys, xs = np.nonzero(changed[y : y + height, x : x + width])
    if xs.size:  # the first of the best windows often has the change in a corner
        x = int(np.clip(x + round(float(xs.mean())) - width // 2, 0, right - left - width))
        y = int(np.clip(y + round(float(ys.mean())) - height // 2, 0, bottom - top - height))
    return left + x, top + y, left + x + width, top + y + height


def outlined(
    panel: UInt8Array, mask: BoolArray, scale: int, colour: tuple[int, int, int]
) -> UInt8Array:
    """Draw the outline of a mask along the edges of its enlarged pixels.

    Args:
        panel: (H * scale, W * scale, 3).
        mask: (H, W).
        scale: panel pixels per mask pixel.
        colour: of the line inside; one dark pixel outside makes it visible on every ground.
    """
    values = mask.repeat(scale, axis=0).repeat(scale, axis=1).view(np.uint8)
    square = np.ones((3, 3), np.uint8)
    drawn: UInt8Array = panel.copy()
    dark = cv2.dilate(values, square, borderType=cv2.BORDER_REPLICATE) != values
    shrunk = cv2.erode(values, square, iterations=2, borderType=cv2.BORDER_REPLICATE)
    drawn[dark] = _INK
    drawn[shrunk != values] = colour
    return drawn


def data_uri(panel: UInt8Array) -> str:
    """A panel as the text that a page shows without loading anything."""
    return "data:image/png;base64," + base64.b64encode(encode_png(panel)).decode("ascii")


def _overview(image: UInt8Array | None, around: Box, box: Box) -> UInt8Array:
    x0, y0, x1, y1 = around
    plain = image[y0:y1, x0:x1] if image is not None else _grey(around)
    share = SIDE / max(x1 - x0, y1 - y0)
    size = (max(round((x1 - x0) * share), 1), max(round((y1 - y0) * share), 1))
    how = cv2.INTER_AREA if share < 1 else cv2.INTER_NEAREST
    small: UInt8Array = cv2.resize(np.ascontiguousarray(plain), size, interpolation=how)
    corner = (round((box[0] - x0) * share), round((box[1] - y0) * share))
    opposite = (round((box[2] - x0) * share) - 1, round((box[3] - y0) * share) - 1)
    cv2.rectangle(small, corner, opposite, _INK, 3)
    cv2.rectangle(small, corner, opposite, _FRAME, 1)
    return np.array(small, np.uint8)


def _around(picture: Picture, size: Size) -> Box:
    """The windows of all three masks and some margin, inside the image."""
    windows = np.array(
        [m.window for m in (picture.before, picture.after, picture.gt) if not m.is_empty]
    )
    x0, y0 = windows[:, :2].min(axis=0).tolist()
    x1, y1 = windows[:, 2:].max(axis=0).tolist()
    margin = max((x1 - x0 + y1 - y0) // 20, 8)
    return grow((x0, y0, x1, y1), margin, size)


def _grey(box: Box) -> UInt8Array:
    x0, y0, x1, y1 = box
    return np.ascontiguousarray(np.broadcast_to(_MISSING, (y1 - y0, x1 - x0, 3)))
