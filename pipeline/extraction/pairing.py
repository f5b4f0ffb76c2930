"""Which accurate mask a coarse one should have been: the target of its patches.

Not the matching of `bpr.pipeline.evaluation.matching`, which gives each object its best instance:
here each instance gets its best object, and several may get the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bpr.pipeline.datasets.ground_truth import AnnotatedImage, Annotation
from bpr.pipeline.instance import Instance, Mask, Size
from bpr.pipeline.metrics import mask_iou


@dataclass(frozen=True, eq=False)
class Pair:
    """A coarse instance and its ground truth."""

    instance: Instance
    gt: Mask
    iou: float  # of the two masks
    annotation: int | None  # id of the ground truth in its file; None: the label has none here


def best_pair(instance: Instance, truth: AnnotatedImage, class_agnostic: bool) -> Pair:
    """Pair an instance with the object of its label that overlaps it most.

    However small the overlap is, the first object wins among equals, also at IoU 0; without any
    object of the label the ground truth is empty. Crowds are no objects.

    Source: query_gt_mask in tools/split_patches.py of the reference.
    """
    best = Pair(instance, _empty(truth.size), 0.0, None)
    for annotation in truth.objects:
        if class_agnostic or annotation.label == instance.label:
            iou = mask_iou(instance.mask, annotation.mask)
            if best.annotation is None or iou > best.iou:
                best = _pair(instance, annotation, iou)
    return best


def _pair(instance: Instance, annotation: Annotation, iou: float) -> Pair:
    return Pair(instance, annotation.mask, iou, annotation.id)


def _empty(size: Size) -> Mask:
    return Mask(np.zeros((0, 0), np.bool_), (0, 0, 0, 0), size)
