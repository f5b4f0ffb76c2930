"""Sharpen the edges of a Labels layer with the photograph below it.

pip install bpr-refine "napari[all]" examples/napari_bpr
"""

from functools import cache

import numpy as np
from magicgui import magic_factory
from napari.layers import Image, Labels
from napari.qt.threading import FunctionWorker, thread_worker
from napari.types import LayerDataTuple

from bpr import load_refiner

refiner = cache(load_refiner)


def photograph(layer: Image) -> np.ndarray:
    """The pixels of an Image layer, (H, W, 3) uint8.

    Values of another type than uint8 are taken as the layer's contrast limits show them.

    Raises:
        ValueError: it is no single 2D image.
    """
    pixels = np.asarray(layer.data)
    if pixels.ndim != (3 if layer.rgb else 2):
        raise ValueError(f"{layer.name}: expected a 2D image, got an array of {pixels.shape}")
    if pixels.dtype != np.uint8:
        low, high = layer.contrast_limits
        pixels = np.rint(np.clip((pixels - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return pixels[..., :3] if layer.rgb else np.repeat(pixels[..., None], 3, axis=2)


@magic_factory(call_button="Refine")
def refine_labels(image: Image, labels: Labels) -> FunctionWorker[LayerDataTuple]:
    """Refine all labels in the background; the result is a new layer."""
    pixels = photograph(image)

    @thread_worker(start_thread=True, progress={"desc": "Refining"})
    def work() -> LayerDataTuple:
        refined = refiner()(pixels, labels=np.asarray(labels.data))
        placed = {"scale": labels.scale, "translate": labels.translate}
        return refined, {"name": f"{labels.name} refined", **placed}, "labels"

    return work()
