"""Coarse to fine: the passes of one instance, one after the other.

Wide passes look first: they see much of the object and move parts. Their masks are kept only
where the network itself expects a clear gain, so a mask that is nearly right goes to the narrow
pass as it came. The narrow pass draws, and a finer one follows where the object is large enough.
Where a narrow pass expects no gain, the mask stays as it is. What a network expects is in its
probabilities: the pixels that it believes to be wrong before and after (`passes.Outcome`).

The bounds were chosen on the validation photographs; LOG.md, 2026-12-01, has what others give.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bpr.pipeline.colour_evidence import object_colours
from bpr.pipeline.crops import patch_probabilities
from bpr.pipeline.geometry import select_patches
from bpr.pipeline.harm import LEAST_MOVE_SHARE
from bpr.pipeline.instance import Float32Array, Int64Array, Mask, SoftMask, UInt8Array
from bpr.pipeline.passes import (
    Outcome,
    cut_patches,
    long_side,
    outcome,
    pass_patch_size,
    pass_settings,
    without_specks,
)
from bpr.pipeline.settings import PatchSettings


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a pass must promise for its mask to be kept."""

    error: float = 0.0  # expected error of the mask that came in, by the object's long side
    gain: float = 0.0  # expected error before minus after, by the long side
    ratio: float = 1.0  # expected error before by after
    moved: float = 0.0  # pixels, mean move of the outline, besides LEAST_MOVE_SHARE where > 0


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass, and when its mask is kept."""

    share: float  # patch size by the object's long side
    first: Bounds  # where no pass before was kept: the mask may be right already
    later: Bounds  # after a pass that was kept
    looks: bool = False  # whether narrower passes follow even if this one is not kept
    least_side: int = 0  # pixels; smaller objects skip the pass


PASSES = (
    Pass(share=0.7, looks=True, first=Bounds(error=0.012, gain=0.007, ratio=1.05), later=Bounds()),
    Pass(
        share=0.35,
        looks=True,
        first=Bounds(error=0.009, gain=0.003, ratio=1.5, moved=0.8),
        later=Bounds(error=0.006, moved=0.2),
    ),
    Pass(
        share=0.12,
        first=Bounds(gain=0.001, ratio=1.2, moved=0.4),
        later=Bounds(ratio=1.06),
    ),
    Pass(share=0.07, first=Bounds(), later=Bounds(), least_side=250),
)
"""From wide to narrow. A pass is left out where it is hardly narrower than the one before."""

LARGEST_ISLAND, LARGEST_HOLE = 0.2, 0.01  # of the object's area
"""Smaller islands and holes that a wide pass makes are dropped: colours alone made most of them,
and most islands are other objects of the same colours."""

MARGIN = 0.15
"""Of narrow passes (`passes.outcome`) where no wide one was kept: such a mask is nearly right."""

NARROWER = 0.8  # of the last pass's patch size at most

_ALONE = Pass(share=1.0, first=Bounds(), later=Bounds())  # of a patch size that the caller sets


class Chain:
    """An instance on its way through the passes.

    `boxes` are the patches that the network is to see now; once `put` has their logits, they are
    those of the next pass, or none at the end. `mask` is the mask so far.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: coarse mask; may be empty.
        boxes: of the first pass, (N, 4) int64 as from `first_boxes` or `select_patches`.
        settings: `patch_size` says whether further passes follow.
        input_size: S of the network.
    """

    def __init__(
        self,
        image: UInt8Array,
        mask: Mask,
        boxes: Int64Array,
        settings: PatchSettings,
        input_size: int,
    ) -> None:
        self.mask, self.boxes = mask, boxes
        self.soft: SoftMask | None = None
        """Of the last pass that was kept; `mask` may have fewer specks."""
        self.all_boxes: list[Int64Array] = []
        """Of the passes that are done."""
        self._image, self._input_size, self._nms_iou = image, input_size, settings.nms_iou
        first, *others = PASSES if settings.patch_size == "passes" else (_ALONE,)
        self._pass, self._passes = first, others
        self._was_kept = self._has_moved = False
        if len(boxes):
            self._colours = object_colours(image, mask)

    def cut(self, start: int, stop: int) -> UInt8Array:
        """Patches start..stop of `boxes`, (N, S, S, 7) uint8."""
        return cut_patches(
            self._image,
            self.mask,
            self.boxes[start:stop],
            self._input_size,
            self._colours,
            long_side(self.mask),
        )

    def put(self, logits: Float32Array) -> None:
        """Take the logits of all of `boxes`, (N, S, S), and go on to the next pass."""
        size = int(self.boxes[0, 2] - self.boxes[0, 0])
        margin = 0.0 if self._pass.looks or self._has_moved else MARGIN
        found = outcome(self.mask, self.boxes, patch_probabilities(logits, size, 0), margin)
        if self._pass.looks:
            found = replace(
                found, mask=without_specks(self.mask, found.mask, LARGEST_ISLAND, LARGEST_HOLE)
            )
        bounds = self._pass.later if self._was_kept else self._pass.first
        if is_kept(found, bounds, long_side(self.mask)):
            self.mask, self.soft, self._was_kept = found.mask, found.soft, True
            self._has_moved |= self._pass.looks
        elif not self._pass.looks:
            self._passes.clear()
        self.all_boxes.append(self.boxes)
        self.boxes = self.boxes[:0]
        while self._passes and not len(self.boxes):
            self._begin(self._passes.pop(0), size)

    def _begin(self, following: Pass, last_size: int) -> None:
        """Choose the patches of a pass; none where it would add nothing to the last one."""
        size = pass_patch_size(self.mask, following.share)
        if size > NARROWER * last_size or long_side(self.mask) < following.least_side:
            return
        settings = pass_settings(self.mask, following.share, self._nms_iou)
        self._pass, self.boxes = following, select_patches(self.mask, settings)
        if len(self.boxes):
            self._colours = object_colours(self._image, self.mask)


def first_boxes(mask: Mask, settings: PatchSettings) -> Int64Array:
    """The boxes of the first of PASSES, as from `select_patches`; none for an empty mask."""
    if mask.is_empty:
        return np.zeros((0, 4), np.int64)
    return select_patches(mask, pass_settings(mask, PASSES[0].share, settings.nms_iou))


def is_kept(found: Outcome, bounds: Bounds, object_side: int) -> bool:
    """Whether a pass's mask is trusted more than the one that went in."""
    gain = found.error_before - found.error_after
    least_move = bounds.moved + LEAST_MOVE_SHARE * object_side if bounds.moved else 0.0
    return (
        found.moved >= least_move
        and not found.mask.is_empty
        and found.error_before >= bounds.error * object_side
        and gain >= bounds.gain * object_side
        and found.error_before >= bounds.ratio * found.error_after
    )
