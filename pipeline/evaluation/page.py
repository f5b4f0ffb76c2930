"""The report as one page that needs no network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.evaluation.comparison import BOUNDARY_IOU
from bpr.pipeline.evaluation.crops import MOST_VIEWS, View, draw_views
from bpr.pipeline.evaluation.evaluate import find_image
from bpr.pipeline.evaluation.objects import (
    Row,
    object_rows,
    shown_runs,
    table_cells,
    table_columns,
)
from bpr.pipeline.evaluation.plots import (
    Dot,
    Plot,
    area_axis,
    change_axis,
    scatter,
    shares_axis,
)
from bpr.pipeline.evaluation.report import category_name
from bpr.pipeline.evaluation.result import Evaluation, Picture
from bpr.pipeline.evaluation.strips import data_uri, draw_strip
from bpr.pipeline.evaluation.tables import (
    all_tables,
    find_run,
    percent,
    plus_minus,
    points,
)
from bpr.pipeline.evaluation.template import ObjectTable, Page, render
from bpr.pipeline.instance import Size, UInt8Array

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture of a strip."""

    title: str
    kind: str  # names the colour of its outline
    uri: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class StripView:
    """A strip with its words."""

    title: str
    detail: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of the histogram, in the units of its drawing."""

    x: float
    y: float
    width: float
    height: float
    kind: str  # better, same or worse
    words: str


@dataclass(frozen=True)
class Card:
    """One figure to see first."""

    title: str
    value: str
    detail: str
    kind: str = ""


def render_page(report: Json, evaluation: Evaluation, images: ImageIndex | None) -> Page:
    """Write the page.

    Args:
        report: from `build_report`.
        evaluation: what it was built of, for the pictures.
        images: for the crops; None: outlines are drawn on grey.
    """
    focus = find_run(report, report["focus"])
    runs = shown_runs(evaluation)
    rows = object_rows(evaluation, runs)
    sizes = dict(zip(evaluation.images, evaluation.sizes, strict=True))
    views = draw_views(
        _views(rows),
        None if images is None else lambda key: _pixels(images, key, sizes[key]),
    )
    columns = table_columns(runs)
    by = next(i for i, column in enumerate(columns) if column["kind"] in ("change", "percent"))
    if focus:
        by = next(i for i, column in enumerate(columns) if column["kind"] == "change")
    before, after = (runs[0].name, runs[-1].name if focus else "")
    table = ObjectTable(
        columns=columns,
        rows=[table_cells(row) for row in rows],
        views=views.json,
        names=(before, after, "ground truth"),
        kinds=("before", "after", "gt"),
        sort={"column": by, "descending": False},
        coloured=True,
    )
    return render(
        "report.html",
        table,
        views.files,
        report=report,
        focus=focus,
        headline=headline(report),
        cards=cards(report),
        shares=change_shares(focus),
        tables=all_tables(report),
        bars=histogram_bars(focus["change"]["histogram"], report) if focus else [],
        plots=scatter_plots(rows, focus["name"]) if focus else [],
        gains=_strips(evaluation, evaluation.gains, images),
        losses=_strips(evaluation, evaluation.losses, images),
        has_images=images is not None,
        objects_title="All objects",
        has_csv=True,
        has_errors=True,
        objects_note=_objects_note(rows, len(views.json)),
    )


def _views(rows: Sequence[Row]) -> list[View]:
    """The objects to draw: all of them, or those that matter most."""
    order = sorted(range(len(rows)), key=lambda index: (-rows[index].importance, index))
    chosen = sorted(order[:MOST_VIEWS])
    return [
        View(index, rows[index].image, outlined)
        for index in chosen
        if (outlined := rows[index].outlined) is not None
    ]


def _objects_note(rows: Sequence[Row], num_views: int) -> str:
    false, duplicate = (sum(row.state == s for row in rows) for s in ("false", "duplicate"))
    text = (
        f"{len(rows) - false - duplicate} objects of the ground truth, {false} predicted instances "
        f'that belong to no object (state "false") and {duplicate} duplicates. An object without '
        "an instance has the kind of the error that explains it. Click a column to sort, a picture "
        "to enlarge it."
    )
    if num_views < sum(row.outlined is not None for row in rows):
        text += f" Pictures: the {num_views} rows that changed most, missed and wrong ones first."
    return text


def scatter_plots(rows: Sequence[Row], name: str) -> list[Plot]:
    """Boundary IoU before against after, and its change against the size of the object."""
    pairs = [
        (index, row, row.scores[0][BOUNDARY_IOU], row.scores[-1][BOUNDARY_IOU])
        for index, row in enumerate(rows)
        if row.scores[0] is not None and row.scores[-1] is not None
    ]
    if not pairs:
        return []
    changes = [after - before for _, _, before, after in pairs]
    dots = [Dot(index, before, after, row.state) for index, row, before, after in pairs]
    sizes = [
        Dot(index, math.log10(max(row.area, 1)), after - before, row.state)
        for index, row, before, after in pairs
    ]
    return [
        scatter(
            f"Boundary IoU before and {name}",
            shares_axis("before, %"),
            shares_axis(f"{name}, %"),
            dots,
            diagonal=True,
        ),
        scatter(
            "Change of Boundary IoU against the size of the object",
            area_axis("pixels of the object", [row.area for _, row, _, _ in pairs]),
            change_axis("change, points", changes),
            sizes,
            diagonal=False,
        ),
    ]


def headline(report: Json) -> str:
    """The result in a sentence."""
    focus = find_run(report, report["focus"])
    truth = report["ground_truth"]
    if focus is None:
        return f"{truth['objects']} objects in {truth['images']} images"
    change = focus["change"]
    better, worse = change["improved"] + change["gained"], change["worse"] + change["lost"]
    total = change["objects"] + change["gained"] + change["lost"]
    return f"{better} of {total} objects improved, {worse} got worse"


def cards(report: Json) -> list[Card]:
    """The figures to see first."""
    base, focus = report["runs"][0], find_run(report, report["focus"])
    found = []
    if focus is None:
        overall = base["groups"]["overall"]["this"]
        found += [
            Card("Boundary IoU", percent(overall["boundary_iou"]), "mean over objects found"),
            Card("F at 1 px", percent(overall["f_1px"]), "mean over objects found"),
        ]
        found += [
            Card(name, percent(base["average_precision"][name]), report["ground_truth"]["kind"])
            for name in ("AP", "boundary AP")
            if name in base["average_precision"]
        ]
        missed = str(base["objects_missed"])
        return [*found, Card("objects missed", missed, f"of {report['ground_truth']['objects']}")]
    overall = focus["groups"]["overall"]
    for title, name in (("Boundary IoU", "boundary_iou"), ("F at 1 px", "f_1px")):
        found.append(
            _card(
                title,
                overall["base"][name],
                overall["this"][name],
                overall["difference"][name],
                plus_minus(overall["intervals"]["difference"][name]),
            )
        )
    for name in ("AP", "boundary AP"):
        before = base["average_precision"].get(name)
        after = focus["average_precision"].get(name)
        if before is not None and after is not None:
            found.append(_card(name, before, after, after - before))
    possible = focus["change"]["share_of_possible"]["boundary_iou"]
    found.append(Card("of the possible", f"{percent(possible)} %", "of the way to perfect patches"))
    return found


def change_shares(focus: Json | None) -> list[tuple[str, str, int, float]]:
    """Kind, words, count and share of 100 of better, same and worse objects."""
    if focus is None:
        return []
    change = focus["change"]
    counts = [
        ("better", "improved", change["improved"] + change["gained"]),
        ("same", "unchanged", change["unchanged"]),
        ("worse", "made worse", change["worse"] + change["lost"]),
    ]
    total = max(sum(count for _, _, count in counts), 1)
    return [(kind, words, count, 100 * count / total) for kind, words, count in counts]


def histogram_bars(histogram: Mapping[str, Sequence[float]], report: Json) -> list[Bar]:
    """Bars in a drawing of 100 x 30; the middle of it is no change."""
    edges, counts = histogram["edges"], histogram["counts"]
    top = max(*counts, 1)
    threshold = report["settings"]["threshold"]
    bars = []
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        if not count:
            continue
        x = 100 * (low - edges[0]) / (edges[-1] - edges[0])
        width = 100 * (high - low) / (edges[-1] - edges[0])
        height = 30 * count / top
        middle = (low + high) / 2
        kind = "same" if abs(middle) <= threshold else "better" if middle > 0 else "worse"
        span = f"{points(low)} to {points(high)} points"
        if low == edges[0]:
            span = f"{points(high)} points or less"
        elif high == edges[-1]:
            span = f"{points(low)} points or more"
        bars.append(
            Bar(
                x=x,
                y=30 - height,
                width=width,
                height=height,
                kind=kind,
                words=f"{count} objects: {span}",
            )
        )
    return bars


def _card(
    title: str,
    before: float | None,
    after: float | None,
    change: float | None,
    interval: str = "",
) -> Card:
    kind = "" if change is None or abs(change) < 5e-4 else "better" if change > 0 else "worse"
    return Card(title, points(change) + interval, f"{percent(before)} → {percent(after)} %", kind)


def _strips(
    evaluation: Evaluation, pictures: Sequence[Picture], images: ImageIndex | None
) -> list[StripView]:
    """Draw strips; the images are read once more, one at a time."""
    return [
        _view(
            evaluation,
            picture,
            None if images is None else _pixels(images, picture.image, picture.gt.size),
        )
        for picture in pictures
    ]


def _pixels(images: ImageIndex, key: str, size: Size) -> UInt8Array | None:
    try:
        return find_image(images, key, size)
    except ValueError:
        return None  # the outlines still say something


def _view(evaluation: Evaluation, picture: Picture, image: UInt8Array | None) -> StripView:
    item = evaluation.objects[picture.object_index]
    base = evaluation.base.scores[picture.object_index]
    focus = evaluation.run(str(evaluation.focus))
    after = focus.scores[picture.object_index]
    strip = draw_strip(image, picture)
    name = category_name(evaluation, item.label)
    where = f"{item.image}, {name} {item.annotation}"
    x0, y0, x1, y1 = strip.box
    place = f"x {x0} to {x1}, y {y0} to {y1}"
    parts = (
        ("whole object", "", strip.overview, f"{where}: the whole object, close-up framed"),
        ("image", "", strip.crop, f"{where}: close-up of the image, {place}"),
        (evaluation.base.name, "before", strip.before, f"{where}: outline before"),
        (focus.name, "after", strip.after, f"{where}: outline after"),
        ("ground truth", "gt", strip.gt, f"{where}: outline of the ground truth"),
    )
    return StripView(
        where,
        f"Boundary IoU {percent(base[1])} → {percent(after[1])} ({points(picture.change)}), "
        f"F at 1 px {percent(base[2])} → {percent(after[2])}; "
        f"{item.area} pixels; close-up at {place}",
        tuple(
            Panel(
                title=title,
                kind=kind,
                uri=data_uri(panel),
                alt=alt,
                width=panel.shape[1],
                height=panel.shape[0],
            )
            for title, kind, panel, alt in parts
        ),
    )
