"""What kind of error each wrong instance and each missed object is.

Source: Bolya et al., TIDE, ECCV 2020 (arXiv:2008.08115), section 3.1, with its thresholds. Errors
are counted; what each kind costs in AP is not computed. TIDE's error of both kinds (a wrong
category in a poor place) counts as `location_and_category`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple, dataclass

import numpy as np

from bpr.pipeline.datasets.ground_truth import AnnotatedImage
from bpr.pipeline.evaluation.matching import MatchSettings, is_excused
from bpr.pipeline.instance import Prediction
from bpr.pipeline.metrics import mask_iou

FOUND, TOUCHED = 0.5, 0.1
"""Mask IoU from which an instance is in the right place, and from which it is near an object."""

CATEGORY, LOCATION, DUPLICATE = "category", "location", "duplicate"
LOCATION_AND_CATEGORY, BACKGROUND, MISSED = "location_and_category", "background", "missed"
TITLES = {
    CATEGORY: "wrong category",
    LOCATION: "poor localisation",
    LOCATION_AND_CATEGORY: "wrong category, poor localisation",
    DUPLICATE: "duplicate",
    BACKGROUND: "background",
    MISSED: "missed",
}
"""What readers see of each kind."""


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


@dataclass(frozen=True)
class ImageErrors:
    """The errors of one image."""

    instances: tuple[str | None, ...]
    """Kind of each instance, a key of `TITLES`; None: it is right, or excused."""
    objects: tuple[str | None, ...]
    """Of each object without an instance: the kind of error that explains it, or `MISSED`."""

    @property
    def counts(self) -> ErrorCounts:
        """Each error once: objects that an instance's error explains do not count again."""
        kinds = Counter(kind for kind in self.instances if kind)
        return ErrorCounts(**kinds, missed=self.objects.count(MISSED))


def find_errors(
    truth: AnnotatedImage, prediction: Prediction, class_agnostic: bool = False
) -> ImageErrors:
    """Sort the errors of one image.

    Instances of which more than half is ignored, or in a crowd of their category, are no errors.

    Args:
        truth: objects of the image.
        prediction: of the image.
        class_agnostic: whether all categories count as one.
    """
    objects, instances = truth.objects, prediction.instances
    settings = MatchSettings(FOUND, class_agnostic)
    shape = (len(instances), len(objects))
    ious = np.array(
        [[mask_iou(one.mask, item.mask, truth.ignore) for item in objects] for one in instances],
        np.float64,
    ).reshape(shape)
    same = np.array(
        [[class_agnostic or one.label == item.label for item in objects] for one in instances],
        np.bool_,
    ).reshape(shape)
    taken = np.zeros(len(objects), np.bool_)
    of_objects: list[str | None] = [MISSED] * len(objects)
    of_instances: list[str | None] = [None] * len(instances)
    for index in sorted(range(len(instances)), key=lambda index: -instances[index].score):
        own = np.where(same[index], ious[index], 0.0)
        other = np.where(same[index], 0.0, ious[index])
        free = np.where(taken, 0.0, own)
        if len(objects) and free.max() >= FOUND:
            taken[free.argmax()] = True
        elif is_excused(instances[index], truth, settings):
            continue
        elif len(objects) and own.max() >= FOUND:
            of_instances[index] = DUPLICATE
        elif len(objects) and other.max() >= FOUND:
            of_instances[index] = CATEGORY
            of_objects[other.argmax()] = CATEGORY
        elif len(objects) and own.max() >= TOUCHED:
            of_instances[index] = LOCATION
            of_objects[own.argmax()] = LOCATION
        elif len(objects) and other.max() >= TOUCHED:
            of_instances[index] = LOCATION_AND_CATEGORY
        else:
            of_instances[index] = BACKGROUND
    return ImageErrors(
        tuple(of_instances),
        tuple(None if has else kind for has, kind in zip(taken, of_objects, strict=True)),
    )
