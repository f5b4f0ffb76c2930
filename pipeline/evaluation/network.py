"""The patch network as a method beside the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bpr.pipeline.instance import Prediction, UInt8Array
from bpr.pipeline.network import load_network
from bpr.pipeline.refine import refine
from bpr.pipeline.runner import Runner
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.model_config import PatchSize


@dataclass(frozen=True, eq=False)
class NetworkMethod:
    """Refines by a network, as `bpr refine` does."""

    runner: Runner
    settings: PatchSettings
    about: Mapping[str, Any]  # json-ready

    def __call__(self, image: UInt8Array, prediction: Prediction) -> Prediction:
        """Refine all instances of an image."""
        return refine(image, prediction, self.runner, self.settings)


def load_method(
    weights: str,
    device: str,
    backend: str,
    settings: Callable[[PatchSize, int], PatchSettings],
) -> NetworkMethod:
    """Make a method of weights.

    Args:
        weights: shipped ones by name, or a path.
        device: as in `load_network`.
        backend: as in `load_network`.
        settings: makes them of the patch size and padding that the weights were made for.

    Raises:
        ValueError: unknown or unusable weights, device or backend.
    """
    network = load_network(weights, device, backend)
    own = settings(network.config.patch_size, network.config.padding)
    about = {
        "weights": network.name,
        "weights_sha256": network.weights_sha256,
        "backend": network.backend,
        "settings": asdict(own),
    }
    return NetworkMethod(network.runner(network.batch_size), own, about)
