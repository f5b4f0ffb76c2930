"""What is compared with what, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bpr.pipeline.datasets.ground_truth import GroundTruth
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.predictions import Predictions
from bpr.pipeline.evaluation.matching import MatchSettings
from bpr.pipeline.evaluation.rivals import Method
from bpr.pipeline.settings import PatchSettings

BEFORE, AFTER, PREDICTION, CEILING = "before", "after", "prediction", "ceiling"
"""Names of the rows that are not methods."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is measured, and what counts as a change."""

    matching: MatchSettings
    boundary_ratio: float  # of Boundary IoU and boundary AP, share of the diagonal
    threshold: float = 0.01  # least change of Boundary IoU that counts as better or worse
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


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluationInputs:
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
