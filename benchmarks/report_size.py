"""How large the page of `bpr evaluate` is, and what lies beside it.

    python -m benchmarks.report_size --images 62 500

The demo's photographs are cut, mirrored and brightened into as many images as are asked for. Each
has the demo's objects that are in the cut, coarse before and accurate after.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.instance import BoolArray
from bpr.scripts.main import main as bpr

LEAST = 400  # px of an object


def write_data(folder: Path, num_images: int) -> int:
    """Photographs, truth and predictions; returns the number of objects."""
    rng = np.random.default_rng(0)
    scenes = load_demo_scenes()
    for part in ("photos", "truth", "before", "after"):
        (folder / part).mkdir(parents=True)
    count = 0
    for number in range(num_images):
        scene = scenes[number % len(scenes)]
        height, width = scene.image.shape[:2]
        y, x = int(rng.integers(0, height // 4)), int(rng.integers(0, width // 4))
        cut = (slice(y, y + 3 * height // 4), slice(x, x + 3 * width // 4))
        flip = slice(None, None, -1 if rng.random() < 0.5 else 1)

        def seen(array: BoolArray, cut: tuple[slice, slice] = cut, flip: slice = flip) -> BoolArray:
            return array[cut][:, flip]

        pixels = scene.image[cut][:, flip] * rng.uniform(0.6, 1)
        name = f"photo_{number:06d}"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"photos/{name}.jpg", quality=90)
        values = np.zeros(pixels.shape[:2], np.uint8)
        lines = ""
        for k, (coarse, truth) in enumerate(zip(scene.coarse, scene.truth, strict=True)):
            masks = {"before": seen(coarse.to_array()), "after": seen(truth.to_array())}
            if min(mask.sum() for mask in masks.values()) < LEAST:
                continue
            values[masks["after"]] = k + 1
            for part, mask in masks.items():
                Image.fromarray(mask).save(folder / part / f"{name}_{k}.png")
            lines += f"{name}_{k}.png 0 0.9\n"
            count += 1
        Image.fromarray(values).save(folder / f"truth/{name}.png")
        for part in ("before", "after"):
            (folder / part / f"{name}_pred.txt").write_text(lines)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[62, 500])
    arguments = parser.parse_args()
    print(
        "| images | objects | page, MB | pictures beside it | MB |\n| --- | --- | --- | --- | --- |"
    )
    for num_images in arguments.images:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            count = write_data(folder, num_images)
            command = [
                "evaluate", folder / "after", "--before", folder / "before", "--ground-truth",
                folder / "truth", "--images", folder / "photos", "--out", folder / "report",
                "--no-average-precision",
            ]  # fmt: skip
            assert bpr([str(word) for word in command]) == 0
            page = (folder / "report/index.html").stat().st_size
            beside = [path.stat().st_size for path in (folder / "report/pictures").glob("*")]
            print(
                f"| {num_images} | {count} | {page / 1e6:.1f} | {len(beside)} | "
                f"{sum(beside) / 1e6:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
