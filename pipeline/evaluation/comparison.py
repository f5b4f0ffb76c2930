"""What changed between two sets of scores of the same objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bpr.pipeline.evaluation.scores import SCORE_NAMES
from bpr.pipeline.instance import BoolArray

ScoreTable = npt.NDArray[np.float64]
"""(objects, 5): a row per object, a column per name in `SCORE_NAMES`, NaN where missed."""

BOUNDARY_IOU = SCORE_NAMES.index("boundary_iou")


@dataclass(frozen=True, kw_only=True)
class Change:
    """How objects fared; the counts add up to all objects found before or after."""

    improved: int  # Boundary IoU rose by more than the threshold
    unchanged: int
    worse: int  # it fell by more than the threshold
    gained: int  # found after only
    lost: int  # found before only

    @property
    def total(self) -> int:
        """Objects found before or after."""
        return self.improved + self.unchanged + self.worse + self.gained + self.lost


def compare(before: ScoreTable, after: ScoreTable, threshold: float) -> Change:
    """Count what happened to the objects.

    Args:
        before: scores of all objects.
        after: of the same ones.
        threshold: least change of Boundary IoU that counts, exclusive.
    """
    was, now = is_found(before), is_found(after)
    change = (after - before)[was & now, BOUNDARY_IOU]
    improved, worse = int((change > threshold).sum()), int((change < -threshold).sum())
    return Change(
        improved=improved,
        unchanged=len(change) - improved - worse,
        worse=worse,
        gained=int((~was & now).sum()),
        lost=int((was & ~now).sum()),
    )


def states(before: ScoreTable, after: ScoreTable, threshold: float) -> list[str]:
    """Name what happened to each object: "improved", "unchanged", "worse", "gained", "lost" or
    "missed" (found neither before nor after)."""
    was, now = is_found(before), is_found(after)
    change = np.nan_to_num((after - before)[:, BOUNDARY_IOU])
    chosen = [was & now & (change > threshold), was & now & (change < -threshold), was & now]
    chosen += [now, was]
    names = ["improved", "worse", "unchanged", "gained", "lost"]
    return [str(name) for name in np.select(chosen, names, "missed")]


def is_found(scores: ScoreTable) -> BoolArray:
    """Which objects have a positive prediction."""
    return np.asarray(~np.isnan(scores[:, BOUNDARY_IOU]))


def paired_means(before: ScoreTable, after: ScoreTable) -> tuple[ScoreTable, ScoreTable, int]:
    """Means over the objects found on both sides.

    Returns:
        (5,) before, (5,) after, and the number of objects; NaN without objects.
    """
    both = is_found(before) & is_found(after)
    if not both.any():
        nothing = np.full(len(SCORE_NAMES), np.nan)
        return nothing, nothing, 0
    return before[both].mean(axis=0), after[both].mean(axis=0), int(both.sum())


def share_of_possible(before: float, after: float, ceiling: float) -> float:
    """How much of the way from before to the ceiling was made; NaN where there is no way."""
    return (after - before) / (ceiling - before) if ceiling - before > 1e-9 else float("nan")


def histogram(before: ScoreTable, after: ScoreTable, edges: npt.NDArray[np.float64]) -> list[int]:
    """Count changes of Boundary IoU between edges; what lies outside counts at the end."""
    change = (after - before)[is_found(before) & is_found(after), BOUNDARY_IOU]
    inner = np.clip(change, edges[0], np.nextafter(edges[-1], edges[0]))
    return [int(count) for count in np.histogram(inner, edges)[0]]
