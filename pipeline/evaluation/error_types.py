"""What kind of error each wrong instance and each missed object is.

Source: Bolya et al., TIDE, ECCV 2020 (arXiv:2008.08115), section 3.1, with its thresholds. Errors
are counted; what each kind costs in AP is not computed. TIDE's error of both kinds (a wrong
category in a poor place) counts as `location_and_category`.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

from bpr.pipeline.datasets.ground_truth import AnnotatedImage
from bpr.pipeline.instance import Prediction
from bpr.pipeline.metrics import area, intersection, mask_iou

FOUND, TOUCHED = 0.5, 0.1
"""Mask IoU from which an instance is in the right place, and from which it is near an object."""


@dataclass(frozen=True, kw_only=True)
class ErrorCounts:
    """How many errors of each kind there are."""

    category: int = 0  # right place, wrong category
    location: int = 0  # near an object of its category, in a poor place
    location_and_category: int = 0  # near an object of another category, in a poor place
    duplicate: int = 0  # right place and category, but a surer instance has the object
    background: int = 0  # near no object
    missed: int = 0  # objects that no instance has, and no error of category or location explains

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        sums = (a + b for a, b in zip(astuple(self), astuple(other), strict=True))
        return ErrorCounts(**dict(zip(self.__dataclass_fields__, sums, strict=True)))


def error_types(
    truth: AnnotatedImage, prediction: Prediction, class_agnostic: bool = False
) -> ErrorCounts:
    """Sort the errors of one image.

    Instances of which more than half is ignored or in a crowd are no errors.

    Args:
        truth: objects of the image.
        prediction: of the image.
        class_agnostic: whether all categories count as one.
    """
    objects = truth.objects
    order = sorted(
        range(len(prediction.instances)), key=lambda index: -prediction.instances[index].score
    )
    ious = np.array(
        [
            [
                mask_iou(prediction.instances[index].mask, item.mask, truth.ignore)
                for item in objects
            ]
            for index in order
        ],
        np.float64,
    ).reshape(len(order), len(objects))
    same = np.array(
        [
            [class_agnostic or prediction.instances[index].label == item.label for item in objects]
            for index in order
        ],
        np.bool_,
    ).reshape(ious.shape)
    taken = np.zeros(len(objects), np.bool_)
    explained = np.zeros(len(objects), np.bool_)
    counts = dict.fromkeys(ErrorCounts.__dataclass_fields__, 0)
    for row, index in enumerate(order):
        own = np.where(same[row], ious[row], 0.0)
        other = np.where(same[row], 0.0, ious[row])
        free = np.where(taken, 0.0, own)
        if len(objects) and free.max() >= FOUND:
            taken[free.argmax()] = True
        elif _is_excused(truth, prediction, index):
            continue
        elif len(objects) and own.max() >= FOUND:
            counts["duplicate"] += 1
        elif len(objects) and other.max() >= FOUND:
            counts["category"] += 1
            explained[other.argmax()] = True
        elif len(objects) and own.max() >= TOUCHED:
            counts["location"] += 1
            explained[own.argmax()] = True
        elif len(objects) and other.max() >= TOUCHED:
            counts["location_and_category"] += 1
        else:
            counts["background"] += 1
    counts["missed"] = int((~taken & ~explained).sum())
    return ErrorCounts(**counts)


def _is_excused(truth: AnnotatedImage, prediction: Prediction, index: int) -> bool:
    mask = prediction.instances[index].mask
    if 2 * (mask.area - area(mask, truth.ignore)) >= mask.area:
        return True
    crowds = (item.mask for item in truth.annotations if item.is_crowd)
    return any(2 * intersection(mask, crowd) > mask.area for crowd in crowds)
