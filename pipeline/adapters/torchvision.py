"""The dicts that torchvision's instance segmentation models return, one per image."""

from __future__ import annotations

from typing import Any

from bpr.pipeline.adapters.stacks import StackAdapter, read_stack, write_stack
from bpr.pipeline.instance import Instance, Prediction, Size


class TorchvisionAdapter:
    """{"boxes", "labels", "scores", "masks"}: masks are (N, 1, H, W) probabilities.

    Refined masks are 0 and 1 of the same type, so `masks > 0.5` still works. The targets of
    torchvision's training, (N, H, W) uint8, are taken too.
    """

    def accepts(self, masks: Any) -> bool:
        """A dict with a stack under `masks`."""
        return isinstance(masks, dict) and StackAdapter().accepts(masks.get("masks"))

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per mask."""
        return read_stack(masks["masks"], size, "masks")

    def write(self, masks: Any, refined: Prediction) -> Any:
        """A dict with refined masks."""
        return {**masks, "masks": write_stack(masks["masks"], refined)}
