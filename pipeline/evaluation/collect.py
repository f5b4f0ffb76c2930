"""What is kept of the images that were evaluated so far."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np

from bpr.pipeline.datasets.ground_truth import AnnotatedImage, Annotation
from bpr.pipeline.evaluation.average_precision import AveragePrecisions
from bpr.pipeline.evaluation.ceiling import ceiling
from bpr.pipeline.evaluation.comparison import ScoreTable
from bpr.pipeline.evaluation.error_types import (
    DUPLICATE,
    ErrorCounts,
    ImageErrors,
    find_errors,
)
from bpr.pipeline.evaluation.inputs import AFTER, CEILING, EvaluationInputs, EvaluationSettings
from bpr.pipeline.evaluation.matching import Match, Matching, match
from bpr.pipeline.evaluation.outlines import Outlined, outline_masks
from bpr.pipeline.evaluation.overlaps import Overlap, overlap, total
from bpr.pipeline.evaluation.result import LeftOut, ObjectInfo, Picture, RunResult, WrongInstance
from bpr.pipeline.evaluation.scores import SCORE_NAMES, Scores, score
from bpr.pipeline.instance import Instance, Prediction, Size, UInt8Array
from bpr.pipeline.metrics import mask_iou


@dataclass(frozen=True, eq=False, kw_only=True)
class ComparedImage:
    """An image on its way, or why it is not."""

    key: str
    truth: AnnotatedImage | None = None
    prediction: Prediction | None = None
    before: Prediction | None = None
    image: UInt8Array | None = None
    reason: str = ""


@dataclass(eq=False, kw_only=True)
class _Row:
    """One run while it is being collected."""

    scores: list[Scores | None] = field(default_factory=list)
    own_scores: list[Scores | None] = field(default_factory=list)
    num_instances: int = 0
    num_false: int = 0
    overlap: Overlap = field(default_factory=Overlap)
    errors: ErrorCounts = field(default_factory=ErrorCounts)
    seconds: float = 0.0
    precisions: AveragePrecisions | None = None


class Collected:
    """What is kept of the images seen so far."""

    def __init__(self, inputs: EvaluationInputs, settings: EvaluationSettings) -> None:
        self._inputs, self._settings = inputs, settings
        self.images: list[str] = []
        self.sizes: list[Size] = []
        self.objects: list[ObjectInfo] = []
        self.num_crowds = 0
        self.num_ignored_images = 0
        self.unlike_images = 0
        self.left_out: list[LeftOut] = []
        self.gains = _Largest(settings.num_pictures)
        self.losses = _Largest(settings.num_pictures)
        self.outlines: list[Outlined | None] = []
        self.object_errors: list[str | None] = []
        self.wrong: list[WrongInstance] = []
        self._labels: set[int] = set()
        self._truth_records = AveragePrecisions.truth_records(inputs.truth, settings.matching)
        self._rows = {name: _Row() for name in inputs.runs()}
        if settings.average_precision:
            for row in self._rows.values():
                row.precisions = AveragePrecisions(
                    inputs.truth, settings.matching.class_agnostic, settings.boundary_ratio
                )

    def add(self, item: ComparedImage) -> None:
        """Score an image in all runs."""
        truth, prediction = item.truth, item.prediction
        assert truth is not None
        assert prediction is not None
        inputs, matching = self._inputs, self._settings.matching
        base = prediction if item.before is None else item.before
        first = len(self.objects)
        self.images.append(item.key)
        self.sizes.append(truth.size)
        self.num_ignored_images += truth.ignore is not None
        self.num_crowds += len(truth.annotations) - len(truth.objects)
        self.objects += [ObjectInfo(item.key, a.id, a.label, a.mask.area) for a in truth.objects]
        self.left_out += [
            LeftOut(item.key, one.name, one.reason, one.is_damaged) for one in truth.left
        ]
        self._labels |= {instance.label for instance in base.instances}
        self._labels |= {instance.label for instance in prediction.instances}
        image_id = self._truth_records.add(item.key, truth)
        in_base = match(truth, base, matching)
        for name, refined, seconds in self._refined(item, base, prediction, truth):
            own = in_base if refined is base else match(truth, refined, matching)
            held = own
            if refined is not base:
                if _are_the_same(base, refined):
                    held = _hold(in_base, refined, truth)
                else:
                    self.unlike_images += name == AFTER
            row = self._rows[name]
            scored = self._score(held.matches, truth)
            row.scores += scored
            row.own_scores += [
                known if a.index == b.index else self._score([b], truth)[0]
                for known, a, b in zip(scored, held.matches, own.matches, strict=True)
            ]
            row.num_instances += len(refined.instances)
            row.num_false += own.num_false
            row.overlap = total([row.overlap, overlap(refined)])
            errors = find_errors(truth, refined, matching.class_agnostic)
            row.errors += errors.counts
            row.seconds += seconds
            if row.precisions is not None:
                as_read = name in (inputs.base, AFTER)
                row.precisions.add(item.key, image_id, truth, refined, as_read)
            if name == inputs.focus:
                self._remember(item.key, first, in_base, held, truth)
            if name == (inputs.focus or inputs.base):
                self._draw(in_base, held, truth)
                self.object_errors += errors.objects
                self.wrong += _wrong_instances(item.key, own.false, errors, base, refined)

    def check_labels(self) -> None:
        """Check that predictions and ground truth have a category in common.

        Raises:
            ValueError: no label of the predictions is a category.
        """
        known = self._inputs.truth.categories
        if self._settings.matching.class_agnostic or known is None or not self._labels:
            return
        if not self._labels & known.keys():
            raise ValueError(
                f"predictions: expected category ids of the ground truth {sorted(known)[:10]}, "
                f"got {sorted(self._labels)[:10]}; --class-agnostic ignores them"
            )

    def run_result(self, name: str) -> RunResult:
        """Finish a row."""
        row = self._rows[name]
        precisions = row.precisions
        return RunResult(
            name=name,
            scores=_table(row.scores),
            own_scores=_table(row.own_scores),
            num_instances=row.num_instances,
            num_false=row.num_false,
            overlap=row.overlap,
            errors=row.errors,
            seconds=row.seconds if name in self._inputs.methods else None,
            averages=precisions.averages(self._truth_records) if precisions is not None else None,
        )

    def _refined(
        self, item: ComparedImage, base: Prediction, prediction: Prediction, truth: AnnotatedImage
    ) -> Iterator[tuple[str, Prediction, float]]:
        """The predictions of each run, and the seconds that it took."""
        yield self._inputs.base, base, 0.0
        if item.before is not None:
            yield AFTER, prediction, 0.0
        for name, method in self._inputs.methods.items():
            assert item.image is not None
            started = time.perf_counter()
            refined = method(item.image, base)
            yield name, refined, time.perf_counter() - started
        perfect = ceiling(truth, base, self._settings.matching, self._settings.patches)
        yield CEILING, perfect, 0.0

    def _score(self, matches: Sequence[Match], truth: AnnotatedImage) -> list[Scores | None]:
        ratio = self._settings.boundary_ratio
        return [
            None
            if found.instance is None
            else score(found.instance.mask, found.annotation.mask, found.iou, ratio, truth.ignore)
            for found in matches
        ]

    def _remember(
        self, key: str, first: int, before: Matching, after: Matching, truth: AnnotatedImage
    ) -> None:
        """Keep the masks of objects that changed much."""
        base = self._rows[self._inputs.base].scores[first:]
        now = self._rows[str(self._inputs.focus)].scores[first:]
        for index, (old, new, a, b) in enumerate(
            zip(base, now, before.matches, after.matches, strict=True)
        ):
            if old is None or new is None or a.instance is None or b.instance is None:
                continue
            change = new.boundary_iou - old.boundary_iou
            picture = Picture(
                object_index=first + index,
                image=key,
                change=change,
                before=a.instance.mask,
                after=b.instance.mask,
                gt=a.annotation.mask,
                ignore=truth.ignore,
            )
            if change > 0:
                self.gains.offer(change, picture)
            elif change < 0:
                self.losses.offer(-change, picture)

    def _draw(self, before: Matching, after: Matching, truth: AnnotatedImage) -> None:
        """Keep the outlines of all objects of an image."""
        for old, new in zip(before.matches, after.matches, strict=True):
            masks = [match.instance.mask if match.instance else None for match in (old, new)]
            self.outlines.append(outline_masks([*masks, old.annotation.mask], truth.size))


class _Largest:
    """Keeps the pictures of the largest changes; among equals, the earlier ones."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[tuple[float, int, Picture]] = []

    def offer(self, size: float, picture: Picture) -> None:
        entry = (size, -picture.object_index, picture)
        if len(self._heap) < self._count:
            heapq.heappush(self._heap, entry)
        elif self._heap and entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def sorted(self) -> tuple[Picture, ...]:
        return tuple(entry[2] for entry in sorted(self._heap, key=lambda e: e[:2], reverse=True))


def _wrong_instances(
    key: str, false: Sequence[int], errors: ImageErrors, base: Prediction, refined: Prediction
) -> Iterator[WrongInstance]:
    same = _are_the_same(base, refined)
    for index, error in enumerate(errors.instances):
        if index not in false and error != DUPLICATE:
            continue
        instance = refined.instances[index]
        masks = [base.instances[index].mask if same else None, instance.mask, None]
        yield WrongInstance(
            image=key,
            index=index,
            label=instance.label,
            score=instance.score,
            area=instance.mask.area,
            is_duplicate=index not in false,
            error=error,
            outlined=outline_masks(masks, refined.size),
        )


def _are_the_same(before: Prediction, after: Prediction) -> bool:
    """Two predictions have the same instances, as refinement leaves them."""
    return [(i.label, i.score) for i in before.instances] == [
        (i.label, i.score) for i in after.instances
    ]


def _hold(before: Matching, refined: Prediction, truth: AnnotatedImage) -> Matching:
    """Each object keeps the instance that was its best one before refinement."""
    matches = []
    for found in before.matches:
        if found.instance is None:
            matches.append(found)
            continue
        instance: Instance = refined.instances[found.index]
        gt: Annotation = found.annotation
        iou = mask_iou(instance.mask, gt.mask, truth.ignore)
        matches.append(Match(gt, instance, found.index, iou))
    return Matching(tuple(matches), ())


def _table(scores: Sequence[Scores | None]) -> ScoreTable:
    nothing = (np.nan,) * len(SCORE_NAMES)
    rows = [nothing if item is None else astuple(item) for item in scores]
    return np.array(rows, np.float64).reshape(-1, len(SCORE_NAMES))
