"""`bpr train-refiner`, from photographs to weights that `bpr refine` takes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refiner.checkpoints import load_model


def bpr(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.main", *map(str, words)], capture_output=True, text=True
    )


@pytest.fixture
def photographs_folder(tmp_path: Path) -> Path:
    labels = np.zeros((96, 96), np.uint8)
    labels[20:70, 20:70] = 1
    pixels = np.repeat(np.where(labels, 220, 30)[..., None], 3, axis=-1).astype(np.uint8)
    for folder, array in (("images", pixels), ("maps", labels)):
        (tmp_path / folder).mkdir()
        Image.fromarray(array).save(tmp_path / folder / "a.png")
    return tmp_path


def test_training_writes_weights_and_a_second_call_finds_it_done(photographs_folder: Path) -> None:
    command = (
        *("train-refiner", "--images", photographs_folder / "images"),
        *("--instance-maps", photographs_folder / "maps", "--out", photographs_folder / "run"),
        *("--steps", "3", "--batch-size", "4", "--input-size", "32", "--threads", "1"),
        *("--data", "one square", "--licence", "none"),
    )
    first = bpr(*command)
    assert first.returncode == 0, first.stderr
    model = load_model(photographs_folder / "run" / "hrnet18s.safetensors")
    assert (model.config.input_size, model.config.data) == (32, "one square")
    again = bpr(*command)
    assert "step 3 of 3" in again.stdout


def test_a_folder_without_maps_is_a_sentence_and_exit_status_2(photographs_folder: Path) -> None:
    done = bpr(
        *("train-refiner", "--images", photographs_folder / "images"),
        *("--instance-maps", photographs_folder, "--out", photographs_folder / "run"),
    )
    assert done.returncode == 2
    assert "expected instance maps (*.png), found none" in done.stderr
    assert "Traceback" not in done.stderr
