"""Patches in, logits out: the trained network as a function of arrays.

No torch in here: where a converted network is at hand, nothing needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bpr._extras import is_installed, require
from bpr.refiner.model_config import DEFAULT_WEIGHTS, ModelConfig
from bpr.refiner.patch_batch import Logits, PatchBatch
from bpr.refiner.processors import usable_processors

if TYPE_CHECKING:
    from bpr.refiner.device_network import DeviceNetwork

MIN_BATCH_SIZE = 32  # patches; larger ones gain nothing on a few processors

BACKENDS = ("auto", "torch", "torch-bf16", "openvino", "openvino-bf16")
"""What can run a network, in float32 unless the name says otherwise."""
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True, eq=False, kw_only=True)
class LoadedPredictor:
    """A predictor together with the weights it runs."""

    predict: Callable[[PatchBatch], Logits]
    config: ModelConfig
    weights_sha256: str  # of the weights' file
    name: str  # of the weights
    backend: str  # one of BACKENDS, not auto
    on_device: DeviceNetwork | None = None  # where tensors on a GPU can be predicted there
    batch_size: int = MIN_BATCH_SIZE  # patches together that keep it busy

    @property
    def input_size(self) -> int:
        """Side S of the patches in pixels."""
        return self.config.input_size

    def __call__(self, patches: PatchBatch) -> Logits:
        """(N, S, S, 4) uint8 -> (N, S, S) float32 logits of the object; N may be 0."""
        return self.predict(patches)


def load_predictor(
    weights: str | Path = DEFAULT_WEIGHTS,
    device: str = "auto",
    backend: str = "auto",
    exact: bool = False,
    num_threads: int | None = None,
) -> LoadedPredictor:
    """Make a predictor from weights.

    Args:
        weights: see `bpr.refiner.checkpoints.load_model`.
        device: auto (a CUDA GPU if there is one, else the CPU), cpu, cuda, or mps (Apple; float32).
        backend: one of BACKENDS. auto is torch-bf16 on a GPU; openvino on a CPU where it is
            installed, in bfloat16 where the CPU computes in it (twice as fast; of 10,000 mask
            pixels of a patch about two differ); else torch.
        exact: let auto choose float32 only, for results that are compared with a reference.
        num_threads: of the CPU; None takes all processors that this process may use.

    Raises:
        ValueError: unknown or unusable weights, device or backend.
    """
    device = _choose_device(device)
    backend = _choose_backend(backend, device, exact)
    if backend.startswith("torch"):
        return _load_torch(weights, device, backend, exact)
    from bpr.refiner.openvino_model import load_converted
    from bpr.refiner.openvino_predictor import OpenVINOPredictor

    converted = load_converted(weights)
    predict = OpenVINOPredictor(
        converted.model,
        converted.config.input_size,
        num_threads or usable_processors(),
        bfloat16=backend == "openvino-bf16",
    )
    return LoadedPredictor(
        predict=predict,
        config=converted.config,
        weights_sha256=converted.sha256,
        name=converted.name,
        backend=backend,
        batch_size=max(predict.busy_at, MIN_BATCH_SIZE),
    )


def _load_torch(weights: str | Path, device: str, backend: str, exact: bool) -> LoadedPredictor:
    from bpr.refiner.checkpoints import load_model
    from bpr.refiner.device_network import DeviceNetwork
    from bpr.refiner.torch_predictor import TorchPredictor

    model = load_model(weights)
    size = model.config.input_size
    on_device = None
    predict: TorchPredictor | DeviceNetwork
    if device in ("cpu", "mps") and backend == "torch":
        predict = TorchPredictor(model.network, size, device)
    else:
        predict = DeviceNetwork(model.network, size, device, bfloat16=backend == "torch-bf16")
        # crops on the device round differently by one grey level
        on_device = predict if device == "cuda" and not exact else None
    return LoadedPredictor(
        predict=predict,
        config=model.config,
        weights_sha256=model.sha256,
        name=model.name,
        backend=backend,
        on_device=on_device,
    )


def _choose_device(device: str) -> str:
    if device not in DEVICES:
        raise ValueError(f"device: expected auto, cpu, cuda or mps, got {device!r}")
    if device == "cpu" or (device == "auto" and not (_may_have_gpu() and is_installed("torch"))):
        return "cpu"
    require("torch", purpose=f"device {device}")
    import torch

    if device == "mps":
        if not torch.backends.mps.is_available():
            raise ValueError("device: expected an Apple GPU that PyTorch can use, got none")
        return device
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ValueError("device: expected a CUDA GPU that PyTorch can use, got none")
    return "cuda" if has_gpu else "cpu"


def _may_have_gpu() -> bool:
    """False where torch need not be asked: importing it takes longer than refining an image.

    On Linux no CUDA program finds a GPU without one of these two devices (the second is that
    of the Windows subsystem).
    """
    return os.name != "posix" or any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg")))


def _choose_backend(backend: str, device: str, exact: bool) -> str:
    if backend not in BACKENDS:
        names = f"{', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}"
        raise ValueError(f"backend: expected {names}, got {backend!r}")
    if device == "mps":
        if backend not in ("auto", "torch"):
            raise ValueError(f"backend: expected auto or torch on mps, got {backend}")
        require("torch", "timm", purpose="device mps")
        return "torch"
    if backend == "auto" and device != "cpu":
        return "torch" if exact else "torch-bf16"
    if backend in ("torch", "torch-bf16"):
        require("torch", "timm", purpose=f"backend {backend}")
        return backend
    has_openvino = is_installed("openvino")
    if backend == "auto":
        if not has_openvino:
            return "torch"
        from bpr.refiner.openvino_predictor import has_bfloat16

        return "openvino-bf16" if not exact and has_bfloat16() else "openvino"
    if not has_openvino:
        raise ValueError(
            f"backend: expected openvino to be installed for {backend} (pip install openvino), "
            "got none"
        )
    if device != "cpu":
        raise ValueError(f"backend: expected torch on {device}, got {backend}, which runs on cpu")
    return backend
