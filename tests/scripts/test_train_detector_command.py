"""`bpr train-detector`, from photographs to weights that `bpr detect` takes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bpr.detector.checkpoints import load_detector
from bpr.pipeline.formats.images import read_image
from bpr.scripts.main import main
from bpr.scripts.training_options import add_training_options, save_clock
from tests.datasets import write_dataset
from tests.pipeline.evaluation.datasets import make_dataset
from tests.systems import needs_signals

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("photographs"), 3)


def command(folder, run, *more):
    return [
        *("train-detector", "--images", str(folder / "images")),
        *("--ground-truth", str(folder / "gt"), "--preset", "lite", "--device", "cpu"),
        *("--batch-size", "2", "--threads", "1", "--loaders", "1", "--out", str(run), *more),
    ]


def test_training_writes_weights_with_what_they_are_and_finds_itself_done(
    photographs, tmp_path, capsys
):
    words = command(photographs, tmp_path / "run", "--steps", "2", "--data", "blobs")
    assert main(words) == 0
    said = capsys.readouterr()
    assert "3 images, 1 categories; from random weights; step 0 of 2" in said.out
    assert "1 of 2 steps, about " in said.err or "1 of 2 steps, less than a minute left" in said.err
    model, info = load_detector(tmp_path / "run/lite.safetensors")
    assert (info.preset, info.categories.names, info.categories.ids) == ("lite", ("object",), (0,))
    assert info.data == "blobs"
    # as after a kill between the last checkpoint and the weights
    (tmp_path / "run/lite.safetensors").unlink()
    assert main(words) == 0
    assert "step 2 of 2" in capsys.readouterr().out
    assert (tmp_path / "run/lite.safetensors").exists()

    # the weights are those of the checkpoint
    state = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["network"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name].to(value.dtype), atol=0, rtol=0)
    assert main([*words, "--seed", "1"]) == 2
    assert "another training (seed was 0, is 1)" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_coco_weights_go_on_with_cityscapes_by_the_names_of_categories(tmp_path, capsys):
    scenes = make_dataset(tmp_path / "scenes", num_images=2)
    truth = json.loads(scenes.coco.read_text())
    truth["categories"].insert(0, {"id": 3, "name": "kite"})
    for annotation in truth["annotations"][::2]:  # polygons beside bitmaps, as COCO has them
        x, y, width, height = annotation["bbox"]
        if not annotation["iscrowd"]:
            annotation["segmentation"] = [[x, y, x + width, y, x + width, y + height]]
    scenes.coco.write_text(json.dumps(truth))
    images = ["--images", str(scenes.images)]
    words = command(tmp_path, tmp_path / "coco", *images, "--steps", "1", "--licence", "theirs")
    words[words.index("--ground-truth") + 1] = str(scenes.coco)
    assert main(words) == 0
    _, info = load_detector(tmp_path / "coco/lite.safetensors")
    assert info.categories.names == ("kite", "person", "rider", "car", "bicycle")
    words = command(tmp_path, tmp_path / "city", *images, "--steps", "1", "--start-from")
    words[words.index("--ground-truth") + 1] = str(scenes.gt_fine)
    assert main([*words, str(tmp_path / "coco/lite.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "4 categories known, new: truck, bus, train, motorcycle" in said
    _, info = load_detector(tmp_path / "city/lite.safetensors")
    assert info.categories.ids == (24, 25, 26, 27, 28, 31, 32, 33)
    assert info.licence == "started from: theirs"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_validation_scores_and_draws_and_the_architecture_comes_from_the_weights(
    photographs, tmp_path, capsys
):
    words = command(photographs, tmp_path / "run", "--steps", "2", "--validate-every", "1")
    words += ["--validation-images", str(photographs / "images")]
    words += ["--validation-ground-truth", str(photographs / "gt")]
    assert main(words) == 0
    header, *rows = (tmp_path / "run/validation.csv").read_text().splitlines()
    assert header == "step,AP,AP50,found,boundary_iou"
    assert [row.split(",")[0] for row in rows] == ["1", "2"]
    for name in ("predictions/step_0000001.png", "predictions/step_0000002.png", "curves.png"):
        assert read_image(tmp_path / "run" / name).pixels.shape[1] > 100
    weights = str(tmp_path / "run/lite.safetensors")
    words = command(photographs, tmp_path / "next", "--steps", "1", "--start-from", weights)
    del words[words.index("--preset") : words.index("--preset") + 2]
    assert main(words) == 0
    assert (tmp_path / "next/lite.safetensors").exists()
    assert "0 begin anew" not in capsys.readouterr().out
    del words[words.index("--start-from") :]
    assert main(words) == 2
    assert "--preset: expected one" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_one_detector_together(photographs, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["-m", "bpr", *command(photographs, tmp_path / "two", "--steps", "2")]
    done = subprocess.run(
        [sys.executable, *torchrun, *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 0 of 2") == 1, "one process talks"
    assert main(command(photographs, tmp_path / "one", "--steps", "2")) == 0
    one, two = (
        load_detector(tmp_path / f"{run}/lite.safetensors")[0].state_dict()
        for run in ("one", "two")
    )
    key = "rpn.head.cls_logits.weight"
    assert not torch.equal(one[key], two[key])
    # both trained for as long: each of the two saw one image of every batch
    torch.testing.assert_close(one[key], two[key], atol=1e-3, rtol=0)


WRONG = {
    "--ground-truth=nothing": "nothing: expected ground truth, found no file or folder",
    "--images=nothing": "nothing: expected a folder of images, found none",
    "--preset=huge": "invalid choice: 'huge'",
    "--steps=0": "steps: expected an int > 0, got 0",
    "--batch-size=0": "batch_size: expected an int > 0, got 0",
    "--loaders=0": "--loaders: expected an int > 0, got 0",
    "--threads=0": "--threads: expected an int > 0, got 0",
    "--start-from=none.safetensors": "none.safetensors: expected a file with weights",
    "--start-from=hrnet18s": "got 'hrnet18s'",
    "--change=refine_stages=7": "refine_stages: expected one of 1, 2, 3, 4, got 7",
    "--change=refine_stages": "expected FIELD=VALUE, got 'refine_stages'",
    "--validation-images=photos": "--validation-images, --validation-ground-truth: expected both",
    "--checkpoint-minutes=0": "--checkpoint-minutes: expected a number > 0, got 0",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_command_is_answered_by_a_sentence_and_2(photographs, tmp_path, capsys, words):
    try:
        code = main(command(photographs, tmp_path / "run", *words.split()))
    except SystemExit as error:  # argparse
        code = error.code
    said = capsys.readouterr().err
    assert code == 2
    assert WRONG[words] in said
    assert said.splitlines()[-1].startswith(("bpr train-detector: ", "bpr: error: "))
    assert not (tmp_path / "run").exists()


@needs_signals
@pytest.mark.slow
def test_a_kill_costs_no_more_than_since_the_last_checkpoint(photographs, tmp_path, capsys):
    run = tmp_path / "run"
    words = command(photographs, run, "--steps", "100000", "--checkpoint-minutes", "0.001")
    process = subprocess.Popen(
        [sys.executable, "-m", "bpr", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for((run / "checkpoint.pt").exists)
        assert main(words) == 2
        assert f"{run}: another run is using it" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()
    state = torch.load(run / "checkpoint.pt", weights_only=True)  # whole, whenever the kill came
    assert state["step"] >= 1
    assert main(command(photographs, run, "--steps", "100000", "--seed", "1")) == 2
    assert "another training" in capsys.readouterr().err, "the lock went with the process"


def test_a_checkpoint_is_due_after_five_minutes_unless_told_otherwise():
    parser = argparse.ArgumentParser()
    add_training_options(parser, loaders=1, task="read images")
    assert save_clock(parser.parse_args([])).every_s == 300
    assert save_clock(parser.parse_args(["--checkpoint-minutes", "0.5"])).every_s == 30


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
