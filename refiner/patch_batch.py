"""What goes into a patch network and what comes out, as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bpr.refiner.model_config import STRIDE

PatchBatch = npt.NDArray[np.uint8]
"""(N, S, S, C): R, G, B in 0..255 and the coarse mask as 0 or 1; further channels where
`ModelConfig.channels` is more than 4."""

Logits = npt.NDArray[np.float32]
"""(N, S, S): object minus background; the sigmoid is the object's probability."""


def check_input_size(input_size: int) -> None:
    """ValueError unless the network can take patches of this side."""
    if input_size <= 0 or input_size % STRIDE:
        raise ValueError(f"input_size: expected a multiple of {STRIDE} > 0, got {input_size}")


def check_patches(patches: npt.NDArray[Any], input_size: int, channels: int = 4) -> None:
    """ValueError unless patches are (N, S, S, channels) uint8 with S = input_size."""
    expected = (input_size, input_size, channels)
    if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[1:] != expected:
        raise ValueError(
            f"patches: expected uint8 of shape (N, {input_size}, {input_size}, {channels}), "
            f"got {patches.dtype} of shape {patches.shape}"
        )
