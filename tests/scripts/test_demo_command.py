"""`bpr demo` as a newcomer sees it: with the weights that are shipped."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from bpr.pipeline.demo.drawing import draw_comparison
from bpr.pipeline.demo.scenes import load_demo_scenes


def test_the_demo_sharpens_the_masks_and_draws_what_changed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bpr", "demo", "--out", str(tmp_path / "look")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    mean = next(line for line in done.stdout.splitlines() if line.startswith("mean"))
    numbers = [float(number) for number in re.findall(r"\d+\.\d", mean)]
    assert len(numbers) == 6, "coarse and refined of three metrics"
    for coarse, refined in zip(numbers[::2], numbers[1::2], strict=True):
        assert refined > coarse + 5

    scenes = {scene.name: scene for scene in load_demo_scenes()}
    pictures = sorted((tmp_path / "look").glob("*_comparison.png"))
    assert len(pictures) >= 3
    for path in pictures:
        scene = scenes[path.name.removesuffix("_comparison.png")]
        unchanged = draw_comparison(scene.image, scene.coarse, scene.coarse)
        with Image.open(path) as file:
            drawn = np.asarray(file)
        half = drawn.shape[1] // 2
        differs = (drawn != unchanged).any(axis=-1)
        assert not differs[:, :half].any(), "before: the coarse masks"
        assert differs[:, half:].mean() > 0.001, "after: other masks"
    assert len(list((tmp_path / "look").glob("*_closeups.png"))) == len(pictures)
