"""What transformers' `post_process_instance_segmentation` gives for one image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bpr.pipeline.adapters.stacks import as_array, instance_of, read_stack, write_stack
from bpr.pipeline.instance import Instance, Prediction, Size, paint


class TransformersAdapter:
    """{"segmentation", "segments_info"}: a map of segment ids, or a stack of binary maps.

    In a map every pixel has one owner: where refined masks overlap, that of the higher score.
    A pixel that no segment has any more becomes background.
    """

    def accepts(self, masks: Any) -> bool:
        """A dict with these two keys."""
        return isinstance(masks, dict) and "segmentation" in masks and "segments_info" in masks

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per entry of segments_info."""
        segmentation, segments = masks["segmentation"], masks["segments_info"] or []
        if segmentation is None and not segments:
            return []
        if not hasattr(segmentation, "shape"):
            raise ValueError(
                "segmentation: expected a tensor, got RLE; call post_process_instance_segmentation "
                "with return_coco_annotation=False"
            )
        if len(segmentation.shape) == 3:
            instances = read_stack(segmentation, size, "segmentation")
            if len(instances) != len(segments):
                raise ValueError(
                    f"segments_info: expected one for each of {len(instances)} maps, got "
                    f"{len(segments)}"
                )
            return instances
        array = as_array(segmentation)
        if array.shape != size:
            raise ValueError(
                f"segmentation: expected that of the image, {size} (height, width), got "
                f"{array.shape}; give the processor target_sizes=[{size}]"
            )
        return [instance_of(array == segment["id"], size) for segment in segments]

    def write(self, masks: Any, refined: Prediction) -> Any:
        """A dict with another segmentation; segments_info is the same object."""
        segmentation = masks["segmentation"]
        if segmentation is None:
            return dict(masks)
        if len(segmentation.shape) == 3:
            return {**masks, "segmentation": write_stack(segmentation, refined)}
        segments = masks["segments_info"] or []
        ids = [segment["id"] for segment in segments]
        before = as_array(segmentation)
        after = np.where(np.isin(before, ids), _background(before, ids), before)
        after = after.astype(before.dtype)
        scores = [float(segment.get("score", 1)) for segment in segments]
        paint(after, [instance.mask for instance in refined.instances], ids, scores)
        new = segmentation.new_tensor if hasattr(segmentation, "new_tensor") else np.asarray
        return {**masks, "segmentation": new(after)}


def _background(values: npt.NDArray[Any], ids: list[int]) -> float:
    """The value of pixels without a segment: -1 for instances, 0 for panoptic segments."""
    others = np.setdiff1d(values, ids)
    if len(others):
        return float(others[0])
    return -1 if 0 in ids else 0
