"""The report as data: what `report.json` holds, and what the page and the tables show.

Its form is versioned: fields may be added under the same version, a field that goes or changes
its meaning makes a new one. `docs/evaluation.md` describes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from bpr._paths import AnyPath
from bpr.pipeline.evaluation.bootstrap import COVERAGE, NUM_DRAWS, ImageBootstrap
from bpr.pipeline.evaluation.comparison import (
    BOUNDARY_IOU,
    ScoreTable,
    compare,
    histogram,
    is_found,
    paired_means,
    share_of_possible,
)
from bpr.pipeline.evaluation.definitions import definitions
from bpr.pipeline.evaluation.inputs import CEILING
from bpr.pipeline.evaluation.result import Evaluation, ObjectInfo, RunResult, WrongInstance
from bpr.pipeline.evaluation.scores import SCORE_NAMES, SIZE_CLASSES
from bpr.pipeline.instance import BoolArray

SCHEMA = "bpr.evaluate/1"
NUM_WORST = 20
# Boundary IoU; what changes more counts at the ends
HISTOGRAM_EDGES = np.round(np.arange(-0.3, 0.3001, 0.01), 2)

Json = dict[str, Any]


def build_report(evaluation: Evaluation, about: Mapping[str, Any]) -> Json:
    """Everything that was found, ready for json; numbers that do not exist are null.

    Args:
        evaluation: from `evaluate`.
        about: what the caller wants to be remembered, json-ready: paths, versions, weights.
    """
    settings = evaluation.settings
    bootstrap = _bootstrap(evaluation)
    content: Json = _without_nan(
        {
            "schema": SCHEMA,
            "about": dict(about),
            "settings": {
                "positive_iou": settings.matching.positive_iou,
                "class_agnostic": settings.matching.class_agnostic,
                "boundary_ratio": settings.boundary_ratio,
                "threshold": settings.threshold,
                "ceiling_patches": asdict(settings.patches),
                "interval": {"coverage": COVERAGE, "draws_of_images": NUM_DRAWS},
            },
            "definitions": definitions(evaluation),
            "ground_truth": {
                "kind": evaluation.kind,
                "images": len(evaluation.images),
                "objects": len(evaluation.objects),
                "crowds": evaluation.num_crowds,
                "images_with_ignored_pixels": evaluation.num_ignored_images,
            },
            "problems": {
                "failures": [asdict(item) for item in evaluation.failures],
                "images_without_prediction": list(evaluation.without_prediction),
                "predictions_without_ground_truth": list(evaluation.without_truth),
                "images_with_other_instances_after": evaluation.unlike_images,
                "annotations_left_out": [asdict(item) for item in evaluation.left_out],
            },
            "base": evaluation.base.name,
            "focus": evaluation.focus,
            "runs": [_run(evaluation, run, bootstrap) for run in evaluation.runs],
            "worst": _worst(evaluation),
            "instances": [
                _instance(evaluation, index, item) for index, item in enumerate(evaluation.objects)
            ],
            "false_instances": [
                _wrong(evaluation, item) for item in evaluation.wrong if not item.is_duplicate
            ],
            "duplicates": [
                _wrong(evaluation, item) for item in evaluation.wrong if item.is_duplicate
            ],
        }
    )
    return content


def is_own_report(path: AnyPath) -> bool:
    """Whether a file is a report of `bpr evaluate`, which the next one may replace."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and str(content.get("schema", "")).startswith("bpr.evaluate/")


def category_name(evaluation: Evaluation, label: int) -> str:
    """The name of a label; the label itself where nobody named it."""
    if evaluation.categories is None:
        return "object"
    return evaluation.categories.get(label, str(label))


def _run(evaluation: Evaluation, run: RunResult, bootstrap: ImageBootstrap) -> Json:
    base = evaluation.base.scores
    content: Json = {
        "name": run.name,
        "instances": run.num_instances,
        "instances_of_no_object": run.num_false,
        "objects_found": int(is_found(run.own_scores).sum()),
        "objects_missed": int((~is_found(run.own_scores)).sum()),
        "means_of_own_best": _named(_means(run.own_scores)),
        "seconds_per_instance": None
        if run.seconds is None
        else run.seconds / max(run.num_instances, 1),
        "average_precision": dict(run.averages.values) if run.averages else {},
        "average_precision_by_category": {
            measure: dict(found) for measure, found in run.averages.by_label.items()
        }
        if run.averages
        else {},
        "errors": asdict(run.errors),
        **_accuracy(run),
        "overlap": {**asdict(run.overlap), "share": run.overlap.share},
        "groups": _groups(evaluation, run.scores, bootstrap),
    }
    if run is not evaluation.base:
        overall = content["groups"]["overall"]
        ceiling = evaluation.run(CEILING).scores
        before, after, _ = paired_means(base, run.scores)
        _, best, _ = paired_means(base, ceiling)
        content["change"] = {
            **asdict(compare(base, run.scores, evaluation.settings.threshold)),
            "objects": overall["paired"],
            "share_of_possible": {
                name: share_of_possible(before[column], after[column], best[column])
                for column, name in enumerate(SCORE_NAMES)
            },
            "histogram": {
                "edges": HISTOGRAM_EDGES.tolist(),
                "counts": histogram(base, run.scores, HISTOGRAM_EDGES),
            },
        }
    return content


def _accuracy(run: RunResult) -> Json:
    """The share of right pixels near outlines and away from them."""
    if run.averages is None or run.averages.accuracy is None:
        return {}
    return {"pixel_accuracy": asdict(run.averages.accuracy)}


def _groups(evaluation: Evaluation, scores: ScoreTable, bootstrap: ImageBootstrap) -> Json:
    """Means overall, by category and by size, over the objects found in the base and the run."""
    base = evaluation.base.scores
    both = is_found(base) & is_found(scores)
    objects = evaluation.objects

    def row(keep: Callable[[ObjectInfo], bool]) -> Json:
        chosen = np.array([keep(item) for item in objects], np.bool_).reshape(len(objects))
        before, after, paired = paired_means(base[chosen], scores[chosen])
        intervals = {
            name: _interval_by_name(bootstrap, values, chosen & both)
            for name, values in (("base", base), ("this", scores), ("difference", scores - base))
        }
        return {
            "objects": int(chosen.sum()),
            "paired": paired,
            "base": _named(before),
            "this": _named(after),
            "difference": _named(after - before),
            "intervals": intervals,
        }

    labels = sorted({item.label for item in objects})
    return {
        "overall": row(lambda _: True),
        "category": {
            category_name(evaluation, label): row(lambda item, label=label: item.label == label)  # type: ignore[misc]
            for label in labels
        }
        if evaluation.categories is not None
        else {},
        "size": {
            name: row(lambda item, name=name: item.size == name)  # type: ignore[misc]
            for name in SIZE_CLASSES
        },
    }


def _bootstrap(evaluation: Evaluation) -> ImageBootstrap:
    number = {image: index for index, image in enumerate(evaluation.images)}
    image_of = np.array([number[item.image] for item in evaluation.objects], np.int64)
    return ImageBootstrap(image_of, len(evaluation.images))


def _interval_by_name(
    bootstrap: ImageBootstrap, values: ScoreTable, chosen: BoolArray
) -> dict[str, list[float]]:
    ends = bootstrap.interval(values, chosen).T.tolist()
    return dict(zip(SCORE_NAMES, ends, strict=True))


def _worst(evaluation: Evaluation) -> list[Json]:
    """The objects that lost more than the threshold in the focus, the largest loss first."""
    if evaluation.focus is None:
        return []
    before = evaluation.base.scores[:, BOUNDARY_IOU]
    after = evaluation.run(evaluation.focus).scores[:, BOUNDARY_IOU]
    # an object that is not found any more lost all that it had
    change = np.where(np.isnan(after), 0, after) - before
    order = [
        index
        for index in np.argsort(change, kind="stable").tolist()
        if change[index] < -evaluation.settings.threshold
    ]
    return [
        {
            **_instance(evaluation, index, evaluation.objects[index], with_scores=False),
            "before": before[index],
            "after": after[index],
            "change": change[index],
        }
        for index in order[:NUM_WORST]
    ]


def _instance(
    evaluation: Evaluation, index: int, item: ObjectInfo, with_scores: bool = True
) -> Json:
    content: Json = {
        "image": item.image,
        "annotation": item.annotation,
        "category": category_name(evaluation, item.label),
        "area": item.area,
        "size": item.size,
    }
    if with_scores:
        content["error"] = evaluation.object_errors[index]
        content["scores"] = {
            run.name: None if np.isnan(run.scores[index]).all() else _named(run.scores[index])
            for run in evaluation.runs
        }
    return content


def _wrong(evaluation: Evaluation, item: WrongInstance) -> Json:
    return {
        "image": item.image,
        "index": item.index,
        "category": category_name(evaluation, item.label),
        "score": item.score,
        "area": item.area,
        "error": item.error,
    }


def _means(scores: ScoreTable) -> ScoreTable:
    found = scores[is_found(scores)]
    return found.mean(axis=0) if len(found) else np.full(len(SCORE_NAMES), np.nan)


def _named(values: ScoreTable) -> dict[str, float]:
    return dict(zip(SCORE_NAMES, values.tolist(), strict=True))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
