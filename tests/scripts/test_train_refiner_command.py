"""`bpr train-refiner`, from photographs to weights that `bpr refine` takes."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bpr.pipeline.extraction.extract import Extraction, extract
from bpr.pipeline.extraction.settings import ExtractionSettings
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.checkpoints import load_model
from tests.datasets import open_dataset, write_dataset
from tests.systems import needs_signals


def bpr(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bpr", *map(str, words)], capture_output=True, text=True
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
    other = bpr(*command, "--start-from", "hrnet18s")
    assert other.returncode == 2
    assert "belongs to another training (start_from was None, is 'hrnet18s')" in other.stderr


def test_the_architecture_comes_from_the_weights_and_the_patch_size_from_the_patches(
    photographs_folder: Path,
) -> None:
    write_dataset(photographs_folder / "data", 2)
    settings = ExtractionSettings(patches=PatchSettings(patch_size=32, padding=4, nms_iou=0.25))
    extract(
        Extraction(open_dataset(photographs_folder / "data"), settings, photographs_folder / "p")
    )
    done = bpr(
        *("train-refiner", "--patches", photographs_folder / "p"),
        *("--out", photographs_folder / "run", "--steps", "1", "--batch-size", "2"),
        *("--input-size", "32", "--threads", "1", "--start-from", "tiny"),
    )
    assert done.returncode == 0, done.stderr
    tiny = load_model("tiny").config.architecture
    config = load_model(photographs_folder / f"run/{tiny}.safetensors").config
    assert (config.architecture, config.patch_size, config.padding) == (tiny, 32, 4)


def test_training_goes_on_from_weights_and_validates(photographs_folder: Path) -> None:
    done = bpr(
        *("train-refiner", "--images", photographs_folder / "images"),
        *("--instance-maps", photographs_folder / "maps", "--out", photographs_folder / "run"),
        *("--steps", "1", "--batch-size", "2", "--input-size", "32", "--threads", "1"),
        *("--start-from", "hrnet18s", "--validation-images", photographs_folder / "images"),
        *("--validation-maps", photographs_folder / "maps"),
    )
    assert done.returncode == 0, done.stderr
    trained = load_model(photographs_folder / "run" / "hrnet18s.safetensors").network
    shipped = dict(load_model("hrnet18s").network.named_parameters())
    change = [(value - shipped[name]).abs().max() for name, value in trained.named_parameters()]
    assert 0 < max(change) < 0.1, "one small step away from where it started"
    header, row = (photographs_folder / "run" / "validation.csv").read_text().splitlines()
    assert header.startswith("step,boundary_iou,f1")
    assert row.startswith("1,")


@needs_signals
@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_resumes(photographs_folder: Path) -> None:
    command = [
        *(sys.executable, "-m", "bpr", "train-refiner"),
        *("--images", photographs_folder / "images", "--loaders", "2"),
        *("--instance-maps", photographs_folder / "maps", "--out", photographs_folder / "run"),
        *("--steps", "100000", "--batch-size", "2", "--input-size", "32", "--threads", "1"),
    ]
    process = subprocess.Popen(
        list(map(str, command)),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # tests in the background ignore Ctrl-C, and so would the command
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert "1 of 100000 steps, about " in first, "time left from the first step"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the loaders too
    with process.stderr as stream:
        rest = stream.read()
    assert process.wait() == 130
    said = re.search(r"interrupted\. saved after step (\d+) to .*checkpoint\.pt; the same", rest)
    assert said, rest
    assert "Traceback" not in rest
    state = torch.load(photographs_folder / "run/checkpoint.pt", weights_only=True)
    assert state["step"] == int(said[1])


@pytest.mark.slow
def test_two_processes_train_one_network_together(photographs_folder: Path) -> None:
    def command(run: str) -> list[str | Path]:
        return [
            *("-m", "bpr", "train-refiner", "--images", photographs_folder / "images"),
            *("--instance-maps", photographs_folder / "maps", "--out", photographs_folder / run),
            *("--batch-size", "2", "--steps", "2", "--input-size", "32", "--threads", "1"),
        ]

    def weights(run: str) -> dict[str, torch.Tensor]:
        return load_model(photographs_folder / run / "hrnet18s.safetensors").network.state_dict()

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, *command("two")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 0 of 2") == 1, "one process talks"

    subprocess.run([sys.executable, *command("one")], check=True)
    one, two = weights("one"), weights("two")
    assert not all(torch.equal(one[name], two[name]) for name in one), "the other has a say"

    alone = subprocess.run(
        [sys.executable, *command("two")], capture_output=True, text=True, check=False
    )
    assert alone.returncode == 2
    assert "processes was 2, is 1" in alone.stderr


def test_a_folder_without_maps_is_a_sentence_and_exit_status_2(photographs_folder: Path) -> None:
    done = bpr(
        *("train-refiner", "--images", photographs_folder / "images"),
        *("--instance-maps", photographs_folder, "--out", photographs_folder / "run"),
    )
    assert done.returncode == 2
    assert "expected instance maps (*.png), found none" in done.stderr
    assert "Traceback" not in done.stderr
