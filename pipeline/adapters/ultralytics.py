"""The `Results` of ultralytics (YOLO) for one image."""

from __future__ import annotations

import copy
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bpr.pipeline.adapters.adapter import is_named
from bpr.pipeline.adapters.stacks import THRESHOLD, as_array, instance_of, read_stack, stack_masks
from bpr.pipeline.instance import Instance, Prediction, Size


class UltralyticsAdapter:
    """Results with `masks`, which are of the network's letterboxed size unless `retina_masks`.

    Refined masks are of the image's size, as `retina_masks=True` gives them; boxes, with their
    classes, scores and track ids, are the same object.
    """

    def accepts(self, masks: Any) -> bool:
        """A Results, or something with the same parts."""
        return is_named(masks, "ultralytics", "Results") or (
            hasattr(masks, "orig_shape") and hasattr(masks, "boxes") and hasattr(masks, "masks")
        )

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per mask."""
        if tuple(masks.orig_shape) != size:
            raise ValueError(
                f"results.orig_shape: expected that of the image, {size} (height, width), got "
                f"{tuple(masks.orig_shape)}"
            )
        if masks.masks is None:
            if masks.boxes is not None and len(masks.boxes):
                raise ValueError("results.masks: expected masks, got None: not a -seg model")
            return []
        stack = as_array(masks.masks.data)
        if stack.shape[1:] == size:
            return read_stack(stack, size, "results.masks")
        return [instance_of(_without_letterbox(mask, size), size) for mask in stack]

    def write(self, masks: Any, refined: Prediction) -> Any:
        """Results with refined masks of the type and on the device of the others."""
        changed = copy.copy(masks)
        if masks.masks is not None:
            data = masks.masks.data
            array = stack_masks(refined)
            stack = (
                data.new_tensor(array) if hasattr(data, "new_tensor") else array.astype(data.dtype)
            )
            changed.masks = type(masks.masks)(stack, masks.orig_shape)
        return changed


def _without_letterbox(mask: npt.NDArray[Any], size: Size) -> npt.NDArray[np.bool_]:
    """Cut off what fills up the network's rectangle, and enlarge the rest to the image.

    Source: scale_masks in ultralytics/utils/ops.py: the same crop and interpolation.
    """
    height, width = size
    gain = min(mask.shape[0] / height, mask.shape[1] / width)
    inner = (max(round(height * gain), 1), max(round(width * gain), 1))
    top = round((mask.shape[0] - inner[0]) / 2 - 0.1)
    left = round((mask.shape[1] - inner[1]) / 2 - 0.1)
    content = mask[top : top + inner[0], left : left + inner[1]].astype(np.float32)
    enlarged = cv2.resize(content, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(enlarged > THRESHOLD)
