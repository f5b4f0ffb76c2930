"""Pictures of masks before and after, for people to look at.

Images are enlarged by repeating pixels and outlines run along the edges of those pixels, so
that a picture shows exactly which pixels belong to a mask. An object that the image cuts has no
outline along the cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from bpr.pipeline.instance import BoolArray, Box, Mask, UInt8Array, grow

Colour = tuple[int, int, int]
Scalar = TypeVar("Scalar", bound=np.generic)

# Okabe and Ito's colours, told apart with every kind of colour vision. Black is left out; the
# order keeps neighbours in the list far apart.
PALETTE: tuple[Colour, ...] = (
    (86, 180, 233),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (0, 114, 178),
    (213, 94, 0),
)
TINT = 0.25  # opacity of a mask's colour
LIGHTER = 0.35  # how far an outline's colour goes towards white, to stand out from the tint
NARROW = 700  # px; narrower images are enlarged, so that changes of 1 to 3 px show
CLOSEUP_SIDE = 48  # px of the image
CLOSEUP_SCALE = 7

_PAPER: Colour = (255, 255, 255)
_INK: Colour = (40, 40, 40)
_GAP = 10  # px between panels and around them
_BAR = 34  # px, height of a caption
_FONT_SIZE = 20


def draw_comparison(image: UInt8Array, before: Sequence[Mask], after: Sequence[Mask]) -> UInt8Array:
    """Draw the masks before and after side by side, each instance in a colour of its own.

    Args:
        image: (H, W, 3) RGB; shown at twice its size if it is narrower than 700 px.
        before: masks of the image's size, one per instance; may be empty.
        after: the same instances, in the same order.

    Returns:
        (H', W', 3) RGB. There are seven colours; the eighth instance has the first again.

    Raises:
        ValueError: the masks do not fit each other or the image.
    """
    _check(image, before, after)
    scale = 2 if image.shape[1] < NARROW else 1
    panels = []
    for masks in (before, after):
        panel = _enlarge(image, scale)
        layers = [
            _Layer(mask, grow(mask.window, 1, mask.size), index)
            for index, mask in enumerate(masks)
            if not mask.is_empty
        ]
        _draw_tints(panel, layers, scale)
        _draw_outlines(panel, layers, scale, width=2)
        panels.append(panel)
    return _page([panels], ("before", "after"))


def draw_closeups(
    image: UInt8Array, before: Sequence[Mask], after: Sequence[Mask], count: int = 4
) -> UInt8Array:
    """Draw the places where masks changed most: photograph, outline before, outline after.

    Every changed instance gets its best place before one gets its second; among equals the one
    with more changed pixels comes first. A place that shows mostly what another one shows is
    left out. The outlines in a place are those of the instances that changed there.

    Args:
        image: (H, W, 3) RGB.
        before: masks of the image's size, one per instance; may be empty.
        after: the same instances, in the same order.
        count: how many places at most, >= 1.

    Returns:
        (H', W', 3) RGB, one row per place; only a caption where nothing changed.

    Raises:
        ValueError: the masks do not fit each other or the image.
    """
    _check(image, before, after)
    rows = []
    for x0, y0, x1, y1 in _choose_places(before, after, count):
        box = (x0, y0, x1, y1)
        plain = _enlarge(image[y0:y1, x0:x1], CLOSEUP_SCALE)
        changed = [
            index
            for index, (old, new) in enumerate(zip(before, after, strict=True))
            if (old.read(box) != new.read(box)).any()
        ]
        panels = [plain]
        for masks in (before, after):
            panel = plain.copy()
            layers = [_Layer(masks[index], box, index) for index in changed]
            _draw_outlines(panel, layers, CLOSEUP_SCALE, width=1, origin=(x0, y0))
            panels.append(panel)
        rows.append(panels)
    if not rows:
        return _page([], ("no mask changed",))
    return _page(rows, ("photograph", "before", "after"))


@dataclass(frozen=True, order=True)
class _Place:
    """A window on the change of one instance; sorts in the order in which places are shown."""

    rank: int  # among the places of its instance
    minus_changed: int  # changed pixels inside, negative: more comes first
    index: int  # of the instance
    box: Box


def _choose_places(before: Sequence[Mask], after: Sequence[Mask], count: int) -> list[Box]:
    """The places to show, best first, none covered by another for more than a third."""
    # One instance may lose all its best places to others, so look further than count.
    places = sorted(
        place
        for index, (old, new) in enumerate(zip(before, after, strict=True))
        for place in islice(_places(old, new, index), 2 * count)
    )
    chosen: list[Box] = []
    for place in places:
        if len(chosen) < count and all(_overlap(place.box, box) <= 1 / 3 for box in chosen):
            chosen.append(place.box)
    return chosen


def _places(before: Mask, after: Mask, index: int) -> Iterator[_Place]:
    """Square windows around the changes of one instance, most changed pixels first.

    Every changed pixel counts for one place only.
    """
    windows = np.array([mask.window for mask in (before, after) if not mask.is_empty])
    if not windows.size:
        return
    # Look only around the masks, and far enough that a window fits everywhere.
    height, width = before.size
    left, top = (windows[:, :2].min(axis=0) - CLOSEUP_SIDE).clip(0).tolist()
    right, bottom = (windows[:, 2:].max(axis=0) + CLOSEUP_SIDE).clip(0, (width, height)).tolist()
    around = (left, top, right, bottom)
    changed = before.read(around) ^ after.read(around)
    rows, columns = changed.shape
    side_x, side_y = min(CLOSEUP_SIDE, columns), min(CLOSEUP_SIDE, rows)
    rank = 0
    while changed.any():
        # total[y, x] counts the changed pixels of the window that starts at (x, y)
        sums = cv2.integral(changed.view(np.uint8))
        total = (
            sums[side_y:, side_x:]
            - sums[:-side_y, side_x:]
            - sums[side_y:, :-side_x]
            + sums[:-side_y, :-side_x]
        )
        y, x = (int(i) for i in np.unravel_index(int(total.argmax()), total.shape))
        # The first of the best windows often has the change in a corner: centre it.
        ys, xs = np.nonzero(changed[y : y + side_y, x : x + side_x])
        x = int(np.clip(x + round(float(xs.mean())) - side_x // 2, 0, columns - side_x))
        y = int(np.clip(y + round(float(ys.mean())) - side_y // 2, 0, rows - side_y))
        inside = changed[y : y + side_y, x : x + side_x]
        box = (left + x, top + y, left + x + side_x, top + y + side_y)
        yield _Place(rank, -int(np.count_nonzero(inside)), index, box)
        inside[:] = False
        rank += 1


def _overlap(one: Box, other: Box) -> float:
    """The part of one box that the other covers, in [0, 1]."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0) / ((one[2] - one[0]) * (one[3] - one[1]))


@dataclass(frozen=True, eq=False)
class _Layer:
    """What is drawn of one mask."""

    mask: Mask
    box: Box  # inside the image; the part that is drawn
    index: int  # of the instance, which gives the colour

    def cut(self, panel: UInt8Array, scale: int, origin: tuple[int, int]) -> UInt8Array:
        """The part of the panel that shows the box: a view."""
        x0, y0, x1, y1 = self.box
        x, y = origin
        return panel[(y0 - y) * scale : (y1 - y) * scale, (x0 - x) * scale : (x1 - x) * scale]

    def bitmap(self, scale: int) -> BoolArray:
        """The mask in the box, enlarged."""
        return _enlarge(self.mask.read(self.box), scale)

    @property
    def colour(self) -> UInt8Array:
        """Of the instance, (3,)."""
        return np.array(PALETTE[self.index % len(PALETTE)], np.uint8)


def _draw_tints(panel: UInt8Array, layers: Sequence[_Layer], scale: int) -> None:
    for layer in layers:
        part, bitmap = layer.cut(panel, scale, (0, 0)), layer.bitmap(scale)
        part[bitmap] = np.rint(part[bitmap] * (1 - TINT) + layer.colour * TINT)


def _draw_outlines(
    panel: UInt8Array,
    layers: Sequence[_Layer],
    scale: int,
    width: int,
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Draw a light line just inside every mask, and a dark one of 1 px just outside, in place.

    The dark line makes the light one visible on every ground; the edge lies between them. The
    light ones come last, so that masks which touch keep theirs.

    Args:
        panel: (H * scale, W * scale, 3), the image from `origin` on, enlarged.
        layers: what to draw.
        scale: panel pixels per image pixel.
        width: of the light line, in panel pixels.
        origin: (x, y) of the image pixel in the panel's corner.
    """
    square = np.ones((3, 3), np.uint8)
    for layer in layers:
        values = layer.bitmap(scale).view(np.uint8)
        grown = cv2.dilate(values, square, borderType=cv2.BORDER_REPLICATE)
        layer.cut(panel, scale, origin)[grown != values] = _INK
    for layer in layers:
        values = layer.bitmap(scale).view(np.uint8)
        shrunk = cv2.erode(values, square, iterations=width, borderType=cv2.BORDER_REPLICATE)
        light = np.rint(layer.colour * (1 - LIGHTER) + 255 * LIGHTER)
        layer.cut(panel, scale, origin)[shrunk != values] = light


def _page(rows: Sequence[Sequence[UInt8Array]], captions: Sequence[str]) -> UInt8Array:
    """Set rows of equally wide panels on white paper, under one line of captions."""
    widths = [panel.shape[1] for panel in rows[0]] if rows else [320] * len(captions)
    width = sum(widths) + _GAP * (len(widths) + 1)
    height = _BAR + sum(row[0].shape[0] + _GAP for row in rows)
    page = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(_FONT_SIZE)
    x = _GAP
    for panel_width, caption in zip(widths, captions, strict=True):
        pen.text((x + panel_width / 2, _BAR / 2), caption, _INK, font, anchor="mm")
        x += panel_width + _GAP
    y = _BAR
    for row in rows:
        x = _GAP
        for panel in row:
            page.paste(Image.fromarray(panel), (x, y))
            x += panel.shape[1] + _GAP
        y += row[0].shape[0] + _GAP
    return np.array(page)


def _enlarge(array: npt.NDArray[Scalar], scale: int) -> npt.NDArray[Scalar]:
    """Repeat every pixel, `scale` times in both directions; always a fresh array."""
    return array.repeat(scale, axis=0).repeat(scale, axis=1)


def _check(image: UInt8Array, before: Sequence[Mask], after: Sequence[Mask]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"image: expected uint8 of shape (height, width, 3), "
            f"got {image.dtype} of shape {image.shape}"
        )
    if len(before) != len(after):
        raise ValueError(
            f"masks: expected as many after as before, got {len(after)} after {len(before)}"
        )
    for mask in (*before, *after):
        if mask.size != image.shape[:2]:
            raise ValueError(
                f"mask: expected the size of the image, {image.shape[:2]} (height, width), "
                f"got {mask.size}"
            )
