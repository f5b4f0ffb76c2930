"""Patches in, logits out: the trained network as a function of arrays."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from refiner.checkpoints import DEFAULT_WEIGHTS, ModelConfig, load_model
from refiner.network import STRIDE, object_logits

PatchBatch = npt.NDArray[np.uint8]
"""(N, S, S, 4): R, G, B in 0..255 and the coarse mask as 0 or 1."""

Logits = npt.NDArray[np.float32]
"""(N, S, S): object minus background; the sigmoid is the object's probability."""


@dataclass(frozen=True, eq=False)
class LoadedPredictor:
    """A predictor together with the weights it runs."""

    predict: Callable[[PatchBatch], Logits]
    config: ModelConfig
    weights_sha256: str  # of the weights' file
    name: str  # of the weights
    backend: str  # torch or openvino

    @property
    def input_size(self) -> int:
        """Side S of the patches in pixels."""
        return self.config.input_size

    def __call__(self, patches: PatchBatch) -> Logits:
        """(N, S, S, 4) uint8 -> (N, S, S) float32 logits of the object; N may be 0."""
        return self.predict(patches)


class TorchPredictor:
    """Runs a network with PyTorch, in float32.

    Batch norms are folded into a copy of the network, so the given one stays as it is.

    Args:
        network: a PatchNetwork.
        input_size: side S of the patches in pixels, a multiple of 32.
        device: where to run.
    """

    def __init__(
        self, network: nn.Module, input_size: int, device: str | torch.device = "cpu"
    ) -> None:
        if input_size <= 0 or input_size % STRIDE:
            raise ValueError(f"input_size: expected a multiple of {STRIDE} > 0, got {input_size}")
        self.input_size = input_size
        self._device = torch.device(device)
        self._network: nn.Module = fold_batch_norms(network).to(
            device=self._device,
            memory_format=torch.channels_last,  # type: ignore[call-overload]
        )

    def __call__(self, patches: PatchBatch) -> Logits:
        """Predict the object in patches.

        Args:
            patches: (N, S, S, 4) uint8: R, G, B and the coarse mask as 0 or 1; N may be 0.

        Returns:
            (N, S, S) float32 logits, object minus background. A patch's logits do not depend
            on the others in the batch beyond float32 rounding.

        Raises:
            ValueError: other shape or type.
        """
        check_patches(patches, self.input_size)
        if len(patches) == 0:
            return np.zeros(patches.shape[:3], np.float32)
        # torch warns about arrays that it could write to but must not
        batch = torch.from_numpy(np.require(patches, requirements=["C", "W"]))
        with torch.inference_mode(), _exact_convolutions(self._device):
            logits = object_logits(self._network, batch.to(self._device))
        result: Logits = logits.cpu().numpy()
        return result


def _exact_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """Keep cuDNN from rounding factors to 10 bits (TF32), its default, and from variation."""
    if device.type != "cuda":
        return nullcontext()
    # enabled must be said: left out, it turns cuDNN off
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False
    )
    return flags


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Copy a network with each batch norm multiplied into the convolution before it.

    Args:
        network: any; its batch norms directly follow their convolution among the children of
            one module, as everywhere in PatchNetwork.

    Returns:
        A copy in eval mode, without gradients, that computes the same up to rounding.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for parent in list(network.modules()):
        children = list(parent.named_children())
        for (first, conv), (second, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, first, fuse_conv_bn_eval(conv, norm))
                setattr(parent, second, nn.Identity())
    return network


def check_patches(patches: npt.NDArray[Any], input_size: int) -> None:
    """ValueError unless patches are (N, S, S, 4) uint8 with S = input_size."""
    expected = (input_size, input_size, 4)
    if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[1:] != expected:
        raise ValueError(
            f"patches: expected uint8 of shape (N, {input_size}, {input_size}, 4), "
            f"got {patches.dtype} of shape {patches.shape}"
        )


def load_predictor(
    weights: str | Path = DEFAULT_WEIGHTS, device: str = "auto", backend: str = "auto"
) -> LoadedPredictor:
    """Make a predictor from weights.

    Args:
        weights: see `load_model`.
        device: auto (a GPU where there is one), cpu or cuda.
        backend: auto (openvino on a CPU where it is installed, else torch), torch or openvino.

    Raises:
        ValueError: unknown or unusable weights, device or backend.
    """
    device = _choose_device(device)
    backend = _choose_backend(backend, device)
    model = load_model(weights)
    size = model.config.input_size
    predict: Callable[[PatchBatch], Logits]
    if backend == "openvino":
        from refiner.openvino_predictor import OpenVINOPredictor

        predict = OpenVINOPredictor(model.network, size)
    else:
        predict = TorchPredictor(model.network, size, device)
    return LoadedPredictor(predict, model.config, model.sha256, model.name, backend)


def _choose_device(device: str) -> str:
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device: expected auto, cpu or cuda, got {device!r}")
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ValueError("device: expected a CUDA GPU that PyTorch can use, got none")
    if device == "auto":
        return "cuda" if has_gpu else "cpu"
    return device


def _choose_backend(backend: str, device: str) -> str:
    if backend not in ("auto", "torch", "openvino"):
        raise ValueError(f"backend: expected auto, torch or openvino, got {backend!r}")
    is_installed = importlib.util.find_spec("openvino") is not None
    if backend == "auto":
        return "openvino" if device == "cpu" and is_installed else "torch"
    if backend == "openvino" and not is_installed:
        raise ValueError(
            "backend: expected openvino to be installed (pip install openvino), got none"
        )
    if backend == "openvino" and device != "cpu":
        raise ValueError(f"backend: expected torch on {device}, got openvino, which runs on cpu")
    return backend
