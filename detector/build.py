"""A detector from a preset."""

from __future__ import annotations

from torch import nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from bpr.detector.backbone import make_backbone
from bpr.detector.presets import Preset
from bpr.detector.proposals import ProposalNetwork
from bpr.detector.roi_heads import DetectorHeads
from bpr.detector.transform import DetectorTransform


class Detector(GeneralizedRCNN):
    """Images in, instances out.

    `model(images)` in evaluation: images (3, H, W) float32 RGB in [0, 1], of any size, give a
    list of `Detections`. `model(images, targets)` in training: targets are dicts of boxes (N, 4)
    float32 x0, y0, x1, y1 in pixels of the image, labels (N,) int64 from 1, masks (N, H, W) bool
    or uint8; it gives losses by name, to be added up.

    Args:
        preset: architecture and conventions.
        categories: K, without background.
    """

    def __init__(self, preset: Preset, categories: int) -> None:
        if categories < 1:
            raise ValueError(f"categories: expected an int > 0, got {categories}")
        super().__init__(
            make_backbone(preset),
            ProposalNetwork(preset),
            DetectorHeads(preset, categories),
            DetectorTransform(preset),
        )
        self.preset = preset
        self.categories = categories


def build_detector(preset: Preset, categories: int) -> Detector:
    """A detector with random weights, in training mode.

    Args:
        preset: see `bpr.detector.presets.PRESETS`.
        categories: K, without background.

    Raises:
        ValueError: there are no categories.
    """
    return Detector(preset, categories)


def set_inference(
    model: nn.Module,
    score: float | None = None,
    nms_iou: float | None = None,
    detections: int | None = None,
    test_size: int | None = None,
    max_size: int | None = None,
) -> None:
    """Change what a detector gives out; None leaves a setting as it is.

    Args:
        model: of `build_detector`.
        score: detections need more, in [0, 1].
        nms_iou: of two detections of a category that overlap more, the better stays; in [0, 1].
        detections: of an image, at most, > 0.
        test_size: shorter side in pixels that images are resized to, > 0.
        max_size: longer side in pixels that resized images do not exceed, > 0.

    Raises:
        ValueError: a value is outside of its range.
    """
    if not isinstance(model, Detector):
        raise ValueError(f"model: expected a detector, got {type(model).__name__}")
    for name, share in (("score", score), ("nms_iou", nms_iou)):
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"{name}: expected a number in [0, 1], got {share}")
    numbers = {"detections": detections, "test_size": test_size, "max_size": max_size}
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name}: expected an int > 0, got {number}")
    heads, transform = model.roi_heads, model.transform
    heads.score_thresh = heads.score_thresh if score is None else score
    heads.nms_thresh = heads.nms_thresh if nms_iou is None else nms_iou
    heads.detections_per_img = heads.detections_per_img if detections is None else detections
    transform.test_size = transform.test_size if test_size is None else test_size
    transform.max_size = transform.max_size if max_size is None else max_size
