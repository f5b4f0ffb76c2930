"""How coarse masks err: those that networks made beside those that are simulated.

    python -m benchmarks.coarse_errors RUN/pool --objects 400

RUN/pool is what `bpr train-refiner` packed. Means over objects: IoU of the masks; the share of the
coarse outline within 1 px of the true one; the 90th and 99th percentile of its distance in % of the
object's long side; how often one connected piece of more than 3 % of the object's area is missing
or too much.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from bpr.pipeline.datasets.simulate import long_side, simulate_coarse_mask
from bpr.pipeline.instance import BoolArray, UInt8Array
from bpr.pipeline.training.chain_stream import SIMULATED
from bpr.pipeline.training.pool import Pool, PoolItem

PART = 0.03  # of the object's area


def errors(coarse: BoolArray, gt: BoolArray) -> tuple[float, ...]:
    """IoU, share within 1 px, 90th and 99th percentile in %, part missing, part too much."""
    iou = np.count_nonzero(coarse & gt) / np.count_nonzero(coarse | gt)
    line = _outline(gt)
    distance = cv2.distanceTransform((line == 0).astype(np.uint8), cv2.DIST_L2, 5)
    found = distance[_outline(coarse) != 0]
    if found.size == 0:
        found = np.zeros(1, np.float32)
    p90, p99 = 100 * np.percentile(found, (90, 99)) / long_side(gt)
    least = PART * np.count_nonzero(gt)
    return (
        iou,
        float(np.mean(found <= 1)),
        float(p90),
        float(p99),
        float(_largest(gt & ~coarse) > least),
        float(_largest(coarse & ~gt) > least),
    )


def _outline(mask: BoolArray) -> UInt8Array:
    kernel = np.ones((3, 3), np.uint8)
    bitmap = mask.view(np.uint8)
    inside = cv2.erode(bitmap, kernel, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(bitmap - inside, np.uint8)


def _largest(mask: BoolArray) -> int:
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    return int(stats[1:, cv2.CC_STAT_AREA].max(initial=0))


def mixed(gt: BoolArray, rng: np.random.Generator) -> BoolArray:
    """What `bpr train-refiner` simulates."""
    weights = np.array(list(SIMULATED.values()))
    kind = list(SIMULATED)[int(rng.choice(len(weights), p=weights / weights.sum()))]
    return kind(gt, rng)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pool", type=Path)
    parser.add_argument("--objects", type=int, default=400, help="at most (default: %(default)s)")
    arguments = parser.parse_args(argv)
    pool = Pool(arguments.pool)
    chosen = np.unique(np.linspace(0, len(pool) - 1, min(arguments.objects, len(pool))).astype(int))
    items = [pool[number] for number in chosen.tolist()]
    print(f"{'':28}{'n':>6}{'IoU':>7}{'1 px':>7}{'p90':>7}{'p99':>7}{'lost':>7}{'added':>7}")
    _show("recorded", _recorded(items))
    _show("simulation for one pass", _simulated(items, simulate_coarse_mask))
    _show("simulation for several passes", _simulated(items, mixed))
    for kind in SIMULATED:
        _show(kind.__name__, _simulated(items, kind))


def _recorded(items: Sequence[PoolItem]) -> Iterator[tuple[float, ...]]:
    for item in items:
        for mask in item.recorded:
            yield errors(mask != 0, item.truth == 1)


def _simulated(
    items: Sequence[PoolItem], simulate: Callable[[BoolArray, np.random.Generator], BoolArray]
) -> Iterator[tuple[float, ...]]:
    for number, item in enumerate(items):
        coarse = simulate(item.truth == 1, np.random.default_rng(number))
        if coarse.any():
            yield errors(coarse, item.truth == 1)


def _show(name: str, rows: Iterator[tuple[float, ...]]) -> None:
    table = np.array(list(rows))
    iou, near, p90, p99, lost, added = table.mean(axis=0)
    print(
        f"{name:28}{len(table):6}{iou:7.2f}{near:7.0%}{p90:7.1f}{p99:7.1f}{lost:7.0%}{added:7.0%}"
    )


if __name__ == "__main__":
    main()
