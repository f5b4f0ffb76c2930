"""Refinement in one call, for masks in whatever form a program has them.

from bpr import load_refiner

refiner = load_refiner()
refined = refiner(image, masks)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np

from bpr.pipeline.adapters.boxes import with_boxes
from bpr.pipeline.adapters.find import find_adapter
from bpr.pipeline.adapters.labels import LabelMapAdapter
from bpr.pipeline.adapters.stacks import stack_probabilities
from bpr.pipeline.instance import Prediction, UInt8Array
from bpr.pipeline.network import LoadedNetwork, load_network
from bpr.pipeline.refine import refine
from bpr.pipeline.settings import Overlaps, PatchSettings
from bpr.refiner.model_config import default_weights

Masks = TypeVar("Masks")


@dataclass(frozen=True, eq=False)
class Refiner:
    """Sharpens masks; made by `load_refiner`. May be called as often as you like."""

    network: LoadedNetwork
    settings: PatchSettings

    def __call__(
        self,
        image: Any,
        masks: Masks | None = None,
        *,
        labels: Any = None,
        channels: Literal["rgb", "bgr"] | None = None,
        boxes: Literal["follow", "keep"] = "follow",
        overlaps: Overlaps = "avoid",
        soft: bool = False,
    ) -> Masks:
        """Refine all masks of one image.

        Args:
            image: (H, W, 3) uint8, an array or whatever numpy makes one of (a Pillow image).
            masks: (N, H, W) or (H, W), an array or a tensor of PyTorch: bool, integers or
                probabilities (above 0.5); a list of (H, W) masks, Pillow images among them;
                supervision.Detections; the output dict of a torchvision model; Instances of
                detectron2 or the dict with them; InstanceData of mmdetection; Results of
                ultralytics; what transformers post-processes to segments, or what its pipelines
                "image-segmentation" and "mask-generation" return; Detections of FiftyOne; RLEs
                of pycocotools; COCO records; what the predictors and mask generators of SAM,
                SAM 2 and HQ-SAM return.
            labels: instead of masks, a label map, (H, W) integers: each value but 0 is an object
                (of uint8, 255 is not labelled). The answer is one too.
            channels: order of the image's colours; None is RGB, except for the very array that
                Results of ultralytics carry (`results.orig_img`), which is BGR.
            boxes: follow: boxes of supervision, ultralytics and detectron2 are those of the
                refined masks; keep: they stay the detector's.
            overlaps: avoid: masks that did not overlap before do not overlap afterwards; keep:
                refined masks may overlap; resolve: each pixel belongs to one mask, the one whose
                probability is higher.
            soft: return probabilities instead, float32 in [0, 1], 0 or 1 outside of patches;
                above 0.5 is the mask.

        Returns:
            The same kind of object with refined masks, in the same order; ids, labels and scores
            are as they were. What was given stays as it was. With soft, an array or a tensor of
            the shape of `masks` where that is one, else an array (N, H, W).

        Raises:
            ValueError: masks of an unknown kind or of another size than the image, or an image
                of another type.
        """
        if (masks is None) == (labels is None):
            raise ValueError("masks, labels: expected one of them")
        given: Any = labels if masks is None else masks
        adapter = find_adapter(given) if labels is None else LabelMapAdapter()
        if not adapter.accepts(given):
            raise ValueError(f"labels: expected a map of integers, got {type(given).__name__}")
        pixels = _rgb(image, given, channels)
        size = (pixels.shape[0], pixels.shape[1])
        prediction = Prediction(size, tuple(adapter.read(given, size)))
        runner = self.network.runner(self.network.batch_size)  # of this call: callers may thread
        settings = replace(self.settings, overlaps=overlaps, soft=soft)
        refined = refine(pixels, prediction, runner, settings)
        if soft:
            return cast(Masks, stack_probabilities(given, refined, labels is None))
        written: Masks = adapter.write(given, refined)
        return with_boxes(written, refined) if boxes == "follow" else written


def _rgb(image: Any, masks: Any, channels: str | None) -> UInt8Array:
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"image: expected uint8 RGB of shape (height, width, 3), "
            f"got {pixels.dtype} of shape {pixels.shape}"
        )
    if channels not in (None, "rgb", "bgr"):
        raise ValueError(f"channels: expected rgb or bgr, got {channels!r}")
    own = getattr(masks, "orig_img", None)  # of ultralytics, read by OpenCV
    if channels is None and isinstance(own, np.ndarray) and own.shape == pixels.shape:
        is_the_same = own.__array_interface__["data"] == pixels.__array_interface__["data"]
        channels = "bgr" if is_the_same and own.strides == pixels.strides else "rgb"
    return np.ascontiguousarray(pixels[..., ::-1] if channels == "bgr" else pixels)


def load_refiner(
    weights: str | Path | None = None,
    device: str = "auto",
    backend: str = "auto",
    patch_size: int | Literal["auto"] | None = None,
    padding: int | None = None,
    nms_iou: float | None = None,
    compat: bool = False,
) -> Refiner:
    """Load the network; takes about a second, so keep what it returns.

    Args:
        weights: name of bundled weights, or the path of a .safetensors file of bpr or of a
            published .pth file; None takes unet-lite0, or hrnet18s with compat or padding.
        device: auto (a GPU where there is one), cpu or cuda.
        backend: what runs the network; auto takes OpenVINO on a CPU where it is installed.
        patch_size: side of the patches in image pixels, even; auto lets it follow the object;
            None takes what the weights were made for.
        padding: pixels around a patch that the network also sees; None takes that of the weights.
        nms_iou: of patches that overlap by this much or more, only one is kept; in (0, 1], lower is
            faster. None takes 0.3 for weights of several passes, else 0.45.
        compat: cut and merge patches exactly as the authors' code does.

    Raises:
        ValueError: unknown or unusable weights, device, backend or patch settings.
    """
    named = weights or default_weights(compat, padding)
    network = load_network(named, device, backend, exact=compat)
    config = network.config
    settings = PatchSettings.chosen(
        patch_size,
        padding,
        default_size=config.patch_size,
        default_padding=config.padding,
        nms_iou=nms_iou,
        compat=compat,
    )
    return Refiner(network, settings)
