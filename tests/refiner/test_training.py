"""Training learns, and goes on after a kill as if nothing had happened."""

import csv
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from refiner.network import PatchNetwork
from refiner.training import LOG_FIELDS, Trainer, TrainingSettings

SIDE = 32
SHORT = TrainingSettings(steps=8, warmup_steps=2, log_every=1, checkpoint_every=4)


def batch(number: int) -> tuple[Tensor, Tensor]:
    """Bright squares on dark ground; the coarse mask is off by a few pixels."""
    rng = np.random.default_rng(number)
    patches = np.zeros((4, SIDE, SIDE, 4), np.uint8)
    targets = np.zeros((4, SIDE, SIDE), np.uint8)
    for patch, target in zip(patches, targets, strict=True):
        x, y = rng.integers(6, 14, 2)
        target[y : y + 12, x : x + 12] = 1
        patch[..., :3] = np.where(target[..., None], 200, 40) + rng.integers(
            -9, 10, (SIDE, SIDE, 3)
        )
        dx, dy = rng.integers(-4, 5, 2)
        patch[..., 3] = np.roll(target, (dy, dx), (0, 1))
    targets[:, 0] = 255
    return torch.from_numpy(patches), torch.from_numpy(targets)


def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
    return map(batch, count(start))


def trainer(folder: Path, settings: TrainingSettings = SHORT) -> Trainer:
    torch.manual_seed(7)
    return Trainer(
        PatchNetwork("hrnet18s"), settings, folder / "checkpoint.pt", {"data": "squares"}
    )


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


class Killed(Exception):
    """Stands for a kill between two steps."""


def killed_after(steps: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    for number in range(start, start + steps):
        yield batch(number)
    raise Killed


def test_a_killed_training_resumes_to_the_same_weights_and_the_same_losses(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = trainer(whole).run(batches(0), whole / "log.csv")

    with pytest.raises(Killed):
        trainer(broken).run(killed_after(6, 0), broken / "log.csv")
    resumed = trainer(broken)
    assert resumed.step == 4, "the last checkpoint before the kill"
    actual = resumed.run(batches(resumed.step), broken / "log.csv")

    for name, value in expected.state_dict().items():
        assert torch.equal(value, actual.state_dict()[name]), name
    losses = [[(row["step"], row["loss"]) for row in logged(folder)] for folder in (whole, broken)]
    assert losses[0] == losses[1]


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    trainer(tmp_path).run(batches(0), tmp_path / "log.csv")
    again = trainer(tmp_path)
    assert again.step == SHORT.steps
    again.run(iter(()), tmp_path / "log.csv")
    assert len(logged(tmp_path)) == SHORT.steps // SHORT.log_every


def test_training_learns_to_follow_the_image_instead_of_the_coarse_mask(tmp_path: Path) -> None:
    settings = TrainingSettings(steps=60, warmup_steps=5, log_every=10, checkpoint_every=60)
    trainer(tmp_path, settings).run(batches(0), tmp_path / "log.csv")
    rows = logged(tmp_path)
    assert tuple(rows[0]) == LOG_FIELDS
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    assert float(rows[-1]["pixel_accuracy"]) > float(rows[-1]["coarse_accuracy"])


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth() -> None:
    settings = TrainingSettings(steps=1000, learning_rate=1e-3, warmup_steps=100)
    rates = [settings.learning_rate_at(step) for step in range(1001)]
    assert rates[0] == pytest.approx(1e-5)
    assert max(rates) == pytest.approx(1e-3) == rates[99]
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[1000] == pytest.approx(1e-5)


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps: expected an int > 0, got 0"):
        TrainingSettings(steps=0)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path).run(batches(0), tmp_path / "log.csv")
    with pytest.raises(ValueError, match=r"another training .*steps was 8, is 9"):
        trainer(tmp_path, TrainingSettings(steps=9, warmup_steps=2, log_every=1))


def test_a_damaged_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK no checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint\.pt: expected a checkpoint"):
        trainer(tmp_path)
