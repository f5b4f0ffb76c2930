"""`supervision.Detections`: dense masks or its CompactMask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bpr.pipeline.adapters.adapter import is_named
from bpr.pipeline.adapters.stacks import read_stack, stack_masks, write_stack
from bpr.pipeline.instance import Instance, Mask, Prediction, Size


class SupervisionAdapter:
    """Only `mask` is another one afterwards; xyxy stays the detector's."""

    def accepts(self, masks: Any) -> bool:
        """A Detections."""
        return is_named(masks, "supervision", "Detections")

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per detection."""
        if masks.mask is None:
            if len(masks):
                raise ValueError("detections.mask: expected masks, got None: boxes alone")
            return []
        if not _is_compact(masks.mask):
            return read_stack(masks.mask, size, "detections.mask")
        compact = masks.mask
        if tuple(compact.image_shape) != size:
            raise ValueError(
                f"detections.mask: expected masks of the size of their image, {size} (height, "
                f"width), got {tuple(compact.image_shape)}"
            )
        return [
            Instance(
                mask=Mask.from_array(compact.crop(index), (int(x), int(y)), size),
                label=0,
                score=1.0,
            )
            for index, (x, y) in enumerate(compact.offsets)
        ]

    def write(self, masks: Any, refined: Prediction) -> Any:
        """A Detections with refined masks of the same kind."""
        if masks.mask is None:
            return replace(masks)
        if not _is_compact(masks.mask):
            return replace(masks, mask=write_stack(masks.mask, refined))
        windows = [instance.mask.window for instance in refined.instances]
        # the library counts the last pixel in
        boxes = np.array(windows, np.int64).reshape(-1, 4) - (0, 0, 1, 1)
        compact = type(masks.mask).from_dense(stack_masks(refined), boxes, refined.size)
        return replace(masks, mask=compact)


def _is_compact(mask: Any) -> bool:
    return is_named(mask, "supervision", "CompactMask")
