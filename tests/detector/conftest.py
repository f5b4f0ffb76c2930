"""Detectors to test with: the recipe weights of the recorded ones, and small random ones."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bpr.detector.build import Detector, build_detector
from bpr.detector.presets import PRESETS, Preset
from tests.conftest import GOLDEN
from tests.golden.detectors import recipe as recorded_recipe

Arrays = Mapping[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="session")
def recorded() -> Path:
    """Arrays recorded from detectron2, BMask R-CNN and RefineMask."""
    return GOLDEN / "detectors"


@pytest.fixture(scope="session")
def recipe() -> Any:
    """Weights and noise from their names, as the recordings were made with."""
    return recorded_recipe


@pytest.fixture(scope="session")
def shapes(recorded: Path) -> Mapping[str, Mapping[str, list[int]]]:
    """Names and shapes of the recorded state dicts."""
    found: dict[str, dict[str, list[int]]] = json.loads(
        (recorded / "state_shapes.json").read_text()
    )
    return found


@pytest.fixture(scope="session")
def arrays(recorded: Path) -> Callable[[str], Arrays]:
    """The arrays of a recording by its name."""
    return lambda name: np.load(recorded / f"{name}.npz")


@pytest.fixture
def publish(recipe: Any, shapes: Mapping[str, Any], tmp_path: Path) -> Callable[[str], Path]:
    """Writes recipe weights as their authors publish: a pickle of arrays, or a .pth."""

    def write(name: str) -> Path:
        state: dict[str, np.ndarray[Any, Any]] = recipe.state_dict(shapes[name])
        if name == "d2_maskrcnn":
            path = tmp_path / "model_final.pkl"
            with path.open("wb") as file:
                pickle.dump({"model": state, "__author__": "Detectron2 Model Zoo"}, file)
            return path
        path = tmp_path / f"{name}.pth"
        tensors = {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
        if name.startswith("d2_"):
            extra = {
                "pixel_mean": torch.zeros(3, 1, 1),
                "pixel_std": torch.ones(3, 1, 1),
                "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
            }
            torch.save({"model": {**tensors, **extra}, "iteration": 1}, path)
        else:
            torch.save({"state_dict": tensors, "meta": {"epoch": 8}}, path)
        return path

    return write


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """On a busy machine threads that wait for each other take ten times as long as one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(**fields: Any) -> Preset:
    """A preset that runs in a moment."""
    small = {"channels": 32, "box_features": 64, "test_size": 96, "train_sizes": (96,)}
    return replace(PRESETS["small"], **{**small, **fields})


def tiny_detector(categories: int = 3, **fields: Any) -> Detector:
    """A network of `tiny`; the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_detector(tiny(**fields), categories)


def scene() -> tuple[Tensor, dict[str, Tensor]]:
    """An image with two rectangles, and what they are."""
    image = torch.full((3, 80, 120), 0.4)
    masks = torch.zeros(2, 80, 120, dtype=torch.uint8)
    masks[0, 10:40, 20:60] = 1
    masks[1, 45:70, 70:110] = 1
    image[0, masks[0].bool()] = 1.0
    image[1, masks[1].bool()] = 0.0
    boxes = torch.tensor([[20.0, 10.0, 60.0, 40.0], [70.0, 45.0, 110.0, 70.0]])
    return image, {"boxes": boxes, "labels": torch.tensor([1, 3]), "masks": masks}
