"""Boxes beside masks: those of refined masks, in the objects that have both."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np

from bpr.pipeline.adapters.adapter import is_named
from bpr.pipeline.instance import Float32Array, Prediction


def with_boxes(masks: Any, refined: Prediction) -> Any:
    """A copy whose boxes are those of its masks; other kinds of objects as they are.

    Boxes are x0, y0, x1, y1 from edge to edge: x1 and y1 lie behind the last pixel. An object of
    which nothing is left keeps its box.

    Args:
        masks: Detections of supervision, Results of ultralytics, Instances of detectron2 or the
            dict with them, all with refined masks.
        refined: the same masks.
    """
    if is_named(masks, "supervision", "Detections") and masks.mask is not None:
        xyxy = np.array(masks.xyxy)
        return replace(masks, xyxy=_moved(xyxy, refined).astype(xyxy.dtype))
    if is_named(masks, "ultralytics", "Results") and masks.masks is not None:
        data = masks.boxes.data
        is_tensor = hasattr(data, "new_tensor")
        array = data.detach().cpu().numpy() if is_tensor else np.array(data)
        new = np.concatenate([_moved(array[:, :4], refined), array[:, 4:]], axis=1)
        changed = copy.copy(masks)
        boxes = data.new_tensor(new) if is_tensor else new.astype(array.dtype)
        changed.boxes = type(masks.boxes)(boxes, masks.orig_shape)
        return changed
    if is_named(masks, "detectron2", "Instances") and masks.has("pred_boxes"):
        changed = copy.copy(masks)
        changed._fields = dict(masks.get_fields())
        old = masks.pred_boxes.tensor
        moved = _moved(old.detach().cpu().numpy(), refined)
        changed._fields["pred_boxes"] = type(masks.pred_boxes)(old.new_tensor(moved))
        return changed
    if isinstance(masks, dict) and is_named(masks.get("instances"), "detectron2", "Instances"):
        return {**masks, "instances": with_boxes(masks["instances"], refined)}
    return masks


def _moved(boxes: Any, refined: Prediction) -> Float32Array:
    new = np.array(boxes, np.float32)
    for row, instance in zip(new, refined.instances, strict=True):
        if not instance.mask.is_empty:
            row[:] = instance.mask.window
    return new
