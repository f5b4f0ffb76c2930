"""What an evaluation found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bpr.pipeline.datasets.precision_rules import PrecisionRules
from bpr.pipeline.evaluation.average_precision import Averages
from bpr.pipeline.evaluation.comparison import ScoreTable
from bpr.pipeline.evaluation.error_types import ErrorCounts
from bpr.pipeline.evaluation.inputs import EvaluationSettings
from bpr.pipeline.evaluation.outlines import Outlined
from bpr.pipeline.evaluation.overlaps import Overlap
from bpr.pipeline.evaluation.scores import size_class
from bpr.pipeline.instance import BoolArray, Mask, Size


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


@dataclass(frozen=True, kw_only=True)
class WrongInstance:
    """A predicted instance that belongs to no object, or whose object has a surer instance."""

    image: str
    index: int  # in its prediction, from 0
    label: int
    score: float
    area: int  # px
    is_duplicate: bool
    error: str | None  # kind, see `error_types.TITLES`; None: only where positive_iou is not 0.5
    outlined: Outlined | None  # before and after refinement; None: both masks are empty


@dataclass(frozen=True, eq=False, kw_only=True)
class RunResult:
    """One row of the report."""

    name: str
    scores: ScoreTable  # by object; the prediction that is its best one in the base run
    own_scores: ScoreTable  # by object; its best prediction of this very run
    num_instances: int
    num_false: int  # instances that belong to no object
    overlap: Overlap
    errors: ErrorCounts
    seconds: float | None  # spent in the method
    averages: Averages | None


@dataclass(frozen=True, eq=False, kw_only=True)
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
class FailedImage:
    """Something about an image that keeps the figures from being complete."""

    image: str
    reason: str


@dataclass(frozen=True)
class LeftOut:
    """An annotation without a mask, or with one that cannot be read."""

    image: str
    annotation: str  # where it stands
    reason: str
    is_damaged: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """Everything that was found."""

    settings: EvaluationSettings
    kind: str  # of ground truth
    rules: PrecisionRules  # of average precision
    categories: Mapping[int, str] | None
    images: tuple[str, ...]  # that were scored
    sizes: tuple[Size, ...]  # of these images
    objects: tuple[ObjectInfo, ...]
    num_crowds: int
    num_ignored_images: int  # with ignored pixels
    runs: tuple[RunResult, ...]  # the base first
    focus: str | None
    unlike_images: int  # where before and after are not the same instances: matched by themselves
    gains: tuple[Picture, ...]  # largest first
    losses: tuple[Picture, ...]
    outlines: tuple[Outlined | None, ...]  # by object: before, after, ground truth; None: empty
    object_errors: tuple[str | None, ...]  # by object: kind of error in the same run as `wrong`
    wrong: tuple[WrongInstance, ...]  # of the focus, or of the base where there is no focus
    failures: tuple[FailedImage, ...]  # images left out of every figure
    without_prediction: tuple[str, ...]  # scored as if nothing was predicted
    without_truth: tuple[str, ...]  # predictions that nothing says anything about
    left_out: tuple[LeftOut, ...] = ()  # annotations that count nowhere

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
        is_damaged = any(item.is_damaged for item in self.left_out)
        return not (self.failures or self.without_prediction or self.without_truth or is_damaged)
