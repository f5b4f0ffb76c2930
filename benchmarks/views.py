"""What several views of an image (test-time augmentation) cost: time and fragments, beside AP.

    python -m benchmarks.views DATA/val --limit 30

DATA/val holds `images`, and instance maps in `masks`. The same detector finds objects in the plain
image, with `--flip`, and with `--flip` at two sizes. A fragment is a connected part (8 neighbours)
of a mask; an ideal mask of a whole object has one. Times are of whole commands on this machine, the
first one with the loading of libraries: they mean little on a busy machine or for few photographs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from bpr.pipeline.formats.images import read_mask
from bpr.scripts.main import main as bpr

VIEWS = {"one view": [], "--flip": ["--flip"]}


def count_fragments(predictions: Path, score: float) -> list[int]:
    """The number of connected parts of each mask with a score of at least `score`."""
    counts = []
    for text in sorted(predictions.rglob("*_pred.txt")):
        for line in text.read_text().splitlines():
            name, _, found = line.split()
            if float(found) >= score:
                mask = read_mask(text.parent / name)
                counts.append(cv2.connectedComponents(mask.astype(np.uint8))[0] - 1)
    return counts


def first_photographs(data: Path, limit: int, out: Path) -> None:
    """Copy the first photographs by name and their instance maps into out/images and out/masks."""
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True)
    maps = {path.stem: path for path in (data / "masks").glob("*.png")}
    images = [path for path in sorted((data / "images").iterdir()) if path.stem in maps]
    for path in images[:limit]:
        shutil.copy(path, out / "images")
        shutil.copy(maps[path.stem], out / "masks")


def measure(data: Path, out: Path, weights: str, views: Sequence[str], score: float) -> list[float]:
    """Detect in data/images; masks, fragments of a mask, AP in percent, and seconds."""
    images = str(data / "images")
    start = time.perf_counter()
    words = ["detect", images, "--weights", weights, "--out", str(out), "--device", "cpu", *views]
    if bpr(words):
        raise ValueError(f"{data}: expected images that can all be read")
    seconds = time.perf_counter() - start
    report = out.with_name(f"{out.name} report")
    bpr(["evaluate", str(out), "--ground-truth", str(data / "masks"), "--out", str(report)])
    ap = json.loads((report / "report.json").read_text())["runs"][0]["average_precision"]["AP"]
    counts = count_fragments(out, score)
    return [len(counts), float(np.mean(counts)), 100 * ap, seconds]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with images/ and masks/")
    parser.add_argument("--weights", default="lite")
    parser.add_argument("--limit", type=int, default=30, help="photographs, the first by name")
    parser.add_argument("--scales", type=int, nargs="+", default=[320, 448])
    parser.add_argument("--score", type=float, default=0.3, help="of masks whose parts are counted")
    arguments = parser.parse_args(argv)
    scales = ["--scales", *map(str, arguments.scales)]
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        first_photographs(arguments.data, arguments.limit, data)
        for number, (name, views) in enumerate(
            {**VIEWS, f"--flip {' '.join(scales)}": ["--flip", *scales]}.items()
        ):
            out = Path(folder) / f"out {number}"
            rows[name] = measure(data, out, arguments.weights, views, arguments.score)
    first = rows["one view"][-1]
    print(f"{'views':28} masks  fragments of a mask  mask AP  time")
    for name, (masks, fragments, ap, seconds) in rows.items():
        print(f"{name:28} {masks:5.0f}  {fragments:19.3f}  {ap:7.1f}  {seconds / first:.1f}")


if __name__ == "__main__":
    main()
