"""The best that refining patches could reach: the ground truth inside the patches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bpr.pipeline.datasets.ground_truth import AnnotatedImage
from bpr.pipeline.evaluation.matching import MatchSettings, match
from bpr.pipeline.geometry import reassemble, select_patches
from bpr.pipeline.instance import Mask, Prediction
from bpr.pipeline.settings import PatchSettings


def perfect_patches(mask: Mask, gt: Mask, settings: PatchSettings) -> Mask:
    """A mask with the ground truth inside its boundary patches."""
    boxes = select_patches(mask, settings)
    if len(boxes) == 0:
        return mask
    return reassemble(mask, boxes, np.stack([gt.read(tuple(box)) for box in boxes.tolist()]))


def ceiling(
    truth: AnnotatedImage,
    prediction: Prediction,
    matching: MatchSettings,
    patches: PatchSettings,
) -> Prediction:
    """Refine every instance that is some object's best positive prediction, perfectly.

    An instance that is best for two objects gets the one that it overlaps more. Others, for which
    nobody knows what is right, stay.
    """
    owners: dict[int, tuple[float, Mask]] = {}
    for item in match(truth, prediction, matching).matches:
        if item.instance is not None and item.iou > owners.get(item.index, (0.0,))[0]:
            owners[item.index] = (item.iou, item.annotation.mask)
    instances = list(prediction.instances)
    for index, (_, gt) in owners.items():
        instance = instances[index]
        instances[index] = replace(instance, mask=perfect_patches(instance.mask, gt, patches))
    return replace(prediction, instances=tuple(instances))
