"""Label files of YOLO segmentation: a txt per image, a polygon per line.

A line is `class x1 y1 x2 y2 ... [confidence] [id]`, x and y as shares of the image's width and
height; confidence and id are what ultralytics writes behind with `save_conf` and when tracking.
Source: docs, `polygon2mask` and `Results.save_txt` of ultralytics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bpr._paths import AnyPath
from bpr.pipeline.formats import polygons
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.text import encode_like, read_text
from bpr.pipeline.instance import Instance, Mask, Size

_OUTSIDE = 0.05  # share of the image by which a point may leave it
# Ultralytics cuts pixel coordinates off to ints; those that it writes are ints before rounding.
_ROUNDING = 0.25  # pixels
_WHOLE = re.compile(r"[0-9]+")  # as ids are written; coordinates mostly have decimals


@dataclass(frozen=True, eq=False)
class YoloLine:
    """One object as the txt has it."""

    label: str  # as it is written
    shares: polygons.Points  # (K, 2); K is 0 where the line has no outline
    tail: tuple[str, ...] = ()  # what follows the outline: a confidence, an id, both
    left: LeftObject | None = None  # why it is not refined


@dataclass(frozen=True, eq=False, kw_only=True)
class YoloFile:
    """A parsed txt."""

    path: AnyPath
    content: bytes
    rows: tuple[str, ...]  # with their ends, blank ones too
    places: tuple[int, ...]  # position in rows of each line
    lines: tuple[YoloLine, ...]


def parse(path: AnyPath) -> YoloFile:
    """Read a txt; an empty one has no objects. Lines that cannot be read say why.

    Raises:
        ValueError: not readable.
    """
    content, text = read_text(path)
    rows = text.splitlines(keepends=True)
    places = [index for index, row in enumerate(rows) if row.strip()]
    words = [rows[index].split() for index in places]
    columns = _Columns(words)
    lines = [
        columns.parse(row, f"line {place + 1}") for place, row in zip(places, words, strict=True)
    ]
    return YoloFile(
        path=path, content=content, rows=tuple(rows), places=tuple(places), lines=tuple(lines)
    )


def may_be_labels(path: AnyPath) -> bool:
    """Whether a txt has lines of numbers alone, or none at all: others are texts for people."""
    try:
        rows = [row.split() for row in read_text(path)[1].splitlines() if row.strip()]
    except ValueError:
        return True
    return not rows or any(_numbers(row) is not None for row in rows)


def read_instances(file: YoloFile, size: Size) -> tuple[dict[int, Instance], Sequence[LeftObject]]:
    """Fill the polygons.

    Args:
        file: parsed.
        size: (height, width) of the image.

    Returns:
        The instances by the position of their line, and the lines that stay as they are.
    """
    height, width = size
    instances = {
        index: Instance(
            mask=polygons.fill(line.shares * (width, height) + _ROUNDING, size),
            label=int(float(line.label)),
            score=_score(line.tail),
        )
        for index, line in enumerate(file.lines)
        if line.left is None
    }
    return instances, [line.left for line in file.lines if line.left is not None]


def encode(
    file: YoloFile, changed: Mapping[int, Mask], tolerance: float
) -> tuple[bytes, list[str]]:
    """The txt with refined polygons, and what they could not hold.

    All other lines stay byte for byte, and so does the line of a mask of which nothing is left: a
    line has at least three points.

    Args:
        file: parsed.
        changed: new masks by the position of their line.
        tolerance: how far in pixels a polygon may be from the mask's outline.
    """
    rows = list(file.rows)
    holes = joined = 0
    for index, mask in changed.items():
        line = file.lines[index]
        outlines = polygons.trace_pixels(mask, tolerance)
        if not outlines.parts:
            continue
        holes += outlines.num_holes
        joined += len(outlines.parts) > 1
        height, width = mask.size
        shares = (polygons.join(outlines.parts) + 0.5) / (width, height)
        words = [line.label, *(f"{share:.6f}" for share in shares.ravel()), *line.tail]
        row = rows[file.places[index]]
        rows[file.places[index]] = " ".join(words) + row[len(row.rstrip("\r\n")) :]
    is_same = rows == list(file.rows)
    content = file.content if is_same else encode_like("".join(rows), file.content)
    return content, polygons.describe_loss(holes, joined)


class _Columns:
    """What the columns of a file mean, as far as its lines tell together.

    Args:
        rows: words of each line.
    """

    def __init__(self, rows: Sequence[Sequence[str]]) -> None:
        outlined = [row[1:] for row in rows if len(row) > 6 and _numbers(row) is not None]
        even = [row for row in outlined if len(row) % 2 == 0]
        self._has_ids = any(_is_id(row[-1]) and float(row[-1]) > 1 for row in even)
        self._has_plain = any(not _is_id(row[-1]) for row in even)
        self._may_lead_with_ids = bool(outlined) and all(_is_id(row[0]) for row in outlined)

    def parse(self, words: Sequence[str], name: str) -> YoloLine:
        """One line; it says itself why it cannot be refined."""
        numbers = _numbers(words)
        if numbers is None or numbers[0] != int(numbers[0]):
            text = " ".join(words)[:60]
            return _left(words, name, f"expected 'class x1 y1 x2 y2 ...', got {text!r}", True)
        count = len(numbers) - 1
        if count < 6:
            what = "a box, a label for detection" if count in (4, 5) else "it has no outline"
            return _left(words, name, what, False)
        num_tail = count % 2
        if not num_tail:
            try:
                num_tail = 2 if self._ends_with_id(words[1:], numbers[1:]) else 0
            except ValueError as error:
                return _left(words, name, str(error), True)
        if count - num_tail < 6:
            return _left(words, name, "a box, a label for detection", False)
        end = len(numbers) - num_tail
        shares = np.array(numbers[1:end], np.float64).reshape(-1, 2)
        if shares.min() < -_OUTSIDE or shares.max() > 1 + _OUTSIDE:
            return _left(
                words,
                name,
                "expected x and y in 0..1, shares of the image's width and height, got "
                f"{shares.min():g} to {shares.max():g}",
                True,
            )
        if num_tail == 1 and not (0 <= numbers[-1] <= 1 or _is_id(words[-1])):
            return _left(words, name, f"expected a confidence at its end, got {words[-1]}", True)
        is_outline_without = count - 2 + count % 2 >= 6
        may_lead = self._may_lead_with_ids and is_outline_without
        if may_lead and not _touches(shares[1:, 0], numbers[1]):
            return _left(
                words,
                name,
                f"cannot tell whether {words[1]} behind the class is x or the id of the instance",
                True,
            )
        return YoloLine(words[0], shares, tuple(words[end:]))

    def _ends_with_id(self, words: Sequence[str], numbers: Sequence[float]) -> bool:
        """Whether the last two numbers are a confidence and an id, and no point.

        Raises:
            ValueError: that cannot be told.
        """
        if not _is_id(words[-1]) or not 0 <= numbers[-2] <= 1:
            return False
        if numbers[-1] > 1:
            return True
        if self._has_ids != self._has_plain:
            return self._has_ids
        if _touches(np.array(numbers[1:-2:2]), numbers[-1]):
            return False
        raise ValueError(
            f"cannot tell whether {words[-2]} {words[-1]} at the end are a point or a confidence "
            "and an id"
        )


def _left(words: Sequence[str], name: str, reason: str, is_damaged: bool) -> YoloLine:
    left = LeftObject(name, reason, is_damaged)
    return YoloLine(words[0], np.zeros((0, 2)), left=left)


def _numbers(words: Sequence[str]) -> list[float] | None:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _is_id(word: str) -> bool:
    return _WHOLE.fullmatch(word) is not None


def _touches(others: polygons.Points, border: float) -> bool:
    """Whether other points lie on the very border: then one more there is no surprise."""
    return bool((others == border).any())


def _score(tail: Sequence[str]) -> float:
    score = float(tail[0]) if tail and not _is_id(tail[0]) else 1.0
    return score if 0 <= score <= 1 else 1.0
