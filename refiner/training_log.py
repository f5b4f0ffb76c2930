"""CSV logs of a training, whole again after a kill."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path


def append_row(log: Path, row: Mapping[str, float]) -> None:
    """Add a row; the first one brings the names of the columns and the folder."""
    log.parent.mkdir(parents=True, exist_ok=True)
    is_new = not log.exists()
    with log.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(row)
        writer.writerow([v if isinstance(v, int) else f"{v:.6g}" for v in row.values()])


def forget_rows_after(log: Path, step: int) -> None:
    """Drop rows that a killed run wrote after its last checkpoint: they will come again.

    The first column is the step.
    """
    if log.exists():
        lines = log.read_text().splitlines(keepends=True)
        kept = [line for line in lines[1:] if int(line.split(",")[0]) <= step]
        log.write_text("".join(lines[:1] + kept))
