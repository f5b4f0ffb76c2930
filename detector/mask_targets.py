"""What masks should be in boxes on objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import roi_align

Polygons = Sequence[np.ndarray[Any, Any]]
"""Of one object: its parts, each (2 K,) x0, y0, x1, y1, ... of K >= 3 points."""


DETECTRON2_MIN_SIDE, MMDETECTION_MIN_SIDE = 0.1, 1.0
"""Pixels: see `polygon_targets`."""


class Positives(NamedTuple):
    """Boxes on objects, from which a branch learns, all images of a batch in a row."""

    rois: Tensor  # (N, 5) image and box in pixels of the network's input
    labels: Tensor  # (N,) int64, 1 to K
    objects: Tensor  # (N,) int64, the object in its image
    masks: Sequence[Tensor]  # of each image (M, h, w) bool or uint8, of any resolution
    sizes: Sequence[tuple[int, int]]  # height, width of each image as the network sees it
    padded: tuple[int, int]  # height, width of the batch of images
    polygons: Sequence[Sequence[Polygons]]  # of each image, of each object, in pixels of its
    # mask, which was drawn from them; none where it was not
    mmdetection: bool = False  # move corners of boxes into the image before, and enlarge polygons
    # in boxes of less than a pixel no further, as it does; else as detectron2


def mask_targets(positives: Positives, sides: Sequence[int]) -> list[Tensor]:
    """What masks should be in boxes: the objects' polygons drawn there, or their masks resized.

    Bitmaps are cut from masks as they came, not from masks resized with the image: their
    boundaries are better, and no stack of them is copied.

    Args:
        positives: boxes and their objects.
        sides: of the targets, S.

    Returns:
        For each side (N, S, S) float32, 0 or 1.

    Source: detectron2, `BitMasks.crop_and_resize`; mmdetection, `BitmapMasks.crop_and_resize`.
    """
    rois = positives.rois
    min_side = MMDETECTION_MIN_SIDE if positives.mmdetection else DETECTRON2_MIN_SIDE
    targets = [rois.new_zeros((len(rois), side, side), dtype=torch.float32) for side in sides]
    for image, (masks, (height, width), polygons) in enumerate(
        zip(positives.masks, positives.sizes, positives.polygons, strict=True)
    ):
        here = torch.where(rois[:, 0] == image)[0]
        scale = np.array([masks.shape[2] / width, masks.shape[1] / height])  # of the mask
        boxes = rois[here, 1:].float()
        if positives.mmdetection:
            limit = boxes.new_tensor([width, height] * 2)
            boxes = torch.minimum(boxes.clamp(min=0), limit)
        # one mask at a time: all of them as float32 may be gigabytes
        for number in sorted(set(positives.objects[here].tolist())):
            chosen = torch.where(positives.objects[here] == number)[0]
            parts = [(part.reshape(-1, 2) / scale).ravel() for part in polygons[number]]
            of_object = boxes[chosen]
            if parts:
                outlined = [parts] * len(chosen)
                drawn = [polygon_targets(outlined, of_object, side, min_side) for side in sides]
            else:
                drawn = _bitmap_targets(
                    masks[number], of_object * of_object.new_tensor([*scale] * 2), sides
                )
            for target, masks_of_side in zip(targets, drawn, strict=True):
                target[here[chosen]] = masks_of_side
    return targets


def _bitmap_targets(mask: Tensor, boxes: Tensor, sides: Sequence[int]) -> list[Tensor]:
    """(H, W) mask and (N, 4) boxes in its pixels -> for each side (N, S, S) float32, 0 or 1."""
    pixels = mask[None, None].float()
    drawn = [
        roi_align(pixels, [boxes], side, 1.0, sampling_ratio=0, aligned=True) for side in sides
    ]
    return [(cut[:, 0] >= 0.5).float() for cut in drawn]


def polygon_targets(
    polygons: Sequence[Polygons],
    boxes: Tensor,
    side: int,
    min_side: float,
) -> Tensor:
    """What masks should be in boxes where objects are polygons: drawn in the frame of the box.

    Args:
        polygons: of each box's object, in the pixels of the boxes.
        boxes: (N, 4) x0, y0, x1, y1.
        side: of the targets, S.
        min_side: smaller boxes are enlarged by no more than one of this side, in pixels.

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
