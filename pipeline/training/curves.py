"""The curves of a training as a picture, from its CSV logs."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

Curve = Sequence[tuple[float, float]]
"""Points (step, value)."""

_WIDTH, _HEIGHT, _MARGIN = 900, 320, 60
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555")
_NOT_DRAWN = ("step", "learning_rate", "images_per_s", "patches_per_s")


def draw_curves(logs: Sequence[Path], out: Path) -> None:
    """Draw each log as a panel with a curve for each column, steps to the right.

    Args:
        logs: CSV files whose first column is the step; those that are missing are left out.
        out: PNG to write.
    """
    panels = [(log.stem, read_curves(log)) for log in logs if log.is_file()]
    panels = [(name, curves) for name, curves in panels if curves]
    if not panels:
        return
    picture = Image.new("RGB", (_WIDTH, _HEIGHT * len(panels)), "white")
    draw = ImageDraw.Draw(picture)
    for number, (name, curves) in enumerate(panels):
        _draw_panel(draw, number * _HEIGHT, name, curves)
    picture.save(out)


def read_curves(log: Path) -> Mapping[str, Curve]:
    """The columns of a log that are drawn, without values that are no numbers."""
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, text in row.items():
            if name not in _NOT_DRAWN and math.isfinite(value := float(text)):
                curves.setdefault(name, []).append((float(row["step"]), value))
    return curves


def _draw_panel(
    draw: ImageDraw.ImageDraw, top: int, title: str, curves: Mapping[str, Curve]
) -> None:
    points = [point for curve in curves.values() for point in curve]
    last = max(step for step, _ in points)
    low, high = min(0.0, min(v for _, v in points)), max(v for _, v in points)
    left, right = _MARGIN, _WIDTH - 3 * _MARGIN
    upper, lower = top + 30, top + _HEIGHT - 40

    def place(step: float, value: float) -> tuple[float, float]:
        x = left + (right - left) * step / max(last, 1)
        return x, lower - (lower - upper) * (value - low) / max(high - low, 1e-12)

    draw.text((left, top + 8), title, fill="black")
    draw.rectangle((left, upper, right, lower), outline="#888888")
    for share in (0.0, 0.5, 1.0):
        value, step = low + share * (high - low), share * last
        draw.text((5, place(0, value)[1] - 6), f"{value:.3g}", fill="black")
        draw.text((place(step, low)[0] - 10, lower + 6), f"{step:.0f}", fill="black")
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [place(step, value) for step, value in curve]
        draw.line(places, fill=colour, width=2)
        for x, y in places if len(places) < 30 else places[-1:]:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
        draw.text((right + 8, upper + 14 * number), name, fill=colour)
