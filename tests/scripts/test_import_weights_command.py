"""`bpr import-weights` on a checkpoint laid out like the published ones."""

import subprocess
import sys
from pathlib import Path

import torch

from refiner.checkpoints import load_model
from tests.refiner.conftest import published_state


def import_weights(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.main", "import-weights", str(source), str(out)],
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
