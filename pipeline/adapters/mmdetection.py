"""mmdetection's `InstanceData` (of mmengine) and the `DetDataSample` around it."""

from __future__ import annotations

from typing import Any

from bpr.pipeline.adapters.adapter import is_named
from bpr.pipeline.adapters.stacks import read_stack, write_stack
from bpr.pipeline.instance import Instance, Prediction, Size


class MMDetectionAdapter:
    """InstanceData with `masks` as a tensor or array, or a sample with it as `pred_instances`."""

    def accepts(self, masks: Any) -> bool:
        """An InstanceData, or something with one inside."""
        return is_named(_inside(masks), "mmengine", "InstanceData")

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per mask."""
        instances = _inside(masks)
        if "masks" not in instances:
            raise ValueError(
                f"pred_instances: expected masks, got {', '.join(instances.keys()) or 'no field'}"
            )
        return read_stack(instances.masks, size, "masks")

    def write(self, masks: Any, refined: Prediction) -> Any:
        """The same with other masks."""
        instances = _inside(masks)
        changed = instances.new()
        changed.masks = write_stack(instances.masks, refined)
        if instances is masks:
            return changed
        sample = masks.new()
        sample.pred_instances = changed
        return sample


def _inside(masks: Any) -> Any:
    return getattr(masks, "pred_instances", masks)
