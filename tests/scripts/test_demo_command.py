"""`bpr demo` as a newcomer sees it: with the weights that are shipped."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def test_the_demo_sharpens_the_masks_and_draws_what_changed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.main", "demo", "--out", str(tmp_path / "look")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    mean = next(line for line in done.stdout.splitlines() if line.startswith("mean"))
    numbers = [float(number) for number in re.findall(r"\d+\.\d", mean)]
    assert len(numbers) == 6, "coarse and refined of three metrics"
    for coarse, refined in zip(numbers[::2], numbers[1::2], strict=True):
        assert refined > coarse + 5

    pictures = sorted((tmp_path / "look").glob("*_comparison.png"))
    assert len(pictures) >= 3
    for path in pictures:
        with Image.open(path) as file:
            left, right = np.split(np.asarray(file)[:, : file.width // 2 * 2], 2, axis=1)
        assert (left != right).any(axis=-1).mean() > 0.001
    assert len(list((tmp_path / "look").glob("*_closeups.png"))) == len(pictures)
