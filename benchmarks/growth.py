"""How the cost of everything around the network grows: with objects, outlines and images.

    python -m benchmarks.growth

Milliseconds of one thread to choose, cut and put back the patches of one image (no network: the
patches come back as they were), least of `--repeat`. Outlines and instances should cost in
proportion, and an image that is larger around the same objects nothing at all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import cv2
import numpy as np

from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Instance, Mask, Prediction, Size
from bpr.pipeline.predictor import KeepCoarse
from bpr.pipeline.refine import merge, plan, predict
from bpr.pipeline.settings import PatchSettings

SETTINGS = PatchSettings(patch_size=64)


def scene(size: Size, num_objects: int, radius: int) -> tuple[np.ndarray, Prediction]:
    """Noise with discs in a row that fits into 512 x 512 where there are few."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    masks = []
    for k in range(num_objects):
        centre = (radius + 20 + 7 * (k % 20), radius + 20 + 3 * (k // 20))
        canvas = np.zeros((2 * radius + 200, 2 * radius + 200), np.uint8)
        cv2.circle(canvas, centre, radius, 1, -1)
        masks.append(Mask.from_array(canvas, (0, 0), size))
    return image, Prediction(size, tuple(Instance(mask=mask, label=0, score=1.0) for mask in masks))


def milliseconds(image: np.ndarray, prediction: Prediction, repeat: int) -> tuple[float, int]:
    """Least time, and the number of patches."""
    best, patches = np.inf, 0
    for _ in range(repeat):
        started = time.process_time()
        planned = plan(image, prediction, SETTINGS)
        for answer in predict([planned], HostRunner(KeepCoarse(64))):
            merge(answer)
        best = min(best, time.process_time() - started)
        patches = planned.num_patches
    return 1e3 * best, patches


def cases() -> Iterator[tuple[str, Size, int, int]]:
    """What grows, and the scene: size, objects, radius."""
    for count in (4, 16, 64, 256):
        yield f"{count} instances", (1024, 2048), count, 60
    for radius in (60, 120, 240, 480):
        yield f"outline of {round(2 * np.pi * radius)} px", (1200, 2048), 4, radius
    for factor in (1, 2, 4, 8):
        yield f"image of {512 * factor} x {512 * factor}", (512 * factor, 512 * factor), 16, 60


def main() -> None:
    """Print a row per case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{'':24}{'patches':>9}{'ms':>9}{'µs/patch':>10}")
    for name, size, count, radius in cases():
        elapsed, patches = milliseconds(*scene(size, count, radius), arguments.repeat)
        print(f"{name:24}{patches:9}{elapsed:9.2f}{1e3 * elapsed / patches:10.1f}", flush=True)


if __name__ == "__main__":
    main()
