"""Scatter plots as SVG: one dot per object."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 400  # px
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 44  # px around the drawing
MOST_DOTS = 4000
KINDS = {"improved": "better", "worse": "worse"}


@dataclass(frozen=True)
class Dot:
    """One object."""

    row: int  # of the table
    x: float  # in the units of the axis
    y: float
    state: str


@dataclass(frozen=True)
class Axis:
    """A range of values, and where to write them."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float) -> float:
        """Where a value lies, 0 at the low end and 1 at the high end; what is outside, at it."""
        return min(max((value - self.low) / (self.high - self.low), 0), 1)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing ready for the page, in pixels of WIDTH x HEIGHT."""

    title: str
    x: Axis
    y: Axis
    groups: tuple[tuple[str, str], ...]  # class of the dots, path with one dot per object
    points: str  # JSON: [row, x, y] of each dot
    reference: tuple[tuple[float, float], tuple[float, float]]  # the line of no change
    left_out: int  # dots beyond MOST_DOTS

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Where a pair of values lies in the drawing."""
        return _pixel(self.x, self.y, x, y)


def shares_axis(title: str) -> Axis:
    """0 to 100 %."""
    return Axis(title, 0, 1, tuple((k / 5, f"{20 * k}") for k in range(6)))


def change_axis(title: str, changes: Sequence[float]) -> Axis:
    """Symmetric around no change and wide enough for all changes."""
    reach = max(math.ceil(20 * max(map(abs, changes), default=0)) / 20, 0.05)
    ticks = (-1.0, -0.5, 0.0, 0.5, 1.0)
    return Axis(
        title,
        -reach,
        reach,
        tuple((k * reach, f"{100 * k * reach:+g}" if k else "0") for k in ticks),
    )


def area_axis(title: str, areas: Sequence[float]) -> Axis:
    """Logarithmic, from the decade of the smallest area to that of the largest one."""
    low = math.floor(math.log10(max(min(areas, default=1), 1)))
    high = max(math.ceil(math.log10(max(max(areas, default=10), 1))), low + 1)
    ticks = tuple((float(k), f"{10**k:,}".replace(",", " ")) for k in range(low, high + 1))
    return Axis(title, low, high, ticks)


def scatter(title: str, x: Axis, y: Axis, dots: Sequence[Dot], diagonal: bool) -> Plot:
    """Place the dots; of too many, every k-th is drawn.

    Args:
        title: of the plot.
        x: horizontal axis.
        y: vertical axis.
        dots: objects.
        diagonal: whether the line of no change is y = x instead of y = 0.
    """
    every = max(math.ceil(len(dots) / MOST_DOTS), 1)
    drawn = dots[::every]
    paths: dict[str, list[str]] = {"same": [], "better": [], "worse": []}
    points = []
    for dot in drawn:
        px, py = (round(value, 1) for value in _pixel(x, y, dot.x, dot.y))
        paths[KINDS.get(dot.state, "same")].append(f"M{px:g} {py:g}h0")
        points.append([dot.row, px, py])
    ends = ((x.low, y.low), (x.high, y.high)) if diagonal else ((x.low, 0.0), (x.high, 0.0))
    groups = tuple((kind, "".join(parts)) for kind, parts in paths.items() if parts)
    left_out = len(dots) - len(drawn)
    return Plot(
        title=title,
        x=x,
        y=y,
        groups=groups,
        points=json.dumps(points, separators=(",", ":")),
        reference=ends,
        left_out=left_out,
    )


def _pixel(x: Axis, y: Axis, at: float, value: float) -> tuple[float, float]:
    return (
        LEFT + x.place(at) * (WIDTH - LEFT - RIGHT),
        HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM),
    )
