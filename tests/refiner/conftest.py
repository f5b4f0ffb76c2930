"""Networks to test with: the reference's recipe weights, and small random ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bpr.refiner.checkpoints import save_model
from bpr.refiner.model_config import ModelConfig
from bpr.refiner.network import PatchNetwork
from tests.golden.bpr.make_weights import state_dict_for

FILES = {"hrnet18s": "hrnet18s_128", "hrnet48": "hrnet48_256"}


def published_state(golden: Path, architecture: str) -> dict[str, torch.Tensor]:
    """The reference's recipe weights, with the keys and shapes of the published files."""
    shapes = {}
    for line in (golden / f"keys_{FILES[architecture]}.txt").read_text().splitlines():
        key, shape = line.split()
        shapes[key] = () if shape == "scalar" else tuple(int(n) for n in shape.split("x"))
    state = {key: torch.from_numpy(a) for key, a in state_dict_for(shapes).items()}
    with np.load(golden / f"net_{FILES[architecture]}.npz") as recorded:
        state["decode_head.conv_seg.bias"] = torch.from_numpy(recorded["conv_seg_bias"])
    return state


@pytest.fixture(scope="session")
def published(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes, once for each architecture, a checkpoint laid out like the published ones."""
    folder = tmp_path_factory.mktemp("published")

    def write(architecture: str) -> Path:
        path = folder / f"{architecture}.pth"
        if not path.exists():
            state = published_state(golden, architecture)
            meta = {"CLASSES": ("bg", "fg"), "PALETTE": [[0, 0, 0], [255, 255, 255]]}
            torch.save({"meta": meta, "state_dict": state}, path)
        return path

    return write


def untrained_network() -> PatchNetwork:
    """An untrained network in eval mode; the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PatchNetwork("hrnet18s").eval()


@pytest.fixture
def network() -> PatchNetwork:
    """A test's own `untrained_network`."""
    return untrained_network()


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `untrained_network` in a file, exactly, for patches of 64 pixels."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    config = ModelConfig(architecture="hrnet18s", input_size=64, data="noise")
    save_model(path, untrained_network(), config, half=False)
    return path


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """On a busy machine threads that wait for each other take ten times as long as one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def patches() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(3, 64, 64, 4) uint8 patches of noise with noisy masks."""
    random = np.random.default_rng(0)
    batch = random.integers(0, 256, (3, 64, 64, 4), dtype=np.uint8)
    batch[..., 3] %= 2
    return batch
