"""Which predicted instance belongs to which object of the ground truth.

Each object is given its best positive prediction: among the instances of its label that overlap
it by at least `positive_iou`, the one with the largest IoU (ties: the higher score, then the
earlier one). An instance may serve two objects; an object without a positive one is missed and
counts in no mean.

Source: Zhang et al., RefineMask, CVPR 2021 (arXiv:2104.08569), appendix A.2: "the ground truth
mask and its positive prediction mask with maximum IoU [...] ignored if there was no positive
prediction". It does not say from which IoU on a prediction is positive; 0.5 is usual.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bpr.pipeline.datasets.ground_truth import AnnotatedImage, Annotation
from bpr.pipeline.instance import Instance, Prediction
from bpr.pipeline.metrics import area, intersection, mask_iou


@dataclass(frozen=True)
class MatchSettings:
    """When an instance is a positive prediction of an object."""

    positive_iou: float = 0.5  # least mask IoU, in (0, 1]
    class_agnostic: bool = False  # whether labels are ignored

    def __post_init__(self) -> None:
        if not 0 < self.positive_iou <= 1:
            raise ValueError(f"positive_iou: expected a number in (0, 1], got {self.positive_iou}")


@dataclass(frozen=True, eq=False)
class Match:
    """An object and its best positive prediction."""

    annotation: Annotation
    instance: Instance | None  # None: missed
    index: int  # of the instance in its prediction; -1: missed
    iou: float  # of the masks, 0 where missed


@dataclass(frozen=True, eq=False)
class Matching:
    """The matches of one image, one for each object, in their order."""

    matches: tuple[Match, ...]
    false: tuple[int, ...]
    """Indices of the instances that are positive for no object and not mostly in a crowd or
    ignored."""

    @property
    def num_false(self) -> int:
        """How many instances belong to no object."""
        return len(self.false)


def match(truth: AnnotatedImage, prediction: Prediction, settings: MatchSettings) -> Matching:
    """Give each object its best positive prediction; ignored pixels count in no IoU."""
    best: list[tuple[float, float, int]] = []  # IoU, score, -index
    positive = np.zeros(len(prediction.instances), np.bool_)
    objects = truth.objects
    for annotation in objects:
        found = (0.0, 0.0, 1)
        for index, instance in enumerate(prediction.instances):
            if not settings.class_agnostic and instance.label != annotation.label:
                continue
            iou = mask_iou(instance.mask, annotation.mask, truth.ignore)
            if iou >= settings.positive_iou:
                positive[index] = True
                found = max(found, (iou, instance.score, -index))
        best.append(found)
    matches = tuple(
        Match(annotation, prediction.instances[-minus], -minus, iou)
        if minus <= 0
        else Match(annotation, None, -1, 0.0)
        for annotation, (iou, _, minus) in zip(objects, best, strict=True)
    )
    false = tuple(
        index
        for index, instance in enumerate(prediction.instances)
        if not positive[index] and not is_excused(instance, truth, settings)
    )
    return Matching(matches, false)


def is_excused(instance: Instance, truth: AnnotatedImage, settings: MatchSettings) -> bool:
    """Whether more than half of an instance is in one crowd of its label, or ignored.

    An empty instance is excused too.
    """
    total = instance.mask.area
    if 2 * (total - area(instance.mask, truth.ignore)) >= total:
        return True
    return any(
        2 * intersection(instance.mask, crowd.mask) > total
        for crowd in _crowds(truth, instance.label, settings)
    )


def _crowds(truth: AnnotatedImage, label: int, settings: MatchSettings) -> Iterator[Annotation]:
    for item in truth.annotations:
        if item.is_crowd and (settings.class_agnostic or item.label == label):
            yield item
