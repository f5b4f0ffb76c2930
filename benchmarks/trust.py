"""Does a pass know what it did? What the network expects of each pass, beside what is true.

    python -m benchmarks.trust DATA --out trust.csv

A pass expects an error of the mask that came in and of the one that goes out
(`pipeline.passes.Outcome`), and `pipeline.chain` keeps or drops it by these. Here all passes of
all objects are put in bins by the gain that they expect (error before minus after, mean distance
of the outline in pixels) and by the share of the error that they expect to be left. A table says
what each bin truly gained, and how often a pass made the mask worse. DATA is that of
`benchmarks.kinds`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

import numpy as np

from benchmarks.kinds import read_kinds
from bpr.pipeline.chain import Chain, first_boxes
from bpr.pipeline.crops import patch_probabilities
from bpr.pipeline.formats.images import read_image
from bpr.pipeline.instance import BoolArray, Mask
from bpr.pipeline.metrics import outline
from bpr.pipeline.passes import long_side, outcome
from bpr.pipeline.settings import PatchSettings
from bpr.pipeline.training.curves import draw_curves
from bpr.refiner.model_config import DEFAULT_WEIGHTS
from bpr.refiner.predictor import LoadedPredictor, load_predictor

EDGES = {
    "expected_gain": (-9.0, 0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 99.0),
    "expected_left": (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 9.0),
}
CURVE = 25  # points of the curve
HARM = 0.05  # px: a smaller loss of the outline's mean distance is none


@dataclass(frozen=True, kw_only=True)
class Row:
    """One pass over one object. Errors in pixels, as in `Outcome`."""

    kind: str
    share: float  # patch size by the object's long side
    expected_before: float
    expected_after: float
    true_before: float
    true_after: float

    @property
    def expected_gain(self) -> float:
        """Pixels."""
        return self.expected_before - self.expected_after

    @property
    def expected_left(self) -> float:
        """Share of the error."""
        return self.expected_after / max(self.expected_before, 1e-6)

    @property
    def true_gain(self) -> float:
        """Pixels."""
        return self.true_before - self.true_after


def judged_passes(data: Path, predictor: LoadedPredictor, every: int) -> Iterator[Row]:
    """Every pass of the product's chain over every so manieth object of each kind."""
    settings = PatchSettings.of_weights(predictor.config)
    for folder, kind, pair in read_kinds(data, (), every):
        image = read_image(pair.image).pixels
        boxes = first_boxes(pair.mask, settings)
        chain = Chain(image, pair.mask, boxes, settings, predictor.input_size)
        while len(chain.boxes):
            size = int(chain.boxes[0, 2] - chain.boxes[0, 0])
            logits = predictor(chain.cut(0, len(chain.boxes)))
            found = outcome(chain.mask, chain.boxes, patch_probabilities(logits, size, 0))
            line = max(outline(chain.mask).area, 1)
            yield Row(
                kind=f"{folder}/{kind}",
                share=size / long_side(chain.mask),
                expected_before=found.error_before,
                expected_after=found.error_after,
                true_before=_wrong(chain.mask, pair.gt, pair.ignore) / line,
                true_after=_wrong(found.mask, pair.gt, pair.ignore) / line,
            )
            chain.put(logits)


def _wrong(mask: Mask, gt: Mask, ignore: BoolArray) -> int:
    """Pixels of a mask that are not as they should be, where the truth is known."""
    return int(np.count_nonzero((mask.to_array() != gt.to_array()) & ~ignore))


def describe(rows: Sequence[Row], by: str) -> Iterator[str]:
    """A table of the bins of one expectation."""
    yield f"{by:>16}{'passes':>8}{'expected':>10}{'true gain':>11}{'harmed':>8}"
    for low, high in pairwise(EDGES[by]):
        chosen = [row for row in rows if low <= getattr(row, by) < high]
        if not chosen:
            continue
        gain = np.array([row.true_gain for row in chosen])
        expected = np.mean([row.expected_gain for row in chosen])
        yield (
            f"{f'{low:g} to {high:g}':>16}{len(chosen):8}{expected:10.2f}{gain.mean():11.2f}"
            f"{np.mean(gain < -HARM):8.0%}"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--every", type=int, default=1, help="take every so manieth object")
    parser.add_argument("--out", type=Path, help="the rows as csv, and a curve beside it as png")
    arguments = parser.parse_args(argv)
    predictor = load_predictor(arguments.weights, "cpu")
    rows = list(judged_passes(arguments.data, predictor, arguments.every))
    for by in EDGES:
        print("\n".join(describe(rows, by)), end="\n\n")
    if arguments.out is not None:
        write(rows, arguments.out)


def write(rows: Sequence[Row], out: Path) -> None:
    """Every pass as a line, and the true gain over the expected one as a curve."""
    with out.open("w", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Row)])
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
    ordered = sorted(rows, key=attrgetter("expected_gain"))
    curve = out.with_suffix(".curve.csv")
    with curve.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["step", "expected gain", "true gain"])
        for part in np.array_split(np.arange(len(ordered)), min(CURVE, len(ordered))):
            chosen = [ordered[index] for index in part]
            expected = np.mean([row.expected_gain for row in chosen])
            lines.writerow([expected, expected, np.mean([row.true_gain for row in chosen])])
    draw_curves([curve], out.with_suffix(".png"))


if __name__ == "__main__":
    main()
