"""The network as it is now, for a loader that lets it make the next pass's coarse masks."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from bpr.pipeline.instance import Float32Array, UInt8Array
from bpr.refiner.torch_predictor import TorchPredictor
from bpr.refiner.unet import PatchUNet

REFRESH_S = 90  # seconds until a newer state of the network is looked for


class PresentNetwork:
    """Reads the running average that a training leaves on disk, again and again.

    Args:
        path: `average.pt` of a UNetTrainer; may be missing at first.
        known: whether the first state there is worth rolling out; else the second one is waited
            for.
    """

    def __init__(self, path: Path, known: bool) -> None:
        self._path, self._skip = path, not known
        self._stamp, self._next = 0.0, 0.0
        self._state: PatchUNet | None = None

    def __call__(self) -> Callable[[UInt8Array], Float32Array] | None:
        """A predictor of any input size, or None while there is no network to trust."""
        if time.monotonic() >= self._next and self._path.exists():
            self._next = time.monotonic() + REFRESH_S
            stamp = self._path.stat().st_mtime
            if stamp != self._stamp:
                torch.set_num_threads(1)  # the training needs the processors
                if not (self._skip and self._stamp == 0.0):
                    network = PatchUNet()
                    network.load_state_dict(torch.load(self._path, weights_only=True))
                    self._state = network.eval()
                    self._predictors: dict[int, TorchPredictor] = {}
                self._stamp = stamp
        if self._state is None:
            return None
        return self._predict

    def _predict(self, patches: UInt8Array) -> Float32Array:
        side = patches.shape[1]
        if side not in self._predictors:
            assert self._state is not None
            self._predictors[side] = TorchPredictor(self._state, side)
        return self._predictors[side](patches)
