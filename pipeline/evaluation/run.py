"""The evaluation of a data set, image by image: read this first.

Every row of the report is a run: predictions as they were before refinement, after it, by other
methods, and the ceiling. An image passes through all of them at once, so all rows are about the
same images; what stays in memory of an image are a few numbers per object, the pixel counts and
run-length codes that AP needs, and the masks of the largest gains and losses so far.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np

from pipeline.batch.image_index import ImageIndex
from pipeline.evaluation.average_precision import AveragePrecisions, Averages
from pipeline.evaluation.ceiling import ceiling
from pipeline.evaluation.comparison import ScoreTable
from pipeline.evaluation.ground_truth import AnnotatedImage, Annotation, GroundTruth
from pipeline.evaluation.matching import Match, Matching, MatchSettings, mask_iou, match
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.scores import SCORE_NAMES, Scores, score, size_class
from pipeline.images import read_image
from pipeline.instance import BoolArray, Instance, Mask, Prediction, UInt8Array
from pipeline.rivals import Method
from pipeline.settings import PatchSettings
from pipeline.threads import map_ahead

READERS = 2  # threads that decode masks and images
AHEAD = 4  # images read before they are needed

BEFORE, AFTER, PREDICTION, CEILING = "before", "after", "prediction", "ceiling"


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured, and what counts as a change."""

    matching: MatchSettings
    boundary_ratio: float  # of Boundary IoU and boundary AP, share of the diagonal
    threshold: float = 0.01  # change of Boundary IoU from which on an instance is better or worse
    patches: PatchSettings = field(default_factory=PatchSettings)  # of the ceiling
    num_pictures: int = 8  # of gains, and as many of losses
    average_precision: bool = True

    def __post_init__(self) -> None:
        if not self.boundary_ratio > 0:
            raise ValueError(f"boundary_ratio: expected a number > 0, got {self.boundary_ratio}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold: expected a number in [0, 1), got {self.threshold}")
        if self.num_pictures < 0:
            raise ValueError(f"num_pictures: expected an int >= 0, got {self.num_pictures}")


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is compared with what."""

    truth: GroundTruth
    prediction: Predictions
    before: Predictions | None  # the same predictions before refinement
    methods: Mapping[str, Method]  # refine the earliest predictions there are
    images: ImageIndex | None  # methods and pictures need them

    def __post_init__(self) -> None:
        reserved = {BEFORE, AFTER, PREDICTION, CEILING} & self.methods.keys()
        if reserved:
            raise ValueError(f"method: expected another name than {sorted(reserved)[0]!r}")
        if self.methods and self.images is None:
            raise ValueError("--images: expected the folder of the images to refine, got none")

    @property
    def base(self) -> str:
        """The row that the others are compared with."""
        return PREDICTION if self.before is None else BEFORE

    @property
    def focus(self) -> str | None:
        """The row whose instances are shown one by one: after, or else the last method."""
        if self.before is not None:
            return AFTER
        return list(self.methods)[-1] if self.methods else None

    def runs(self) -> tuple[str, ...]:
        """The rows in their order."""
        after = () if self.before is None else (AFTER,)
        return (self.base, *after, *self.methods, CEILING)


@dataclass(frozen=True)
class ObjectInfo:
    """An object of the ground truth, in numbers."""

    image: str
    annotation: int  # its id in the file
    label: int
    area: int  # px

    @property
    def size(self) -> str:
        """Its size class."""
        return size_class(self.area)


@dataclass(frozen=True, eq=False)
class RunResult:
    """One row of the report."""

    name: str
    scores: ScoreTable  # by object; the prediction that is its best one in the base run
    own_scores: ScoreTable  # by object; its best prediction of this very run
    num_instances: int
    num_false: int  # instances that belong to no object
    seconds: float | None  # spent in the method
    averages: Averages | None


@dataclass(frozen=True, eq=False)
class Picture:
    """An object whose mask changed much, for drawing."""

    object_index: int
    image: str
    change: float  # of Boundary IoU
    before: Mask
    after: Mask
    gt: Mask
    ignore: BoolArray | None = None


@dataclass(frozen=True)
class Problem:
    """Something about an image that keeps the figures from being complete."""

    image: str
    reason: str


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that was found."""

    settings: EvaluationSettings
    kind: str  # of ground truth
    categories: Mapping[int, str] | None
    images: tuple[str, ...]  # that were scored
    objects: tuple[ObjectInfo, ...]
    num_crowds: int
    num_ignored_images: int  # with ignored pixels
    runs: tuple[RunResult, ...]  # the base first
    focus: str | None
    unlike_images: int  # where before and after are not the same instances: matched by themselves
    gains: tuple[Picture, ...]  # largest first
    losses: tuple[Picture, ...]
    failures: tuple[Problem, ...]  # images left out of every figure
    without_prediction: tuple[str, ...]  # scored as if nothing was predicted
    without_truth: tuple[str, ...]  # predictions that nothing says anything about

    @property
    def base(self) -> RunResult:
        """The row that the others are compared with."""
        return self.runs[0]

    def run(self, name: str) -> RunResult:
        """A row by its name."""
        return next(run for run in self.runs if run.name == name)

    @property
    def is_complete(self) -> bool:
        """Every image had its predictions, and every prediction its image."""
        return not (self.failures or self.without_prediction or self.without_truth)


def evaluate(
    inputs: Inputs,
    settings: EvaluationSettings,
    only_predicted: bool = False,
    on_progress: Callable[[int, int], None] = lambda _images, _objects: None,
) -> Evaluation:
    """Judge predictions by ground truth.

    Args:
        inputs: what to compare.
        settings: how.
        only_predicted: leave out images without predictions instead of counting them as missed.
        on_progress: called after every image with the numbers of images and objects done.

    Raises:
        ValueError: no image has both, or no label occurs in both.
    """
    join = _join(inputs, only_predicted)
    collected = _Collected(inputs, settings)
    failures = []
    for done, item in enumerate(map_ahead(_reader(inputs), join.keys, READERS, AHEAD), start=1):
        if item.reason:
            failures.append(Problem(item.key, item.reason))
        else:
            collected.add(item)
        on_progress(done, len(collected.objects))
    if not collected.images:
        raise ValueError(
            f"expected at least one image that can be read, all {len(failures)} failed; "
            f"{failures[0].image}: {failures[0].reason}"
        )
    collected.check_labels()
    return Evaluation(
        settings,
        inputs.truth.kind,
        None if settings.matching.class_agnostic else inputs.truth.categories,
        tuple(collected.images),
        tuple(collected.objects),
        collected.num_crowds,
        collected.num_ignored_images,
        tuple(collected.run_result(name) for name in inputs.runs()),
        inputs.focus,
        collected.unlike_images,
        collected.gains.sorted(),
        collected.losses.sorted(),
        tuple(failures),
        tuple(join.without_prediction),
        tuple(join.without_truth),
    )


@dataclass(frozen=True)
class _Join:
    keys: list[str]
    without_prediction: list[str]
    without_truth: list[str]


def _join(inputs: Inputs, only_predicted: bool) -> _Join:
    """Which images are scored.

    An image id of a COCO results json without file names is compared without leading zeros.
    """
    truth = list(inputs.truth.keys())
    sides = [inputs.prediction, *([inputs.before] if inputs.before else [])]
    known = {key.lstrip("0"): key for key in truth if key.isdigit()} | {key: key for key in truth}
    predicted = [{known.get(key, key) for key in list(side.keys())} for side in sides]
    strangers = sorted(set[str]().union(*predicted) - set(truth))
    everywhere = set.intersection(*predicted)
    if not everywhere & set(truth):
        raise ValueError(
            "ground truth: expected images with the names of the predictions, found none in "
            f"common: {_some(truth)} in the ground truth, {_some(sorted(set().union(*predicted)))} "
            "predicted"
        )
    missing = [
        key
        for key in truth
        if any(
            key not in found and (side.lists_every_image or only_predicted)
            for side, found in zip(sides, predicted, strict=True)
        )
    ]
    if only_predicted:
        left_out = set(missing)
        return _Join([key for key in truth if key not in left_out], [], strangers)
    return _Join(truth, missing, strangers)


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


@dataclass(frozen=True, eq=False)
class _Read:
    """An image on its way, or why it is not."""

    key: str
    truth: AnnotatedImage | None = None
    prediction: Prediction | None = None
    before: Prediction | None = None
    image: UInt8Array | None = None
    reason: str = ""


def _reader(inputs: Inputs) -> Callable[[str], _Read]:
    def read(key: str) -> _Read:
        try:
            truth = inputs.truth.read(key)
            prediction = inputs.prediction.read(key, truth.size)
            before = inputs.before.read(key, truth.size) if inputs.before else None
            image = _image(inputs, key, truth) if inputs.methods else None
        except ValueError as error:
            return _Read(key, reason=str(error))
        return _Read(key, truth, prediction, before, image)

    return read


def _image(inputs: Inputs, key: str, truth: AnnotatedImage) -> UInt8Array:
    assert inputs.images is not None
    return find_image(inputs.images, key, truth.size)


def find_image(images: ImageIndex, key: str, size: tuple[int, int]) -> UInt8Array:
    """Read the image of a key.

    Raises:
        ValueError: it is missing, unreadable or of another size.
    """
    path = images.find([key, f"{key}_leftImg8bit"])
    pixels = read_image(path, size).pixels
    if pixels.shape[:2] != size:
        raise ValueError(
            f"{path}: expected an image of the size of its ground truth, "
            f"{size[1]} x {size[0]} pixels, got {pixels.shape[1]} x {pixels.shape[0]}"
        )
    return pixels


@dataclass(eq=False)
class _Row:
    """One run while it is being collected."""

    scores: list[Scores | None] = field(default_factory=list)
    own_scores: list[Scores | None] = field(default_factory=list)
    num_instances: int = 0
    num_false: int = 0
    seconds: float = 0.0
    precisions: AveragePrecisions | None = None


class _Collected:
    """What is kept of the images seen so far."""

    def __init__(self, inputs: Inputs, settings: EvaluationSettings) -> None:
        self._inputs, self._settings = inputs, settings
        self.images: list[str] = []
        self.objects: list[ObjectInfo] = []
        self.num_crowds = 0
        self.num_ignored_images = 0
        self.unlike_images = 0
        self.gains = _Largest(settings.num_pictures)
        self.losses = _Largest(settings.num_pictures)
        self._labels: set[int] = set()
        self._truth_records = AveragePrecisions.truth_records(inputs.truth, settings.matching)
        self._rows = {name: _Row() for name in inputs.runs()}
        if settings.average_precision:
            for row in self._rows.values():
                row.precisions = AveragePrecisions(
                    inputs.truth, settings.matching.class_agnostic, settings.boundary_ratio
                )

    def add(self, item: _Read) -> None:
        """Score an image in all runs."""
        truth, prediction = item.truth, item.prediction
        assert truth is not None
        assert prediction is not None
        inputs, matching = self._inputs, self._settings.matching
        base = prediction if item.before is None else item.before
        first = len(self.objects)
        self.images.append(item.key)
        self.num_ignored_images += truth.ignore is not None
        self.num_crowds += len(truth.annotations) - len(truth.objects)
        self.objects += [ObjectInfo(item.key, a.id, a.label, a.mask.area) for a in truth.objects]
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
            row.seconds += seconds
            if row.precisions is not None:
                as_read = name in (inputs.base, AFTER)
                row.precisions.add(item.key, image_id, truth, refined, as_read)
            if name == inputs.focus:
                self._remember(item.key, first, in_base, held, truth)

    def check_labels(self) -> None:
        """Complain where predictions speak of other categories than the ground truth.

        Raises:
            ValueError: no label of the predictions is a category.
        """
        known = self._inputs.truth.categories
        if self._settings.matching.class_agnostic or known is None or not self._labels:
            return
        if not self._labels & known.keys():
            raise ValueError(
                f"predictions: expected category ids of the ground truth {sorted(known)[:10]}, "
                f"got {sorted(self._labels)[:10]}; --class-agnostic passes over them"
            )

    def run_result(self, name: str) -> RunResult:
        """Finish a row."""
        row = self._rows[name]
        return RunResult(
            name,
            _table(row.scores),
            _table(row.own_scores),
            row.num_instances,
            row.num_false,
            row.seconds if name in self._inputs.methods else None,
            row.precisions.averages(self._truth_records) if row.precisions is not None else None,
        )

    def _refined(
        self, item: _Read, base: Prediction, prediction: Prediction, truth: AnnotatedImage
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
                first + index,
                key,
                change,
                a.instance.mask,
                b.instance.mask,
                a.annotation.mask,
                truth.ignore,
            )
            if change > 0:
                self.gains.offer(change, picture)
            elif change < 0:
                self.losses.offer(-change, picture)


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


def _are_the_same(before: Prediction, after: Prediction) -> bool:
    """Two predictions have the same instances, as refinement leaves them."""
    return [(i.label, i.score) for i in before.instances] == [
        (i.label, i.score) for i in after.instances
    ]


def _hold(before: Matching, refined: Prediction, truth: AnnotatedImage) -> Matching:
    """Each object keeps the instance that was its best one before, whatever became of it."""
    matches = []
    for found in before.matches:
        if found.instance is None:
            matches.append(found)
            continue
        instance: Instance = refined.instances[found.index]
        gt: Annotation = found.annotation
        iou = mask_iou(instance.mask, gt.mask, truth.ignore)
        matches.append(Match(gt, instance, found.index, iou))
    return Matching(tuple(matches), 0)


def _table(scores: Sequence[Scores | None]) -> ScoreTable:
    nothing = (np.nan,) * len(SCORE_NAMES)
    rows = [nothing if item is None else astuple(item) for item in scores]
    return np.array(rows, np.float64).reshape(-1, len(SCORE_NAMES))
