"""Weights, loaded for the processor that will run them.

This is the one place that chooses between the CPU's runner and the GPU's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bpr.pipeline.chain_runner import ChainRunner
from bpr.pipeline.host import HostRunner
from bpr.pipeline.runner import Runner
from bpr.refiner.model_config import DEFAULT_WEIGHTS, ModelConfig
from bpr.refiner.patch_batch import Logits, PatchBatch
from bpr.refiner.predictor import LoadedPredictor, load_predictor

HOST_CHANNELS = 4  # of the paper's patches: colours and the mask


@dataclass(frozen=True, eq=False, kw_only=True)
class LoadedNetwork:
    """A network ready to run, and the weights that it has."""

    runner: Callable[[int], Runner]
    """Makes a runner with an empty batch of so many patches (a GPU's size is fixed)."""
    predict: Callable[[PatchBatch], Logits]
    """Runs the network on patches that are cut already."""
    config: ModelConfig
    weights_sha256: str  # of the weights' file
    name: str  # of the weights
    backend: str  # what runs them, see `bpr.refiner.predictor.BACKENDS`
    batch_size: int  # patches together that keep the processor busy

    @property
    def input_size(self) -> int:
        """Side S of the patches in pixels."""
        return self.config.input_size


def load_network(
    weights: str | Path = DEFAULT_WEIGHTS,
    device: str = "auto",
    backend: str = "auto",
    exact: bool = False,
    num_threads: int | None = None,
) -> LoadedNetwork:
    """Load weights for the processor that will run them.

    Args:
        weights: name of shipped weights, a .safetensors file of ours, or a published .pth.
        device: auto (a GPU where there is one), cpu or cuda.
        backend: one of `bpr.refiner.predictor.BACKENDS`.
        exact: let auto choose float32 only, for results that are compared with a reference.
        num_threads: of the CPU; None takes all processors that this process may use.

    Raises:
        ValueError: unknown or unusable weights, device or backend.
    """
    return network_of(load_predictor(weights, device, backend, exact, num_threads))


def network_of(predictor: LoadedPredictor) -> LoadedNetwork:
    """Choose the runner of loaded weights: patches are cut on a GPU where the network is on one."""
    on_device = predictor.on_device

    def runner(batch_size: int) -> Runner:
        if predictor.config.channels != HOST_CHANNELS:
            return ChainRunner(predictor, batch_size)
        if on_device is None:
            return HostRunner(predictor, batch_size)
        from bpr.pipeline.device import DeviceRunner  # needs torch

        return DeviceRunner(on_device)

    return LoadedNetwork(
        runner=runner,
        predict=predictor,
        config=predictor.config,
        weights_sha256=predictor.weights_sha256,
        name=predictor.name,
        backend=predictor.backend,
        batch_size=predictor.batch_size,
    )


def load_runner(
    weights: str | Path, device: str, backend: str, exact: bool, batch_size: int
) -> Runner:
    """Load weights and make their only runner, for a process that does nothing else.

    Args:
        weights: as for `load_network`.
        device: as for `load_network`.
        backend: as for `load_network`.
        exact: as for `load_network`.
        batch_size: patches predicted together; a GPU's is fixed.

    Raises:
        ValueError: as for `load_network`.
    """
    return load_network(weights, device, backend, exact).runner(batch_size)
