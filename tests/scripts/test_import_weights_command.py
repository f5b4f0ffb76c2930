"""`bpr import-weights` on a checkpoint laid out like the published ones."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn

from bpr.detector.checkpoints import load_detector
from bpr.refiner.checkpoints import load_model
from bpr.scripts.main import main
from tests.refiner.conftest import published_state


def import_weights(source: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "bpr.scripts.main",
            "import-weights",
            str(source),
            str(out),
            *options,
        ],
        capture_output=True,
        text=True,
    )


def test_a_published_checkpoint_becomes_the_same_network(golden: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "hrnet18s_128.pth", tmp_path / "mine.safetensors"
    torch.save({"state_dict": published_state(golden, "hrnet18s"), "meta": {}}, source)
    done = import_weights(source, out)
    assert done.returncode == 0, done.stderr
    assert "hrnet18s, 873 tensors, input 128 px, patch 64 px" in done.stdout
    expected = load_model(source).network.state_dict()
    actual = load_model(out).network.state_dict()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def test_a_file_that_is_no_checkpoint_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    source, out = tmp_path / "notes.pth", tmp_path / "out.safetensors"
    source.write_text("not a checkpoint")
    done = import_weights(source, out)
    assert done.returncode == 2
    assert "notes.pth: expected" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_a_published_detector_becomes_the_same_one_with_a_report(tmp_path: Path) -> None:
    source, out = tmp_path / "theirs.pth", tmp_path / "mine.safetensors"
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    torch.save(theirs.state_dict(), source)
    done = import_weights(source, out)
    assert done.returncode == 0, done.stderr
    assert "maskrcnn_resnet50_fpn, 2 categories, read as torchvision's" in done.stdout
    counters = sum(name.endswith("num_batches_tracked") for name in theirs.state_dict())
    used = len(theirs.state_dict()) - counters
    assert f"tensors: {used} used, 0 left over" in done.stdout
    assert "taken: the weights" in done.stdout
    assert "assumed: category names: not stated in the file" in done.stdout
    assert "data: not stated in the file" in done.stdout
    assert "num_batches_tracked" not in done.stdout
    assert len(done.stdout.splitlines()) < 20
    expected, info = load_detector(source)
    actual, same = load_detector(out)
    assert info == same
    state = actual.state_dict()
    assert all(value.equal(state[name]) for name, value in expected.state_dict().items())


def test_every_tensor_is_listed_and_a_preset_that_does_not_fit_says_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "theirs.pth", tmp_path / "mine.safetensors"
    state = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3).state_dict()
    torch.save(state, source)
    command = ["import-weights", str(source), str(out)]
    assert main([*command, "--list", "--preset", "maskrcnn_resnet50_fpn_coco_v1"]) == 0
    said = capsys.readouterr().out
    counted = [name for name in state if not name.endswith("num_batches_tracked")]
    assert len(re.findall("^used: ", said, re.MULTILINE)) == len(counted)
    out.unlink()
    assert main([*command, "--list", "--preset", "maskrcnn_resnet50_fpn_v2"]) == 2
    said = capsys.readouterr()
    assert "expected the tensors of maskrcnn_resnet50_fpn_v2, got missing" in said.err
    assert "missing: proposal network: 0.weight" in said.out.splitlines()
    assert "unexpected: roi_heads.box_head.fc6.weight" in said.out.splitlines()
    assert main([*command, "--preset", "refinemask_r50_1x"]) == 2
    said = capsys.readouterr()
    assert "expected a preset of torchvision, whose tensors these are" in said.err
    assert not out.exists()
