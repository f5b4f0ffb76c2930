"""A real small network for tests of what is around it, on one thread: some machines are busy."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bpr.refiner.predictor import LoadedPredictor, load_predictor
from tests.networks import save_random_network


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_network(tmp_path_factory.mktemp("weights") / "random.safetensors")


@pytest.fixture(scope="module")
def predictor(random_weights: Path) -> LoadedPredictor:
    return load_predictor(random_weights, device="cpu", backend="torch")
