"""Pack the photographs that the shipped weights learn from, for `bpr train-refiner --pool`.

    python -m benchmarks.shipped_pool DATA runs/pool
    python -m benchmarks.shipped_pool DATA shards --max-side 320 --shards 4

The second command makes pools shards/0 to shards/3 of a part of the photographs each, small enough
to be carried to a machine with a GPU: copy one after the other to the same place and resume.

DATA holds train/ and train-more/ (`index.json`, photographs, instance maps) and
train_predictions/PRODUCER.SET.json, masks that networks predicted for these objects.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from bpr.pipeline.formats.images import IGNORE
from bpr.pipeline.instance import Mask
from bpr.pipeline.training.pool import PoolObject, PoolSource, build_pool

SETS = ("train", "train-more")
EDGE = 0.7  # px: photographs whose outlines lie farther from the image's edges are reduced
LEAST_SCALE = 0.6


def sources(data: Path, max_side: int) -> Iterator[PoolSource]:
    """Every photograph with its objects and what networks predicted for them.

    Args:
        data: folder, see above.
        max_side: photographs are reduced to it, pixels.
    """
    for name in SETS:
        recorded: dict[tuple[str, int], list[Mask]] = {}
        for path in sorted((data / "train_predictions").glob(f"*.{name}.json")):
            for record in json.loads(path.read_text("utf-8")):
                mask = Mask.from_array(coco_mask.decode(record["segmentation"]) != 0)
                recorded.setdefault((record["file"], record["instance"]), []).append(mask)
        for entry in json.loads((data / name / "index.json").read_text("utf-8")):
            labels = np.array(Image.open(data / name / entry["mask"]))
            numbers = [int(k) for k in np.unique(labels) if k not in (0, IGNORE)]
            scale = min(max(EDGE / (entry.get("edge") or EDGE), LEAST_SCALE), 1.0)
            yield PoolSource(
                image=data / name / entry["file"],
                objects=tuple(
                    PoolObject(
                        Mask.from_array(labels == k), tuple(recorded.get((entry["file"], k), ()))
                    )
                    for k in numbers
                ),
                ignore=np.asarray(labels == IGNORE),
                dataset=entry["dataset"],
                scale=min(scale, max_side / max(labels.shape)),
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the pool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-side", type=int, default=10**6, help="of photographs, pixels")
    parser.add_argument("--shards", type=int, default=1)
    arguments = parser.parse_args(argv)
    for number in range(arguments.shards):
        folder = arguments.out / str(number) if arguments.shards > 1 else arguments.out
        every = sources(arguments.data, arguments.max_side)
        pool = build_pool(islice(every, number, None, arguments.shards), folder)
        size = (folder / "pool.bin").stat().st_size
        print(f"{folder}: {len(pool)} objects, {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
