"""What draws masks in boxes: the interface, the plain branch, and what masks should be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import roi_align

from detector.backbone import make_norm
from detector.pooling import PyramidPool, indexed
from detector.presets import Preset

BATCH = 32
"""Masks drawn together in inference: memory does not grow beyond that."""

Prepared = TypeVar("Prepared")


class Positives(NamedTuple):
    """Boxes on objects, from which a branch learns, all images of a batch in a row."""

    rois: Tensor  # (N, 5) image and box in pixels of the network's input
    labels: Tensor  # (N,) int64, 1 to K
    objects: Tensor  # (N,) int64, the object in its image
    masks: Sequence[Tensor]  # of each image (M, h, w) bool or uint8, of any resolution
    sizes: Sequence[tuple[int, int]]  # height, width of each image as the network sees it
    padded: tuple[int, int]  # height, width of the batch of images


class MaskBranch(nn.Module, ABC, Generic[Prepared]):
    """Draws masks in boxes. Labels are 1 to K here; there is no background to draw."""

    @abstractmethod
    def prepare(self, features: Mapping[str, Tensor]) -> Prepared:
        """What does not depend on boxes, once for a batch of images."""

    @abstractmethod
    def logits(self, prepared: Prepared, rois: Tensor, labels: Tensor) -> Tensor:
        """(N, 5) of `indexed` and (N,) labels -> (N, S, S) final logits."""

    @abstractmethod
    def losses(self, prepared: Prepared, positives: Positives) -> dict[str, Tensor]:
        """Losses by name. Without boxes they are 0, and still reach every weight."""

    def predict(
        self, features: Mapping[str, Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> list[Tensor]:
        """Draw the masks of a batch of images, `BATCH` at a time.

        Args:
            features: of the backbone.
            boxes: for each image (N_i, 4) in pixels of the network's input.
            labels: for each image (N_i,).

        Returns:
            For each image (N_i, S, S) float32 probabilities.
        """
        counts = [len(of_image) for of_image in boxes]
        rois, wanted = indexed(boxes), torch.cat(list(labels))
        prepared = self.prepare(features)
        # without any box an empty batch still tells the size of masks
        drawn = [
            self.logits(prepared, rois[start : start + BATCH], wanted[start : start + BATCH])
            .float()
            .sigmoid()
            for start in range(0, max(len(rois), 1), BATCH)
        ]
        return list(torch.split(torch.cat(drawn), counts))


class FcnBranch(MaskBranch[Mapping[str, Tensor]]):
    """Four convolutions, one upsampling: Mask R-CNN's own.

    Source: He et al., ICCV 2017 (arXiv:1703.06870), fig. 4.
    """

    def __init__(self, preset: Preset, categories: int) -> None:
        super().__init__()
        channels = preset.channels
        norm = make_norm(preset.head_norm, preset.conventions.norm_eps)
        self.pool = PyramidPool(14, preset.conventions.exact_geometry)
        self.mask_head = MaskRCNNHeads(channels, [channels] * 4, 1, norm_layer=norm)
        # torchvision has a map for the background too
        self.mask_predictor = MaskRCNNPredictor(channels, channels, categories + 1)
        init_convolution(self.mask_predictor.mask_fcn_logits, std=0.001)

    def prepare(self, features: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """There is nothing to prepare."""
        return features

    def logits(self, prepared: Mapping[str, Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """(N, 28, 28)."""
        maps: Tensor = self.mask_predictor(self.mask_head(self.pool(prepared, rois)))
        return at_label(maps, labels)

    def losses(self, prepared: Mapping[str, Tensor], positives: Positives) -> dict[str, Tensor]:
        """Cross entropy of the object's category."""
        logits = self.logits(prepared, positives.rois, positives.labels)
        (target,) = mask_targets(positives, (logits.shape[-1],))
        return {"loss_mask": mask_loss(logits, target)}


def init_convolution(layer: nn.Conv2d | nn.ConvTranspose2d, std: float | None = None) -> None:
    """Random weights of a standard deviation, or as large as ReLU needs (MSRA), and no bias."""
    if std is None:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    else:
        nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def at_label(maps: Tensor, labels: Tensor) -> Tensor:
    """(N, C, S, S) maps and (N,) indices -> (N, S, S) the map of each one's index."""
    return maps[torch.arange(len(maps), device=maps.device), labels]


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy of logits and {0, 1} of the same shape; 0 without any."""
    if not logits.numel():
        return logits.sum() * 0
    return functional.binary_cross_entropy_with_logits(logits.float(), target.float())


def mask_targets(positives: Positives, sides: Sequence[int], clip: bool = False) -> list[Tensor]:
    """What masks should be in boxes: the objects' own masks, cropped and resized.

    They are cut from masks as they came, not from masks resized with the image: their boundaries
    are better, and no stack of them is copied.

    Args:
        positives: boxes and their objects.
        sides: of the targets, S.
        clip: move corners of boxes into the image before.

    Returns:
        For each side (N, S, S) float32, 0 or 1.

    Source: detectron2, `BitMasks.crop_and_resize`; mmdetection, `BitmapMasks.crop_and_resize`.
    """
    rois = positives.rois
    targets = [rois.new_zeros((len(rois), side, side), dtype=torch.float32) for side in sides]
    for image, (masks, (height, width)) in enumerate(
        zip(positives.masks, positives.sizes, strict=True)
    ):
        here = torch.where(rois[:, 0] == image)[0]
        scale = rois.new_tensor(
            [masks.shape[2] / width, masks.shape[1] / height] * 2, dtype=torch.float32
        )
        boxes = rois[here, 1:].float()
        if clip:
            limit = boxes.new_tensor([width, height] * 2)
            boxes = torch.minimum(boxes.clamp(min=0), limit)
        boxes = boxes * scale
        # one mask at a time: all of them as float32 may be gigabytes
        for number in sorted(set(positives.objects[here].tolist())):
            chosen = torch.where(positives.objects[here] == number)[0]
            mask = masks[number][None, None].to(torch.float32)
            for side, target in zip(sides, targets, strict=True):
                cut = roi_align(mask, [boxes[chosen]], side, 1.0, sampling_ratio=0, aligned=True)
                target[here[chosen]] = (cut[:, 0] >= 0.5).float()
    return targets


def polygon_targets(
    polygons: Sequence[Sequence[np.ndarray[Any, Any]]],
    boxes: Tensor,
    side: int,
    min_side: float = 0.1,
) -> Tensor:
    """What masks should be in boxes where objects are polygons: drawn in the frame of the box.

    Args:
        polygons: of each box's object: its parts, (2 K,) x0, y0, x1, y1, ... of K >= 3 points in
            the pixels of the boxes.
        boxes: (N, 4) x0, y0, x1, y1.
        side: of the targets, S.
        min_side: smaller boxes are enlarged by no more than one of this side, in pixels:
            0.1 in detectron2, 1 in mmdetection.

    Returns:
        (N, S, S) float32, 0 or 1.

    Raises:
        ValueError: an object without polygons, or a part that is none.

    Source: detectron2, `rasterize_polygons_within_box`; mmdetection,
    `PolygonMasks.crop_and_resize`.
    """
    targets = np.zeros((len(boxes), side, side), np.float32)
    corners = boxes.detach().float().cpu().numpy()
    for number, (parts, box) in enumerate(zip(polygons, corners, strict=True)):
        # pycocotools takes four numbers for a box
        if not parts or any(part.ndim != 1 or len(part) < 6 or len(part) % 2 for part in parts):
            raise ValueError(
                f"polygons of box {number}: expected at least one, each x0, y0, x1, y1, ... of "
                f"three points or more, got shapes {[part.shape for part in parts]}"
            )
        scale = side / np.maximum(box[2:] - box[:2], np.float32(min_side))
        drawn = [((part.reshape(-1, 2) - box[:2]) * scale).ravel().tolist() for part in parts]
        code = coco_mask.merge(coco_mask.frPyObjects(drawn, side, side))
        targets[number] = coco_mask.decode(code)
    return torch.from_numpy(targets).to(boxes.device)
