"""detectron2's `Instances` and the dict of its predictors."""

from __future__ import annotations

import copy
from typing import Any

from bpr.pipeline.adapters.stacks import read_stack, write_stack
from bpr.pipeline.instance import Instance, Prediction, Size


class Detectron2Adapter:
    """Instances with `pred_masks`, or {"instances": Instances} as `DefaultPredictor` returns it."""

    def accepts(self, masks: Any) -> bool:
        """By structure: the library has forks, and is installed from its sources."""
        instances = _instances(masks)
        return hasattr(instances, "image_size") and callable(getattr(instances, "get_fields", None))

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per mask."""
        fields = _instances(masks).get_fields()
        if "pred_masks" not in fields:
            raise ValueError(
                f"instances: expected pred_masks, got {', '.join(fields) or 'no field'}"
            )
        return read_stack(fields["pred_masks"], size, "pred_masks")

    def write(self, masks: Any, refined: Prediction) -> Any:
        """Instances with other pred_masks; every other field is the same object."""
        instances = _instances(masks)
        fields = dict(instances.get_fields())
        fields["pred_masks"] = write_stack(fields["pred_masks"], refined)
        changed = copy.copy(instances)
        changed._fields = {}  # a copy would share them
        for name, value in fields.items():
            changed.set(name, value)
        return {**masks, "instances": changed} if isinstance(masks, dict) else changed


def _instances(masks: Any) -> Any:
    return masks.get("instances") if isinstance(masks, dict) else masks
