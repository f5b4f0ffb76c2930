"""How fast and in how much memory `bpr evaluate` judges a data set of Cityscapes' size.

    python -m benchmarks.evaluate_speed --images 50 100 200

Scenes of 2048 x 1024 with 20 instances each, before and after refinement, in the Cityscapes
layout. Ten scenes are drawn and linked under as many names as are asked for. Every size runs in
a process of its own, whose largest memory is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

NUM_SCENES = 10
SIZE = (1024, 2048)
ROOT = Path(__file__).resolve().parents[1]


def draw_scenes(folder: Path, num_instances: int) -> None:
    """Street-like scenes: instances of 40 to 300 px, coarse and almost right."""
    rng = np.random.default_rng(0)
    for part in ("gt", "before", "after"):
        (folder / part).mkdir(parents=True)
    for scene in range(NUM_SCENES):
        values = np.zeros(SIZE, np.uint16)
        for k in range(num_instances):
            centre = (int(rng.integers(0, SIZE[1])), int(rng.integers(0, SIZE[0])))
            axes = tuple(int(n) for n in rng.integers(20, 150, 2))
            shape = np.zeros(SIZE, np.uint8)
            cv2.ellipse(shape, centre, axes, float(rng.integers(0, 180)), 0, 360, 1, -1)
            values[shape != 0] = 26_000 + k
        Image.fromarray(values).save(folder / f"gt/{scene}.png", compress_level=1)
        lines = ""
        for k in range(num_instances):
            mask = (values == 26_000 + k).astype(np.uint8)
            coarse = np.roll(cv2.dilate(mask, np.ones((5, 5), np.uint8)), 3, axis=1)
            fine = cv2.dilate(mask, np.ones((3, 3), np.uint8))
            for part, drawn in (("before", coarse), ("after", fine)):
                path = folder / f"{part}/{scene}_{k}.png"
                Image.fromarray(drawn * 255).save(path, compress_level=1)
            lines += f"{{name}}_{k}.png 26 {1 - k / 100:.2f}\n"
        (folder / f"{scene}.txt").write_text(lines)


def link_dataset(scenes: Path, folder: Path, num_images: int, num_instances: int) -> None:
    """The scenes again and again, under names of their own."""
    for part in ("gtFine/val/b", "before", "after"):
        (folder / part).mkdir(parents=True)
    for number in range(num_images):
        scene, name = number % NUM_SCENES, f"b_{number:06d}_000000"
        gt = folder / f"gtFine/val/b/{name}_gtFine_instanceIds.png"
        os.link(scenes / f"gt/{scene}.png", gt)
        text = (scenes / f"{scene}.txt").read_text().replace("{name}", name)
        for part in ("before", "after"):
            for k in range(num_instances):
                os.link(scenes / f"{part}/{scene}_{k}.png", folder / part / f"{name}_{k}.png")
            (folder / part / f"{name}_pred.txt").write_text(text)


def measure(folder: Path, options: Sequence[str]) -> tuple[float, float]:
    """Seconds and MiB of one run of the command."""
    code = (
        "import resource, sys; from bpr.scripts.main import main; code = main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024); sys.exit(code)"
    )
    command = [
        sys.executable, "-c", code, "evaluate", str(folder / "after"),
        "--before", str(folder / "before"), "--ground-truth", str(folder / "gtFine"),
        "--out", str(folder / "out"), *options,
    ]  # fmt: skip
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    elapsed = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stderr)
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["runs"][1]["change"]["improved"] > 0
    return elapsed, float(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[50, 100, 200], metavar="N")
    parser.add_argument("--instances", type=int, default=20, metavar="N", help="per image")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for the data, not removed")
    arguments, options = parser.parse_known_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        draw_scenes(folder / "scenes", arguments.instances)
        print(f"{'images':>7}{'seconds':>9}{'images/s':>10}{'MiB':>7}")
        for count in arguments.images:
            data = folder / f"data{count}"
            link_dataset(folder / "scenes", data, count, arguments.instances)
            seconds, memory = measure(data, options)
            print(f"{count:7}{seconds:9.1f}{count / seconds:10.2f}{memory:7.0f}", flush=True)


if __name__ == "__main__":
    main()
