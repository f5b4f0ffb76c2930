"""`fiftyone.Detections`: masks of their boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bpr.pipeline.adapters.adapter import is_named
from bpr.pipeline.formats.images import read_mask
from bpr.pipeline.instance import BoolArray, Instance, Mask, Prediction, Size, differing_pixels

CHANGED = "changed_pixels"
"""The attribute of refined detections that says in how many pixels the mask is another one."""


class FiftyOneAdapter:
    """Copies with other masks and, as a mask is that of its box, other boxes.

    Each refined detection says in `changed_pixels` how much of it is new.
    """

    def accepts(self, masks: Any) -> bool:
        """A Detections."""
        return is_named(masks, "fiftyone", "Detections")

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per detection."""
        return [
            Instance(mask=_read(detection, index, size), label=0, score=1.0)
            for index, detection in enumerate(masks.detections)
        ]

    def write(self, masks: Any, refined: Prediction) -> Any:
        """A Detections with copies of its detections."""
        changed = masks.copy()
        for index, (detection, instance) in enumerate(
            zip(changed.detections, refined.instances, strict=True)
        ):
            before = _read(detection, index, refined.size)
            detection[CHANGED] = differing_pixels(before, instance.mask)
            if not detection[CHANGED]:
                continue
            height, width = refined.size
            x0, y0, x1, y1 = instance.mask.window
            detection.bounding_box = [
                x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height
            ]  # fmt: skip
            detection.mask = np.array(instance.mask.bitmap)
            detection.mask_path = None
        return changed


def _read(detection: Any, index: int, size: Size) -> Mask:
    bitmap: BoolArray
    if detection.mask is not None:
        bitmap = np.asarray(detection.mask) != 0
    elif detection.mask_path is not None:
        bitmap = read_mask(Path(detection.mask_path), may_fill=True)
    else:
        raise ValueError(f"detection {index}: expected a mask, got a box alone")
    height, width = size
    x, y, share_x, share_y = detection.bounding_box
    x0, y0 = round(x * width), round(y * height)
    # a box of another size than its mask is filled by it, as the App shows it
    shape = (max(round(share_y * height), 1), max(round(share_x * width), 1))
    if max(abs(a - b) for a, b in zip(shape, bitmap.shape, strict=True)) > 1:
        bitmap = cv2.resize(bitmap.astype(np.uint8), shape[::-1], interpolation=0) > 0
    y0, x0 = (
        min(max(start, 0), max(whole - part, 0))
        for start, whole, part in zip((y0, x0), size, bitmap.shape, strict=True)
    )
    return Mask.from_array(bitmap[:height, :width], (x0, y0), size)
