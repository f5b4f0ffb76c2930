"""One pass of coarse to fine: which patches, what the network sees in them, and what it did.

An object goes through several passes, each with narrower patches over the mask that the last one
left. `pipeline/chain.py` decides which.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from bpr.pipeline.colour_evidence import look_up, patch_evidence
from bpr.pipeline.crops import crop_patches
from bpr.pipeline.geometry import average_patches
from bpr.pipeline.instance import (
    BoolArray,
    Float32Array,
    Int64Array,
    Mask,
    SoftMask,
    UInt8Array,
    grow,
)
from bpr.pipeline.metrics import outline
from bpr.pipeline.settings import MAX_PATCH_SIZE, PatchSettings

CHANNELS = 7
"""Red, green, blue, mask, evidence of the object's colours, of the patch's, scale."""

LEAST_PATCH_SIZE = 32  # pixels; narrower patches hold nothing that wider ones do not show


def pass_patch_size(mask: Mask, share: float) -> int:
    """The side of the patches of a pass in pixels.

    Args:
        mask: of the object; not empty.
        share: of the long side of the mask's window, > 0.

    Returns:
        An even number from LEAST_PATCH_SIZE to the largest that PatchSettings allows.
    """
    return min(max(2 * round(share * long_side(mask) / 2), LEAST_PATCH_SIZE), MAX_PATCH_SIZE)


def pass_settings(mask: Mask, share: float, nms_iou: float) -> PatchSettings:
    """Settings that cut patches of a share of the object's long side."""
    return PatchSettings(patch_size=pass_patch_size(mask, share), nms_iou=nms_iou)


def long_side(mask: Mask) -> int:
    """The longer side of the mask's window in pixels."""
    x0, y0, x1, y1 = mask.window
    return max(x1 - x0, y1 - y0)


def cut_patches(
    image: UInt8Array,
    mask: Mask,
    boxes: Int64Array,
    input_size: int,
    colours: Float32Array,
    object_side: int,
) -> UInt8Array:
    """Cut what the network sees at boxes of one instance.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: as the last pass left it.
        boxes: (N, 4) int64 as from `select_patches`.
        input_size: S in pixels.
        colours: table of `object_colours` for this mask.
        object_side: `long_side` of the mask.

    Returns:
        (N, S, S, 7) uint8: red, green, blue; mask 0 or 1; evidence of the object's colours and
        of this patch's colours (128 is none, more is inside); the scale, the same everywhere.
    """
    plain = crop_patches(image, mask, boxes, input_size, PatchSettings())
    patches = np.empty((*plain.shape[:3], CHANNELS), np.uint8)
    patches[..., :4] = plain
    for patch, cut in zip(patches, plain, strict=True):
        pixels = np.asarray(cv2.cvtColor(cut, cv2.COLOR_RGBA2RGB), np.uint8)
        patch[..., 4] = look_up(colours, pixels)
        patch[..., 5] = patch_evidence(pixels, cut[..., 3] != 0)
    if len(boxes):
        patches[..., 6] = scale_level(int(boxes[0, 2] - boxes[0, 0]) / object_side)
    return patches


def scale_level(share: float) -> int:
    """A patch's share of its object as uint8: logarithmic, 1/32 is 0 and 2 is 255."""
    return int(np.clip(round(255 * (np.log2(share) + 5) / 6), 0, 255))


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """What a pass made of a mask, and what the network believes about both.

    Errors are the pixels that the network believes to be wrong (the sum of its probabilities for
    the other side) by the pixels of the mask's outline: about the mean distance of the outline
    from the true one, in pixels.
    """

    mask: Mask  # as the pass leaves it
    error_before: float  # expected, of the mask that went in
    error_after: float  # expected, of the mask that came out
    moved: float  # pixels changed by pixels of the outline
    soft: SoftMask  # the probabilities that the mask was made of


def outcome(
    mask: Mask, boxes: Int64Array, probability: Float32Array, margin: float = 0.0
) -> Outcome:
    """Put a pass's patches into the mask, and compare both masks with the probabilities.

    Args:
        mask: that went in; not empty.
        boxes: (N, 4) int64 as from `select_patches`, at least one.
        probability: (N, P, P) float32 of the object.
        margin: in [0, 0.5); a pixel changes sides only where its probability is farther from 0.5
            than this, so the mask that went in is believed a little.
    """
    region, mean = average_patches(mask, boxes, probability)
    before = mask.read(region)
    after = np.where(before, mean > 0.5 - margin, mean > 0.5 + margin)
    line = max(outline(mask).area, 1)
    return Outcome(
        mask=Mask.from_array(after, region[:2], mask.size),
        error_before=float(np.abs(before - mean).sum()) / line,
        error_after=float(np.abs(after - mean).sum()) / line,
        moved=np.count_nonzero(before != after) / line,
        soft=SoftMask.of_probability(mean, region, mask.size),
    )


def without_specks(before: Mask, after: Mask, island: float, hole: float) -> Mask:
    """Drop small islands and holes that are new.

    An island is a connected part of `after` without a pixel of `before`; a hole is a connected
    part outside of `after` that lies inside `before`. Parts are connected by their sides.

    Args:
        before: mask that a pass got; not empty.
        after: mask that it made of it.
        island: area of islands that are dropped, below this share of the area of `before`.
        hole: the same for holes.
    """
    if after.is_empty:
        return after
    windows = np.array([before.window, after.window])
    x0, y0 = windows[:, :2].min(axis=0).tolist()
    x1, y1 = windows[:, 2:].max(axis=0).tolist()
    box = grow((x0, y0, x1, y1), 1, before.size)
    old, new = before.read(box), after.read(box)
    new = _without_new_parts(old, new, island * before.area)
    new = ~_without_new_parts(~old, ~new, hole * before.area)
    return Mask.from_array(new, box[:2], before.size)


def _without_new_parts(old: BoolArray, new: BoolArray, least: float) -> BoolArray:
    _, parts, stats, _ = cv2.connectedComponentsWithStats(new.view(np.uint8), connectivity=4)
    is_dropped = stats[:, cv2.CC_STAT_AREA] < least
    is_dropped[np.unique(parts[old])] = False
    is_dropped[0] = False
    return np.asarray(new & ~is_dropped[parts])
