"""Which average precisions a kind of ground truth has, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bpr.pipeline.datasets.coco_truth import CocoTruth
from bpr.pipeline.datasets.ground_truth import AnnotatedImage, GroundTruth
from bpr.pipeline.datasets.precision_rules import (
    CITYSCAPES,
    LVIS,
    ONE_CATEGORY,
    PrecisionRules,
)
from bpr.pipeline.evaluation.cityscapes_ap import CityscapesAp, CityscapesResult
from bpr.pipeline.evaluation.coco_ap import (
    CocoRecords,
    CocoResult,
    TruthRecords,
    boundary_ap,
    coco_ap,
    lvis_ap,
)
from bpr.pipeline.evaluation.keypoint_ap import has_keypoints, keypoint_ap, keypoint_record
from bpr.pipeline.evaluation.matching import MatchSettings, match
from bpr.pipeline.evaluation.pixel_accuracy import (
    PixelAccuracy,
    mean_accuracy,
    pixel_accuracy,
)
from bpr.pipeline.instance import Prediction


@dataclass(frozen=True)
class Averages:
    """Average precisions of one run, by name, in [0, 1]; NaN where there is nothing to find."""

    values: Mapping[str, float]
    by_label: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Of each measure that knows categories: by category name."""
    accuracy: PixelAccuracy | None = None  # mean over the objects found


@dataclass(eq=False)
class Truths:
    """The annotated images that all runs are judged by."""

    records: TruthRecords
    ids: dict[str, int]  # number of each image
    is_needed: bool = True  # the rules of Cityscapes take no records

    def add(self, key: str, truth: AnnotatedImage) -> int:
        """Note an image; returns its number."""
        image_id = self.ids.setdefault(key, len(self.ids) + 1)
        if self.is_needed:
            self.records.add(image_id, truth, key)
        return image_id


class AveragePrecisions:
    """Collects one run, and measures it by the rules of the ground truth."""

    def __init__(self, truth: GroundTruth, class_agnostic: bool, boundary_ratio: float) -> None:
        self._rules = rules_of(truth, class_agnostic)
        self._ratio = boundary_ratio
        self._records = CocoRecords(class_agnostic)
        self._matching = MatchSettings(class_agnostic=class_agnostic)
        self._accuracies: list[PixelAccuracy] = []
        self._keypoints: list[dict[str, Any]] = []
        self._cityscapes: tuple[CityscapesAp, CityscapesAp] | None = None
        if self._rules == CITYSCAPES:
            categories = truth.categories or {}
            self._cityscapes = (
                CityscapesAp(categories),
                CityscapesAp(categories, boundary_ratio),
            )

    @staticmethod
    def truth_records(truth: GroundTruth, matching: MatchSettings) -> Truths:
        """An empty collection of the ground truth."""
        categories = None if matching.class_agnostic else truth.categories
        if not isinstance(truth, CocoTruth):
            by_cityscapes = rules_of(truth, matching.class_agnostic) == CITYSCAPES
            return Truths(TruthRecords(categories), {}, is_needed=not by_cityscapes)
        # ties of scores go by the order of the numbers: that of the ids
        numbers = {key: n for n, key in enumerate(sorted(truth.keys(), key=truth.rank), start=1)}
        return Truths(TruthRecords(categories, truth), numbers)

    def add(
        self,
        key: str,
        image_id: int,
        truth: AnnotatedImage,
        prediction: Prediction,
        as_read: bool = True,
    ) -> None:
        """Note the instances of an image, as they were read or with other masks."""
        self._accuracies += [
            pixel_accuracy(found.instance.mask, found.annotation.mask, truth.ignore)
            for found in match(truth, prediction, self._matching).matches
            if found.instance is not None
        ]
        if self._cityscapes is None:
            self._records.add(image_id, prediction, as_read)
            self._keypoints += [
                keypoint_record(instance.record, image_id)
                for instance in prediction.instances
                if {"keypoints", "category_id", "score"} <= instance.record.keys()
            ]
            return
        for measure in self._cityscapes:
            measure.add(key, truth, prediction)

    def averages(self, truths: Truths) -> Averages:
        """Run the evaluators."""
        found = self._precisions(truths)
        if self._keypoints:
            dataset = truths.records.dataset()
            if has_keypoints(dataset):
                values = {**found.values, **keypoint_ap(dataset, self._keypoints)}
                found = replace(found, values=values)
        return replace(found, accuracy=mean_accuracy(self._accuracies))

    def _precisions(self, truths: Truths) -> Averages:
        if self._cityscapes is not None:
            masks, boundaries = (measure.result() for measure in self._cityscapes)
            return _cityscapes_averages(masks, boundaries)
        dataset = truths.records.dataset()
        records = self._records.records
        names = {item["id"]: str(item.get("name", item["id"])) for item in dataset["categories"]}
        if self._rules == LVIS:
            return _coco_averages(
                lvis_ap(dataset, records, None), lvis_ap(dataset, records, self._ratio), names
            )
        agnostic = self._rules == ONE_CATEGORY
        return _coco_averages(
            coco_ap(dataset, records, agnostic),
            boundary_ap(dataset, records, self._ratio, agnostic),
            names,
        )


def rules_of(truth: GroundTruth, class_agnostic: bool) -> PrecisionRules:
    """By whose rules predictions are measured against a ground truth."""
    return ONE_CATEGORY if class_agnostic else truth.rules


def _cityscapes_averages(masks: CityscapesResult, boundaries: CityscapesResult) -> Averages:
    return Averages(
        {
            "AP": masks.mean.ap,
            "AP50": masks.mean.ap_50,
            "boundary AP": boundaries.mean.ap,
            "boundary AP50": boundaries.mean.ap_50,
        },
        {
            "AP": {name: found.ap for name, found in masks.by_label.items()},
            "AP50": {name: found.ap_50 for name, found in masks.by_label.items()},
            "boundary AP": {name: found.ap for name, found in boundaries.by_label.items()},
        },
    )


def _coco_averages(masks: CocoResult, boundaries: CocoResult, names: Mapping[int, str]) -> Averages:
    values = dict(masks.values) | {
        f"boundary {name}": value
        for name, value in boundaries.values.items()
        if name.startswith("AP")
    }
    if not masks.by_label:
        return Averages(values)
    return Averages(
        values,
        {
            "AP": {names[label]: value for label, value in masks.by_label.items()},
            "boundary AP": {names[label]: value for label, value in boundaries.by_label.items()},
        },
    )
