"""Label files of YOLO segmentation: a txt per image, a polygon per line.

A line is `class x1 y1 x2 y2 ... [score]`, x and y as shares of the image's width and height.
Source: docs and `polygon2mask` of ultralytics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bpr.pipeline.formats import polygons
from bpr.pipeline.instance import Instance, Mask, Prediction, Size, differing_pixels

_OUTSIDE = 0.05  # share of the image by which a point may leave it
# Ultralytics cuts pixel coordinates off to ints; those that it writes are ints before rounding.
_ROUNDING = 0.25  # pixels


@dataclass(frozen=True, eq=False)
class YoloLine:
    """One object as the txt has it."""

    label: str  # as it is written
    shares: polygons.Points  # (K, 2)
    score: str | None


@dataclass(frozen=True, eq=False)
class YoloFile:
    """A parsed txt."""

    path: Path
    content: bytes
    lines: tuple[YoloLine, ...]


def parse(path: Path) -> YoloFile:
    """Read a txt; an empty one has no objects.

    Raises:
        ValueError: not readable, or a line is no class with a polygon.
    """
    try:
        content = path.read_bytes()
        rows = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: expected a readable file, got: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected text in UTF-8, got other bytes") from None
    lines = [
        _parse_line(row.split(), f"{path}, line {number}")
        for number, row in enumerate(rows, start=1)
        if row.strip()
    ]
    return YoloFile(path, content, tuple(lines))


def read_instances(file: YoloFile, size: Size) -> tuple[Instance, ...]:
    """Fill the polygons.

    Args:
        file: parsed.
        size: (height, width) of the image.
    """
    height, width = size
    return tuple(
        Instance(
            polygons.fill(line.shares * (width, height) + _ROUNDING, size),
            int(float(line.label)),
            1.0 if line.score is None else float(line.score),
        )
        for line in file.lines
    )


def encode(
    file: YoloFile, before: Sequence[Mask], refined: Prediction, tolerance: float
) -> tuple[bytes, list[str]]:
    """The txt with refined polygons, and what they could not hold.

    Lines of masks that have not changed stay as they are, and so does the line of a mask of which
    nothing is left: a line has at least three points.

    Args:
        file: parsed.
        before: the masks of its lines.
        refined: of the same order.
        tolerance: how far in pixels a polygon may be from the mask's outline.
    """
    height, width = refined.size
    rows = [row for row in file.content.decode("utf-8-sig").splitlines() if row.strip()]
    holes = joined = changed = 0
    for index, (line, old, instance) in enumerate(
        zip(file.lines, before, refined.instances, strict=True)
    ):
        outlines = polygons.trace_pixels(instance.mask, tolerance)
        if not outlines.parts or differing_pixels(old, instance.mask) == 0:
            continue
        changed += 1
        holes += outlines.num_holes
        joined += len(outlines.parts) > 1
        shares = (polygons.join(outlines.parts) + 0.5) / (width, height)
        words = [line.label, *(f"{share:.6f}" for share in shares.ravel())]
        rows[index] = " ".join(words if line.score is None else [*words, line.score])
    content = "".join(f"{row}\n" for row in rows).encode() if changed else file.content
    return content, polygons.describe_loss(holes, joined)


def _parse_line(words: list[str], where: str) -> YoloLine:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)) or numbers[0] != int(numbers[0]):
        raise ValueError(f"{where}: expected 'class x1 y1 x2 y2 ...', got {' '.join(words)[:60]!r}")
    has_score = len(numbers) % 2 == 0
    shares = np.array(numbers[1 : len(numbers) - has_score], np.float64)
    if len(shares) in (0, 2, 4):
        what = "a box: labels for detection" if len(shares) == 4 else f"{len(shares) // 2}"
        raise ValueError(f"{where}: expected a polygon of at least 3 points, got {what}")
    if shares.min() < -_OUTSIDE or shares.max() > 1 + _OUTSIDE:
        raise ValueError(
            f"{where}: expected x and y in 0..1, shares of the image's width and height, got "
            f"{shares.min():g} to {shares.max():g}"
        )
    return YoloLine(words[0], shares.reshape(-1, 2), words[-1] if has_score else None)
