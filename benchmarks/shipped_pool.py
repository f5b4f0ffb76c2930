"""Pack the photographs that the shipped weights learn from, for `bpr train-refiner --pool`.

    python -m benchmarks.shipped_pool DATA runs/pool

DATA holds train/ and train-more/ (`index.json`, photographs, instance maps) and
train_predictions/PRODUCER.SET.json, masks that networks predicted for these objects.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
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


def sources(data: Path) -> Iterator[PoolSource]:
    """Every photograph with its objects and what networks predicted for them."""
    for name in SETS:
        recorded: dict[tuple[str, int], list[Mask]] = {}
        for path in sorted((data / "train_predictions").glob(f"*.{name}.json")):
            for record in json.loads(path.read_text("utf-8")):
                mask = Mask.from_array(coco_mask.decode(record["segmentation"]) != 0)
                recorded.setdefault((record["file"], record["instance"]), []).append(mask)
        for entry in json.loads((data / name / "index.json").read_text("utf-8")):
            labels = np.array(Image.open(data / name / entry["mask"]))
            numbers = [int(k) for k in np.unique(labels) if k not in (0, IGNORE)]
            edge = entry.get("edge") or EDGE
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
                scale=min(max(EDGE / edge, LEAST_SCALE), 1.0),
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the pool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args(argv)
    print(f"{len(build_pool(sources(arguments.data), arguments.out))} objects")


if __name__ == "__main__":
    main()
