"""Pixels that several refined masks of an image claim: to which object they go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bpr.pipeline.instance import BoolArray, Box, Mask, SoftMask, common_box

Soft = Callable[[int], SoftMask]
"""The probabilities of the mask of an index."""


def avoid_overlaps(before: Sequence[Mask], after: Sequence[Mask], soft: Soft) -> list[Mask]:
    """Part the masks that did not overlap before refining and do so after it.

    A pixel goes to the mask of the higher probability; among equals, to the one that had it
    before, else to the earlier one. A mask of which nothing would be left stays as it was.

    Args:
        before: masks of one image, as they came.
        after: the same masks refined, in the same order.
        soft: their probabilities; asked only for masks that must be parted.

    Returns:
        The refined masks, in the same order.
    """
    pairs = [
        (first, second, box)
        for first, second, box in _overlapping(after)
        if not _overlap(before[first], before[second])
    ]
    return _restored(before, after, _parted(before, after, pairs, soft))


def resolve_overlaps(before: Sequence[Mask], after: Sequence[Mask], soft: Soft) -> list[Mask]:
    """Give each pixel to one mask, by the rule of `avoid_overlaps`; a mask may become empty."""
    return _parted(before, after, list(_overlapping(after)), soft)


def _parted(
    before: Sequence[Mask],
    after: Sequence[Mask],
    pairs: Sequence[tuple[int, int, Box]],
    soft: Soft,
) -> list[Mask]:
    bitmaps: dict[int, BoolArray] = {}
    values: dict[int, SoftMask] = {}
    for first, second, box in pairs:
        for index in (first, second):
            if index not in bitmaps:
                bitmaps[index], values[index] = np.array(after[index].bitmap), soft(index)
        views = [_view(bitmaps[index], after[index].window, box) for index in (first, second)]
        both = views[0] & views[1]
        sure, other = (values[index].read(box) for index in (first, second))
        had = before[second].read(box) & ~before[first].read(box)
        to_second = both & ((other > sure) | ((other == sure) & had))
        views[0][to_second] = False
        views[1][both & ~to_second] = False
    masks = list(after)
    for index, bitmap in bitmaps.items():
        masks[index] = Mask.from_array(bitmap, after[index].window[:2], after[index].size)
    return masks


def _restored(before: Sequence[Mask], after: Sequence[Mask], parted: Sequence[Mask]) -> list[Mask]:
    """Masks of which nothing is left as they were before; others give up their pixels."""
    masks = list(parted)
    lost = [k for k, mask in enumerate(masks) if mask.is_empty and not after[k].is_empty]
    while lost:
        index = lost.pop()
        masks[index] = before[index]
        for other, mask in enumerate(masks):
            if other == index or _overlap(before[index], before[other]):
                continue
            if _overlap(before[index], mask):
                bitmap = mask.bitmap & ~before[index].read(mask.window)
                masks[other] = Mask.from_array(bitmap, mask.window[:2], mask.size)
                if masks[other].is_empty:
                    lost.append(other)
    return masks


def _overlapping(masks: Sequence[Mask]) -> Iterator[tuple[int, int, Box]]:
    """Pairs of masks with common pixels, and the box that their windows have in common."""
    windows = np.array([mask.window for mask in masks], np.int64).reshape(-1, 4)
    for first in range(len(masks) - 1):
        x0, y0, x1, y1 = windows[first].tolist()
        rest = windows[first + 1 :]
        meets = (rest[:, 0] < x1) & (rest[:, 2] > x0) & (rest[:, 1] < y1) & (rest[:, 3] > y0)
        for second in (np.flatnonzero(meets) + first + 1).tolist():
            box = common_box(masks[first].window, masks[second].window)
            if box is not None and (masks[first].read(box) & masks[second].read(box)).any():
                yield first, second, box


def _overlap(first: Mask, second: Mask) -> bool:
    box = common_box(first.window, second.window)
    return box is not None and bool((first.read(box) & second.read(box)).any())


def _view(bitmap: BoolArray, window: Box, box: Box) -> BoolArray:
    """The part of a bitmap that a box inside its window covers; writing into it changes it."""
    x0, y0, x1, y1 = box
    return bitmap[y0 - window[1] : y1 - window[1], x0 - window[0] : x1 - window[0]]
