"""Average precision of keypoints, AP^kp, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

NUMBER = 17
"""Points of COCO's persons: the only ones whose tolerances are published."""

_NAMES = ("AP_kp", "AP_kp50", "AP_kp75", "AP_kp_medium", "AP_kp_large")


def has_keypoints(dataset: Mapping[str, Any]) -> bool:
    """Whether a COCO data set has COCO's keypoints."""
    return any(len(item.get("keypoints", ())) == 3 * NUMBER for item in dataset["annotations"])


def keypoint_record(record: Mapping[str, Any], image_id: int) -> dict[str, Any]:
    """What the evaluator needs of an entry of COCO results with `keypoints`."""
    return {
        "image_id": image_id,
        "category_id": record["category_id"],
        "keypoints": list(record["keypoints"]),
        "score": record["score"],
    }


def keypoint_ap(
    dataset: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """AP of keypoints, each in [0, 1]; NaN where there is nothing to find.

    Args:
        dataset: COCO ground truth; annotations without keypoints count as persons without any.
        records: of `keypoint_record`.
    """
    annotations = [_with_counts(item) for item in dataset["annotations"]]
    labels = sorted({item["category_id"] for item in annotations if item["num_keypoints"]})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, **dataset, "annotations": annotations}
        truth.createIndex()
        results = truth.loadRes([dict(record) for record in records]) if records else COCO()
        if not records:
            results.dataset = {**truth.dataset, "annotations": []}
            results.createIndex()
        evaluation = COCOeval(truth, results, "keypoints")
        evaluation.params.catIds = labels
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = [float(value) for value in evaluation.stats[: len(_NAMES)]]
    return {
        name: value if value > -1 else math.nan for name, value in zip(_NAMES, values, strict=True)
    }


def _with_counts(item: Mapping[str, Any]) -> dict[str, Any]:
    points = list(item.get("keypoints") or [0] * 3 * NUMBER)
    visible = sum(flag > 0 for flag in points[2::3])
    return {**item, "keypoints": points, "num_keypoints": visible}
