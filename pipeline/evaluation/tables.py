"""The report as tables of text, for the terminal and, cell by cell, for the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bpr.pipeline.evaluation.error_types import TITLES
from bpr.pipeline.evaluation.scores import SCORE_NAMES, SCORE_TITLES

Json = dict[str, Any]
NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """A table: text in the first columns, numbers in the rest."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal."""
    return NOTHING if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of shares in points, with its sign."""
    if value is None:
        return NOTHING
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def plus_minus(interval: list[float | None] | None) -> str:
    """Half of an interval's width in points, to stand behind its mean; "" without one."""
    if interval is None or interval[0] is None or interval[1] is None:
        return ""
    return f" ±{50 * (interval[1] - interval[0]):.1f}"


def seconds(value: float | None) -> str:
    """A time in milliseconds or seconds."""
    if value is None:
        return NOTHING
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


def find_run(report: Json, name: str | None) -> Json | None:
    """A run by its name."""
    return next((run for run in report["runs"] if run["name"] == name), None)


def all_tables(report: Json) -> list[Table]:
    """Every table of the report, the most asked for first."""
    tables = [runs_table(report)]
    precisions = precision_table(report)
    if len(precisions.head) > 1:
        tables.append(precisions)
    tables.append(errors_table(report))
    if "pixel_accuracy" in report["runs"][0]:
        tables.append(accuracy_table(report))
    focus = find_run(report, report["focus"])
    if focus is None:
        tables += [_plain_groups(report, kind) for kind in ("size", "category")]
    else:
        tables += [groups_table(report, focus, kind) for kind in ("size", "category")]
    return [table for table in tables if table.rows]


def runs_table(report: Json) -> Table:
    """Quality, harm and cost of every run."""
    rows = []
    for run in report["runs"]:
        overall, change = run["groups"]["overall"], run.get("change")
        cells = [_mean(overall, "this", name) for name in SCORE_NAMES]
        gain = NOTHING
        harm = [NOTHING] * 3
        possible = NOTHING
        if change is not None:
            total = change["objects"] + change["gained"] + change["lost"]
            harm = [
                _count(change["improved"] + change["gained"], total),
                _count(change["unchanged"], total),
                _count(change["worse"] + change["lost"], total),
            ]
            gain = _mean(overall, "difference", "boundary_iou")
            possible = percent(change["share_of_possible"]["boundary_iou"])
        overlap = percent(run["overlap"]["share"])
        time = seconds(run["seconds_per_instance"])
        rows.append((run["name"], *cells, gain, *harm, possible, overlap, time))
    count = report["runs"][0]["groups"]["overall"]["paired"]
    return Table(
        f"Mean over the {count} objects found, %",
        (
            "run",
            *(SCORE_TITLES[name] for name in SCORE_NAMES),
            "Boundary IoU change",
            "improved",
            "unchanged",
            "worse",
            "% of possible",
            "overlap",
            "per instance",
        ),
        tuple(rows),
    )


def precision_table(report: Json) -> Table:
    """Average precisions of every run."""
    names = list(report["runs"][0]["average_precision"])
    names = [
        name
        for name in names
        if not name.startswith("AR")
        and any(run["average_precision"][name] is not None for run in report["runs"])
    ]
    rows = [
        (run["name"], *(percent(run["average_precision"][name]) for name in names))
        for run in report["runs"]
    ]
    return Table("Average precision, %", ("run", *names), tuple(rows))


def errors_table(report: Json) -> Table:
    """Errors by kind of every run, and how many there are together."""
    rows = [
        (
            run["name"],
            *(str(run["errors"][kind]) for kind in TITLES),
            str(sum(run["errors"].values())),
        )
        for run in report["runs"]
    ]
    return Table("Errors by kind", ("run", *TITLES.values(), "all"), tuple(rows))


def accuracy_table(report: Json) -> Table:
    """Right pixels near outlines and away from them, of every run."""
    rows = [
        (run["name"], *(percent(run["pixel_accuracy"][where]) for where in ("boundary", "away")))
        for run in report["runs"]
    ]
    return Table("Right pixels, %", ("run", "near outlines", "away from them"), tuple(rows))


def groups_table(report: Json, focus: Json, kind: str) -> Table:
    """Before, after and difference of Boundary IoU, F and AP by category or size."""
    base = report["runs"][0]
    shown = ("boundary_iou", "f_1px", "f_3px")
    precisions: list[tuple[str, Json, Json]] = []
    if kind == "category":
        precisions = [
            (measure, base["average_precision_by_category"][measure], after)
            for measure, after in focus["average_precision_by_category"].items()
            if measure in ("AP", "boundary AP")
        ]
    rows = []
    for name, row in focus["groups"][kind].items():
        cells = [name, str(row["objects"]), str(row["paired"])]
        for score in shown:
            cells += [
                percent(row["base"][score]),
                percent(row["this"][score]),
                _mean(row, "difference", score),
            ]
        for _, before, after in precisions:
            old, new = before.get(name), after.get(name)
            change = None if old is None or new is None else new - old
            cells += [percent(old), percent(new), points(change)]
        rows.append(tuple(cells))
    head = [kind, "objects", "found"]
    for score in shown:
        head += [f"{SCORE_TITLES[score]} {base['name']}", focus["name"], "difference"]
    for measure, _, _ in precisions:
        head += [f"{measure} {base['name']}", focus["name"], "difference"]
    return Table(f"By {kind}, %", tuple(head), tuple(rows))


def _plain_groups(report: Json, kind: str) -> Table:
    base = report["runs"][0]
    rows = [
        (
            name,
            str(row["objects"]),
            str(row["paired"]),
            *(_mean(row, "this", score) for score in SCORE_NAMES),
        )
        for name, row in base["groups"][kind].items()
    ]
    head = (kind, "objects", "found", *(SCORE_TITLES[name] for name in SCORE_NAMES))
    return Table(f"By {kind}, %", head, tuple(rows))


def worst_table(report: Json) -> Table:
    """The instances that lost most."""
    rows = tuple(
        (
            item["image"],
            str(item["annotation"]),
            item["category"],
            str(item["area"]),
            percent(item["before"]),
            percent(item["after"]),
            points(item["change"]),
        )
        for item in report["worst"]
    )
    return Table(
        "Made worse, Boundary IoU %",
        ("image", "annotation", "category", "pixels", "before", "after", "difference"),
        rows,
        text_columns=3,
    )


def render(table: Table) -> str:
    """A table in monospaced text."""
    columns = list(zip(table.head, *table.rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = [table.title]
    for row in (table.head, *table.rows):
        cells = [
            cell.ljust(width) if index < table.text_columns else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(2, "-" * max(len(line) for line in lines[1:]))
    return "\n".join(lines)


def _mean(row: Json, which: str, score: str) -> str:
    """A mean, or a difference of means, with its interval."""
    value = row[which][score]
    text = points(value) if which == "difference" else percent(value)
    return text + plus_minus(row["intervals"][which][score])


def _count(count: int, total: int) -> str:
    return f"{count} ({100 * count / total:.0f} %)" if total else str(count)
