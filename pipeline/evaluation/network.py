"""The patch network as a method beside the others. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bpr.pipeline.instance import Prediction, UInt8Array
from bpr.pipeline.predictor import MaskPredictor
from bpr.pipeline.refine import refine
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.predictor import load_predictor


@dataclass(frozen=True, eq=False)
class Network:
    """Refines by a network, as `bpr refine` does."""

    predictor: MaskPredictor
    settings: PatchSettings
    about: Mapping[str, Any]  # json-ready

    def __call__(self, image: UInt8Array, prediction: Prediction) -> Prediction:
        """Refine all instances of an image."""
        return refine(image, prediction, self.predictor, self.settings)


def load_network(
    weights: str,
    device: str,
    backend: str,
    settings: Callable[[int | None, int], PatchSettings],
) -> Network:
    """Make a method of weights.

    Args:
        weights: shipped ones by name, or a path.
        device: as in `load_predictor`.
        backend: as in `load_predictor`.
        settings: makes them of the patch size and padding that the weights were made for.

    Raises:
        ValueError: unknown or unusable weights, device or backend.
    """
    predictor = load_predictor(weights, device, backend)
    own = settings(predictor.config.patch_size, predictor.config.padding)
    about = {
        "weights": predictor.name,
        "weights_sha256": predictor.weights_sha256,
        "backend": predictor.backend,
        "settings": asdict(own),
    }
    return Network(predictor, own, about)
