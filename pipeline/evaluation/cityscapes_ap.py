"""Cityscapes AP by cityscapesscripts' own evaluator, and the boundary AP made of it.

The evaluator takes what a prediction and the ground truth have in common as counts of pixels,
which it finds by comparing whole images read from files. Here they are counted in the windows of
the masks, which serves predictions that are in no file and takes a tenth of the time; everything
after that (`evaluateMatches`, `computeAverages`) is the library's. Its own reading is of no use
on numpy >= 2.4 (`np.in1d`) and leaves files in site-packages and in the working folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from bpr._extras import needs_extra
from bpr.pipeline.datasets.ground_truth import AnnotatedImage, Annotation
from bpr.pipeline.instance import Mask, Prediction
from bpr.pipeline.metrics import area, boundary_region, intersection

OVERLAPS = np.arange(0.5, 1.0, 0.05)  # as in the evaluator: 0.55 and others are not exact


@dataclass(frozen=True)
class AveragePrecision:
    """Mean over the overlaps 0.5, 0.55 ... 0.95 and at 0.5, in [0, 1]; NaN without objects."""

    ap: float
    ap_50: float


@dataclass(frozen=True)
class CityscapesResult:
    """AP of a whole data set."""

    mean: AveragePrecision  # over the labels that have objects
    by_label: Mapping[str, AveragePrecision]


class CityscapesAp:
    """Collects images; holds counts only, whatever their size.

    Args:
        categories: evaluated labels by id.
        boundary_ratio: where given, the IoU of masks is replaced by the smaller of it and
            Boundary IoU with this share of the diagonal as width; 0.005 is Cityscapes' (Cheng
            et al., CVPR 2021, boundary-iou-api).
    """

    def __init__(self, categories: Mapping[int, str], boundary_ratio: float | None = None) -> None:
        self._names = dict(categories)
        self._ratio = boundary_ratio
        self._matches: dict[str, Any] = {}

    def add(self, key: str, truth: AnnotatedImage, prediction: Prediction) -> None:
        """Count what the instances and annotations of an image have in common.

        Records hold what the evaluator reads and no more: they are what stays in memory.
        """
        found = [
            _Found.of(annotation, self._ratio)
            for label in self._names
            for annotation in truth.annotations
            if annotation.label == label
        ]
        truths: dict[str, list[dict[str, Any]]] = {name: [] for name in self._names.values()}
        for item in found:
            truths[self._names[item.annotation.label]].append(item.record | {"matchedPred": []})
        predictions: dict[str, list[dict[str, Any]]] = {name: [] for name in truths}
        instances = [
            instance
            for instance in prediction.instances
            if instance.label in self._names and not instance.mask.is_empty
        ]
        for instance in instances:
            name = self._names[instance.label]
            pixels = instance.mask.area
            record = {
                "pixelCount": pixels,
                "confidence": instance.score,
                "voidIntersection": pixels - area(instance.mask, truth.ignore),
            }
            region = _region(instance.mask, self._ratio)
            matched = []
            same_label = [item for item in found if item.annotation.label == instance.label]
            for position, item in enumerate(same_label):
                common = intersection(instance.mask, item.annotation.mask)
                if common == 0:
                    continue
                seen_by_truth = {
                    "pixelCount": pixels,
                    "confidence": instance.score,
                    "intersection": common,
                }
                seen_by_instance = item.record | {"intersection": common}
                if region is not None:
                    assert item.region is not None
                    shared = intersection(region, item.region)
                    if shared == 0:
                        continue
                    union = region.area + item.region.area - shared
                    if shared * (item.pixels + pixels - common) < common * union:
                        _show_quotient(seen_by_truth, shared, union, item.pixels)
                        if not item.annotation.is_crowd and item.pixels >= _MIN_REGION:
                            _show_quotient(seen_by_instance, shared, union, pixels)
                truths[name][position]["matchedPred"].append(seen_by_truth)
                matched.append(seen_by_instance)
            predictions[name].append(record | {"matchedGt": matched})
        self._matches[key] = {"groundTruth": truths, "prediction": predictions}

    def result(self) -> CityscapesResult:
        """Run the evaluator on what was collected."""
        with needs_extra("Cityscapes AP"):
            from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as evaluator
        arguments = SimpleNamespace(
            overlaps=OVERLAPS,
            minRegionSizes=np.array([_MIN_REGION]),
            distanceThs=np.array([math.inf]),
            distanceConfs=np.array([-math.inf]),
            distanceAvailable=False,
            instLabels=list(self._names.values()),
        )
        values = evaluator.evaluateMatches(self._matches, arguments)
        if np.isnan(values).all():  # its mean would warn
            nothing = AveragePrecision(math.nan, math.nan)
            return CityscapesResult(nothing, dict.fromkeys(arguments.instLabels, nothing))
        averages = evaluator.computeAverages(values, arguments)
        return CityscapesResult(
            AveragePrecision(float(averages["allAp"]), float(averages["allAp50%"])),
            {
                name: AveragePrecision(float(found["ap"]), float(found["ap50%"]))
                for name, found in averages["classes"].items()
            },
        )


_MIN_REGION = 100  # px; the evaluator passes over smaller objects


@dataclass(frozen=True, eq=False)
class _Found:
    """An annotation as the evaluator sees it."""

    annotation: Annotation
    pixels: int
    region: Mask | None  # boundary region, where wanted
    record: dict[str, Any]

    @classmethod
    def of(cls, annotation: Annotation, ratio: float | None) -> _Found:
        pixels = annotation.mask.area
        record = {
            "instID": annotation.id,
            "pixelCount": pixels,
            "medDist": -1,
            "distConf": 0.0,
        }
        return cls(annotation, pixels, _region(annotation.mask, ratio), record)


def _region(mask: Mask, ratio: float | None) -> Mask | None:
    if ratio is None:
        return None
    distance = max(round(ratio * math.hypot(*mask.size)), 1)
    return boundary_region(mask, distance)


def _show_quotient(record: dict[str, Any], common: int, union: int, other: int) -> None:
    """Make the evaluator find the overlap common / union, to the last bit.

    It divides the record's `intersection` by the sum of both `pixelCount`s without it. A multiple
    of both numbers keeps the count above the least size of an object.
    """
    factor = 1 + (_MIN_REGION + other) // union
    record["intersection"] = factor * common
    record["pixelCount"] = factor * (union + common) - other
