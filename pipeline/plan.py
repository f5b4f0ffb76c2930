"""What goes to the network for one image, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass

from bpr.pipeline.instance import Float32Array, Int64Array, Mask, Prediction, SoftMask, UInt8Array
from bpr.pipeline.settings import PatchSettings


@dataclass(frozen=True, eq=False, kw_only=True)
class ImagePatches:
    """The patches of one image's instances."""

    prediction: Prediction  # coarse masks
    boxes: tuple[Int64Array, ...]  # per instance (N, 4), as from `select_patches`
    settings: PatchSettings
    name: str = ""  # of the image, for the caller

    @property
    def num_patches(self) -> int:
        """Patches of all instances."""
        return sum(len(boxes) for boxes in self.boxes)


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan(ImagePatches):
    """An image with the patches to refine in it."""

    image: UInt8Array  # (H, W, 3) RGB


@dataclass(frozen=True, eq=False, kw_only=True)
class Answer(ImagePatches):
    """What the network said about the patches of a plan. It does not hold the image."""

    logits: tuple[Float32Array, ...] = ()
    """Per instance (N, S, S), object minus background; empty where `refined` is given."""
    refined: tuple[Mask, ...] | None = None
    """Per instance the averaged patches in its mask, where a device has averaged them."""
    soft: tuple[SoftMask | None, ...] = ()
    """Per instance the probabilities behind `refined`; None where no patch was put back."""
