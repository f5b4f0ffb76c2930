"""What the pipeline needs of a patch network."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from bpr.pipeline.instance import Float32Array, UInt8Array


class MaskPredictor(Protocol):
    """Anything that predicts masks for a batch of patches.

    It gives logits, not probabilities: patches of one batch may differ in size, and logits are
    resized to the patch before they become probabilities.
    """

    @property
    def input_size(self) -> int:
        """S, the side of the patches that it takes, in pixels."""

    def __call__(self, patches: UInt8Array) -> Float32Array:
        """(N, S, S, 4) uint8 RGB and coarse mask (0, 1) -> (N, S, S) float32 object logits."""


class KeepCoarse:
    """Returns the coarse mask: the baseline of every comparison."""

    def __init__(self, input_size: int = 64) -> None:
        self.input_size = input_size

    def __call__(self, patches: UInt8Array) -> Float32Array:
        """Large logits with the sign of the coarse mask."""
        return np.asarray(np.where(patches[..., 3] > 0, 20, -20), np.float32)
