"""`bpr train-refiner` for the network of several passes: a model's own masks in, weights out."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from bpr.pipeline.training.pool import Pool
from bpr.refiner.checkpoints import load_model
from bpr.scripts.main import main


@pytest.fixture
def photographs(tmp_path):
    """Two photographs with an object each, and a results json with a mask of one of them."""
    rng = np.random.default_rng(0)
    results = []
    for number, name in enumerate(("a", "b"), start=1):
        labels = np.zeros((90, 120), np.uint8)
        labels[20:70, 30:90] = 1
        pixels = np.where(labels[..., None] == 1, (200, 60, 40), (40, 160, 70))
        pixels = pixels + rng.integers(-15, 16, pixels.shape)
        for folder in ("images", "maps"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(labels).save(tmp_path / "maps" / f"{name}.png")
        for window in ((slice(25, 70), slice(30, 80)), (slice(0, 10), slice(0, 10))):
            found = np.zeros(labels.shape, np.uint8)
            found[window] = 1
            code = rle.encode(np.asfortranarray(found))
            results.append(
                {
                    "image_id": name if number == 1 else "elsewhere",
                    "category_id": 1,
                    "score": 0.9,
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                }
            )
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def command(folder, *more):
    return [
        "train-refiner",
        *("--out", str(folder / "run"), "--input-size", "32", "--batch-size", "4"),
        *("--threads", "1", "--device", "cpu", *more),
    ]


def data(folder):
    return [
        *("--images", str(folder / "images"), "--ground-truth", str(folder / "maps")),
        *("--predictions", str(folder / "results.json")),
    ]


@pytest.mark.slow
def test_weights_are_trained_in_runs_that_resume(photographs, capsys):
    assert main(command(photographs, *data(photographs), "--steps", "3", "--data", "two")) == 0
    assert "trained for 3 steps" in capsys.readouterr().out

    again = main(command(photographs, "--pool", str(photographs / "run/pool"), "--steps", "5"))

    assert again == 0
    assert "step 3 of 5" in capsys.readouterr().out
    model = load_model(photographs / "run/unet-lite0.safetensors")
    assert model.config.patch_size == "passes"


@pytest.mark.slow
def test_only_the_mask_that_overlaps_an_object_is_packed(photographs):
    main(command(photographs, *data(photographs), "--steps", "1"))

    first, second = Pool(photographs / "run/pool")

    (recorded,) = first.recorded
    assert recorded.sum() == 45 * 50
    assert second.recorded == ()


@pytest.mark.slow
def test_a_run_that_is_stopped_says_how_to_resume(photographs):
    words = command(photographs, *data(photographs), "--steps", "100000")
    running = subprocess.Popen(
        [sys.executable, "-m", "bpr", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    log = photographs / "run/log.csv"
    wait_for(log.exists)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "saved after step" in said.decode()
    assert not (photographs / "run/unet-lite0.safetensors").exists()
    state = torch.load(photographs / "run/checkpoint.pt", weights_only=True)
    assert state["step"] >= 50


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_photographs_without_ground_truth_are_refused(photographs, capsys):
    status = main(command(photographs, "--images", str(photographs / "images")))

    assert status == 2
    assert "expected --images with --ground-truth" in capsys.readouterr().err


def test_weights_of_the_papers_network_are_refused(photographs, capsys):
    status = main(command(photographs, *data(photographs), "--start-from", "tiny"))

    assert status == 2
    assert "expected weights that refine in passes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [("--recipe", "paper"), ("--validation-images", "x", "--validation-maps", "y")]
)
def test_options_of_other_networks_are_refused(words, photographs, capsys):
    assert main(command(photographs, *data(photographs), *words)) == 2
    assert f"{words[0]}: expected a network of a single pass" in capsys.readouterr().err
