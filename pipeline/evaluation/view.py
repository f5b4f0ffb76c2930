"""Two sources of masks over their photographs in one page: to judge without ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.predictions import Predictions
from bpr.pipeline.evaluation.crops import MOST_VIEWS, View, draw_views
from bpr.pipeline.evaluation.outlines import Outlined, outline_masks
from bpr.pipeline.evaluation.result import FailedImage
from bpr.pipeline.evaluation.template import ObjectTable, Page, render
from bpr.pipeline.formats.cityscapes import image_stems
from bpr.pipeline.formats.images import read_image
from bpr.pipeline.instance import Instance, Prediction, UInt8Array, differing_pixels
from bpr.pipeline.metrics import boundary_iou, mask_iou

LEAST_IOU = 0.1  # at which instances of two sources are taken for one object
COLUMNS = (
    ("image", "text"),
    ("object", "text"),
    ("category", "text"),
    ("pixels", "number"),
    ("state", "text"),
    ("changed pixels", "number"),
    ("mask IoU of both", "percent"),
    ("Boundary IoU of both", "percent"),
)
BOUNDARY_COLUMN = 7

Pair = tuple[Instance | None, Instance | None]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One object in two sources."""

    image: str
    name: str
    category: str
    pixels: int  # of the first mask; of the second where there is no first
    state: str  # "changed", "same", "only A" or "only B"
    changed: int  # pixels that differ
    mask_iou: float  # of the two masks, in [0, 1]
    boundary_iou: float
    outlined: Outlined | None

    def cells(self) -> list[str | float]:
        """In the order of `COLUMNS`."""
        shares = (round(self.mask_iou, 4), round(self.boundary_iou, 4))
        text = (self.image, self.name, self.category)
        return [*text, self.pixels, self.state, self.changed, *shares]


@dataclass(frozen=True, eq=False)
class Comparison:
    """All objects of the images that both sources know."""

    differences: tuple[Difference, ...]
    images: tuple[str, ...]
    failures: tuple[FailedImage, ...]  # images that could not be read
    only_in_one: tuple[str, ...]  # images that one source lacks


def compare_sources(
    first: Predictions,
    second: Predictions,
    images: ImageIndex,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Comparison:
    """Compare two sources, image by image.

    Args:
        first: the masks before, for example.
        second: the masks after.
        images: the photographs of both.
        on_progress: called after every image with the number done and the number of all.

    Raises:
        ValueError: no image is in both sources, or none can be read.
    """
    keys = [key for key in first.keys() if key in set(second.keys())]  # noqa: SIM118
    if not keys:
        raise ValueError(
            f"A and B: expected images of the same names, found {_some(first)} in A and "
            f"{_some(second)} in B"
        )
    alone = set(first.keys()) ^ set(second.keys())
    differences: list[Difference] = []
    done, failures = [], []
    for count, key in enumerate(keys, start=1):
        try:
            height, width = _read(images, key).shape[:2]
            both = (first.read(key, (height, width)), second.read(key, (height, width)))
        except ValueError as error:
            failures.append(FailedImage(key, str(error)))
        else:
            done.append(key)
            differences += _differences(key, *both)
        on_progress(count, len(keys))
    if not done:
        raise ValueError(f"{failures[0].image}: {failures[0].reason}")
    return Comparison(tuple(differences), tuple(done), tuple(failures), tuple(sorted(alone)))


def pair_instances(first: Prediction, second: Prediction) -> list[Pair]:
    """Find the instances that are the same object.

    Refinement keeps order, labels and scores: then the k-th of one side belongs to the k-th of the
    other. Otherwise pairs are taken by falling mask IoU, down to `LEAST_IOU`.

    Returns:
        Pairs in the order of the first side, then what only the second one has.
    """
    a, b = first.instances, second.instances
    if [(item.label, item.score) for item in a] == [(item.label, item.score) for item in b]:
        return list(zip(a, b, strict=True))
    found = sorted(
        (-iou, i, j)
        for i, one in enumerate(a)
        for j, other in enumerate(b)
        if (iou := mask_iou(one.mask, other.mask)) >= LEAST_IOU
    )
    partner: dict[int, int] = {}
    for _, i, j in found:
        if i not in partner and j not in partner.values():
            partner[i] = j
    pairs: list[Pair] = [(one, b[partner[i]] if i in partner else None) for i, one in enumerate(a)]
    taken = set(partner.values())
    return pairs + [(None, other) for j, other in enumerate(b) if j not in taken]


def _differences(key: str, first: Prediction, second: Prediction) -> list[Difference]:
    rows = []
    for number, (a, b) in enumerate(pair_instances(first, second), start=1):
        some = a or b
        assert some is not None
        masks = [None if item is None else item.mask for item in (a, b)]
        if a is None or b is None:
            state = "only A" if b is None else "only B"
            changed, iou, boundary = some.mask.area, 0.0, 0.0
        else:
            changed = differing_pixels(a.mask, b.mask)
            state = "changed" if changed else "same"
            iou = mask_iou(a.mask, b.mask) if changed else 1.0
            boundary = boundary_iou(a.mask, b.mask) if changed else 1.0
        rows.append(
            Difference(
                image=key,
                name=str(number),
                category=str(some.label),
                pixels=some.mask.area,
                state=state,
                changed=changed,
                mask_iou=iou,
                boundary_iou=boundary,
                outlined=outline_masks(masks, first.size),
            )
        )
    return rows


def render_view(comparison: Comparison, names: Sequence[str], images: ImageIndex) -> Page:
    """Write the page, the largest change first.

    Args:
        comparison: from `compare_sources`.
        names: of the two sources, two texts to show.
        images: the photographs.
    """
    rows = comparison.differences
    order = sorted(range(len(rows)), key=lambda index: (rows[index].boundary_iou, index))
    views = [
        View(index, rows[index].image, outlined)
        for index in sorted(order[:MOST_VIEWS])
        if (outlined := rows[index].outlined) is not None
    ]
    drawn = draw_views(views, lambda key: _read(images, key))
    table = ObjectTable(
        columns=[{"title": title, "kind": kind} for title, kind in COLUMNS],
        rows=[row.cells() for row in rows],
        views=drawn.json,
        names=(f"A: {names[0]}", f"B: {names[1]}", ""),
        kinds=("before", "after", "gt"),
        sort={"column": BOUNDARY_COLUMN, "descending": False},
        coloured=False,
    )
    return render(
        "view.html",
        table,
        drawn.files,
        headline=_headline(rows),
        comparison=comparison,
        objects_title="Objects, the largest change first",
        objects_note="Click a picture to enlarge it and to move the divider between A and B. "
        "Click a column to sort.",
        has_csv=False,
        has_errors=False,
    )


def _headline(rows: Sequence[Difference]) -> str:
    counts = dict.fromkeys(("changed", "same", "only A", "only B"), 0)
    for row in rows:
        counts[row.state] += 1
    parts = [f"{counts['changed']} of {len(rows)} objects changed"]
    parts += [f"{counts[state]} {state}" for state in ("only A", "only B") if counts[state]]
    return ", ".join(parts)


def _read(images: ImageIndex, key: str) -> UInt8Array:
    return read_image(images.find(image_stems(key))).pixels


def _some(source: Predictions) -> str:
    keys = list(source.keys())
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
