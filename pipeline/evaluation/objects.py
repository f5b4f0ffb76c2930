"""Every object and every wrong instance as one row: for the table of the page, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpr.pipeline.evaluation.comparison import BOUNDARY_IOU, is_found, states
from bpr.pipeline.evaluation.error_types import TITLES
from bpr.pipeline.evaluation.outlines import Outlined
from bpr.pipeline.evaluation.report import category_name
from bpr.pipeline.evaluation.result import Evaluation, RunResult
from bpr.pipeline.evaluation.scores import SCORE_NAMES, SCORE_TITLES

SHOWN = ("boundary_iou", "f_1px")  # scores of the page's table; the CSV has all


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    image: str
    name: str  # annotation id, or number of the instance
    category: str
    area: int  # px, in the ground truth; of the instance if it is false
    state: str  # see `comparison.states`; "found"; "false"; "duplicate"
    error: str  # a value of `error_types.TITLES`; "": none
    score: float | None  # confidence of a wrong instance
    scores: tuple[tuple[float, ...] | None, ...]  # by run, in the order of SCORE_NAMES
    outlined: Outlined | None  # before, after, ground truth

    @property
    def importance(self) -> float:
        """How much a reader wants to see it: large changes, missed and wrong ones first."""
        if self.state in ("missed", "false", "duplicate", "gained", "lost"):
            return 1.0
        before, after = self.scores[0], self.scores[-1]
        if before is None or after is None:
            return 0.0
        return abs(after[BOUNDARY_IOU] - before[BOUNDARY_IOU])


def shown_runs(evaluation: Evaluation) -> tuple[RunResult, ...]:
    """The base, and the focus where there is one."""
    if evaluation.focus is None:
        return (evaluation.base,)
    return (evaluation.base, evaluation.run(evaluation.focus))


def object_rows(evaluation: Evaluation, runs: Sequence[RunResult]) -> list[Row]:
    """A row per object in the order of the ground truth, then a row per wrong instance.

    Args:
        evaluation: from `evaluate`.
        runs: whose scores to list.
    """
    rows = []
    for index, (item, state) in enumerate(
        zip(evaluation.objects, _states(evaluation), strict=True)
    ):
        rows.append(
            Row(
                image=item.image,
                name=str(item.annotation),
                category=category_name(evaluation, item.label),
                area=item.area,
                state=state,
                error=TITLES.get(evaluation.object_errors[index] or "", ""),
                score=None,
                scores=tuple(_scores(run, index) for run in runs),
                outlined=evaluation.outlines[index],
            )
        )
    return rows + [
        Row(
            image=found.image,
            name=f"instance {found.index}",
            category=category_name(evaluation, found.label),
            area=found.area,
            state="duplicate" if found.is_duplicate else "false",
            error=TITLES.get(found.error or "", ""),
            score=found.score,
            scores=(None,) * len(runs),
            outlined=found.outlined,
        )
        for found in evaluation.wrong
    ]


def _states(evaluation: Evaluation) -> list[str]:
    base = evaluation.base.scores
    if evaluation.focus is None:
        return ["found" if found else "missed" for found in is_found(base)]
    return states(base, evaluation.run(evaluation.focus).scores, evaluation.settings.threshold)


def _scores(run: RunResult, index: int) -> tuple[float, ...] | None:
    values = run.scores[index]
    return None if np.isnan(values).all() else tuple(values.tolist())


def objects_csv(evaluation: Evaluation) -> str:
    """All rows and the scores of all runs, in [0, 1]; cells of missed objects are empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [f"{run.name} {score}" for run in evaluation.runs for score in SCORE_NAMES]
    writer.writerow(["image", "object", "category", "pixels", "state", "error", "score", *names])
    for row in object_rows(evaluation, evaluation.runs):
        values = [
            "" if scores is None else f"{scores[column]:.5f}"
            for scores in row.scores
            for column in range(len(SCORE_NAMES))
        ]
        score = "" if row.score is None else f"{row.score:g}"
        cells = [row.image, row.name, row.category, str(row.area), row.state, row.error, score]
        writer.writerow([*map(_harmless, cells), *values])
    return out.getvalue()


def _harmless(cell: str) -> str:
    """Spreadsheets run what begins like a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell


def table_columns(runs: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Columns of the page's table: title, and "text", "number", "percent" or "change"."""
    columns = [("image", "text"), ("object", "text"), ("category", "text"), ("pixels", "number")]
    columns += [("state", "text"), ("error", "text")]
    for name in SHOWN:
        title = SCORE_TITLES[name]
        columns += [(f"{title} {run.name}" if len(runs) > 1 else title, "percent") for run in runs]
        if len(runs) > 1:
            columns.append((f"{title} change", "change"))
    return [{"title": title, "kind": kind} for title, kind in columns]


def table_cells(row: Row) -> list[str | float | None]:
    """The cells of a row in the order of the columns; shares with four digits."""
    name = row.name if row.score is None else f"{row.name}, score {row.score:.2f}"
    cells: list[str | float | None] = [row.image, name, row.category, row.area, row.state]
    cells.append(row.error or None)
    for score in SHOWN:
        column = SCORE_NAMES.index(score)
        values = [None if scores is None else scores[column] for scores in row.scores]
        cells += [None if value is None else round(value, 4) for value in values]
        if len(values) > 1:
            before, after = values
            missing = before is None or after is None
            cells.append(None if missing else round(after - before, 4))  # type: ignore[operator]
    return cells
