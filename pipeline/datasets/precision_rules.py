"""By whose rules average precision is measured, and the words that explain the figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PrecisionRules:
    """The rules of one benchmark."""

    name: str
    masks: str  # what its average precision is, for the report
    boundaries: str  # the same for boundary AP


CITYSCAPES = PrecisionRules(
    "Cityscapes",
    "AP, AP50: cityscapesscripts' own evaluator (evaluateMatches), mean over the IoU "
    "thresholds 0.50 to 0.95 and at 0.50, then over the categories that have objects. "
    "Objects under 100 pixels, groups and void pixels are not counted.",
    "The same evaluator and rules, with the smaller of mask IoU and Boundary IoU in the place "
    "of IoU (Cheng et al., CVPR 2021; boundary-iou-api).",
)
COCO = PrecisionRules(
    "COCO",
    "AP family: pycocotools (COCOeval, segm), 100 instances an image, sizes by the "
    "annotations' area.",
    "faster-coco-eval, iouType boundary: the smaller of mask IoU and Boundary IoU in the place "
    "of IoU (Cheng et al., CVPR 2021).",
)
LVIS = PrecisionRules(
    "LVIS",
    "AP family by the rules of LVIS (faster-coco-eval, lvis_style): up to 300 instances an "
    "image; a category counts in the images where it was looked for. With COCO categories this "
    "is AP* of RefineMask.",
    "The same with the smaller of mask IoU and Boundary IoU (Cheng et al., CVPR 2021).",
)
ONE_CATEGORY = PrecisionRules(
    "COCO, labels not compared",
    f"All categories count as one: {COCO.masks}",
    f"All categories count as one: {COCO.boundaries}",
)
"""For every kind of ground truth where labels are not compared."""
