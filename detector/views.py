"""One image seen several times: mirrored and at other sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection.transform import resize_boxes, resize_keypoints
from torchvision.ops import batched_nms, clip_boxes_to_image

from bpr.detector.build import Detector
from bpr.detector.detections import Detections


@dataclass(frozen=True, eq=False)
class _View:
    """An image as the network saw it once."""

    features: dict[str, Tensor]
    size: tuple[int, int]  # height, width in the network, without padding
    mirrored: bool


def detect_views(model: Detector, image: Tensor, scales: Sequence[int], flip: bool) -> Detections:
    """Find instances in an image and its views.

    Boxes of all views are put together and thinned by NMS in each category; then every view draws
    the masks of those that stay, and their probabilities are averaged. Keypoints are those of the
    first view.

    Args:
        model: in evaluation mode.
        image: (3, H, W) float32 RGB in [0, 1], on the model's device.
        scales: shorter sides in pixels; none stands for the model's own. The longer side grows
            as they do.
        flip: see each mirrored too.

    Returns:
        As the model's own, best first.

    Source: detectron2, `GeneralizedRCNNWithTTA`.
    """
    full = (image.shape[-2], image.shape[-1])
    heads = model.roi_heads
    views, boxes, scores, labels = [], [], [], []
    for scale in scales or (model.transform.test_size,):
        for mirrored in (False, True) if flip else (False,):
            view, proposals = _look(model, image, scale, mirrored)
            views.append(view)
            found, score, label = heads.detect(view.features, proposals, [view.size])
            boxes.append(_mirrored(resize_boxes(found[0], view.size, full), full, mirrored))
            scores.append(score[0])
            labels.append(label[0])
    box, score, label = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
    box = clip_boxes_to_image(box, full)
    chosen = (box[:, 2:] > box[:, :2]).all(dim=1)
    box, score, label = box[chosen], score[chosen], label[chosen]
    keep = batched_nms(box, score, label, heads.nms_thresh)[: heads.detections_per_img]
    box, score, label = box[keep], score[keep], label[keep]
    probability: Tensor | None = None
    for view in views:
        seen = resize_boxes(_mirrored(box, full, view.mirrored), full, view.size)
        (drawn,) = heads.mask_branch.predict(view.features, [seen], [label])
        drawn = drawn.flip(-1) if view.mirrored else drawn
        probability = drawn if probability is None else probability + drawn
    assert probability is not None
    points = None
    if heads.points is not None:  # heat maps of several views have no common frame
        (points,) = heads.points.predict(
            views[0].features, [resize_boxes(box, full, views[0].size)]
        )
        points = resize_keypoints(points, views[0].size, full)
    return Detections(
        boxes=box,
        labels=label,
        scores=score,
        mask_probabilities=probability / len(views),
        size=full,
        keypoints=points,
    )


def _look(model: Detector, image: Tensor, scale: int, mirrored: bool) -> tuple[_View, list[Tensor]]:
    transform = model.transform
    own = transform.test_size, transform.max_size
    transform.test_size = scale
    transform.max_size = max(round(own[1] * scale / own[0]), scale)
    try:
        images, _ = transform([image.flip(-1) if mirrored else image])
    finally:
        transform.test_size, transform.max_size = own
    features = model.backbone(images.tensors)
    proposals, _ = model.rpn(images, features)
    return _View(features, images.image_sizes[0], mirrored), proposals


def _mirrored(boxes: Tensor, size: tuple[int, int], mirrored: bool) -> Tensor:
    if not mirrored:
        return boxes
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    return torch.stack([size[1] - x1, y0, size[1] - x0, y1], dim=1)
