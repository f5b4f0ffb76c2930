"""Training learns, and goes on after a kill as if nothing had happened."""

import csv
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bpr._training_run import Interrupted, SaveClock
from bpr.refiner.network import PatchNetwork, normalise, upsample
from bpr.refiner.recipes import RECIPES, Recipe
from bpr.refiner.training import LOG_FIELDS, RefinerTrainer
from tests.systems import needs_signals

SIDE = 32
SHORT = Recipe(steps=8, warmup_steps=2, log_every=2)


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


def trainer(folder: Path, settings: Recipe = SHORT) -> RefinerTrainer:
    torch.manual_seed(7)
    return RefinerTrainer(PatchNetwork("hrnet18s"), settings, folder, {"data": "squares"})


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
    expected = trainer(whole).run(batches(0))

    with pytest.raises(Killed):
        trainer(broken).run(killed_after(6, 0), clock=SaveClock(5, now=count().__next__))
    resumed = trainer(broken)
    assert resumed.step == 5, "the last checkpoint before the kill, inside a row of the log"
    actual = resumed.run(batches(resumed.step))

    for name, value in expected.state_dict().items():
        assert torch.equal(value, actual.state_dict()[name]), name
    losses = [[(row["step"], row["loss"]) for row in logged(folder)] for folder in (whole, broken)]
    assert losses[0] == losses[1]


@needs_signals
def test_sigterm_finishes_the_step_and_saves_it(tmp_path: Path) -> None:
    def interrupted() -> Iterator[tuple[Tensor, Tensor]]:
        for number in count():
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch(number)

    with pytest.raises(Interrupted, match="saved after step 3"):
        trainer(tmp_path).run(interrupted())
    assert trainer(tmp_path).step == 3


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    trainer(tmp_path).run(batches(0))
    again = trainer(tmp_path)
    assert again.step == SHORT.steps
    again.run(iter(()))
    assert len(logged(tmp_path)) == SHORT.steps // SHORT.log_every


def test_training_learns_to_follow_the_image_instead_of_the_coarse_mask(tmp_path: Path) -> None:
    recipe = Recipe(steps=60, learning_rate=1e-3, warmup_steps=5, log_every=10)
    trainer(tmp_path, recipe).run(batches(0))
    rows = logged(tmp_path)
    assert tuple(rows[0]) == LOG_FIELDS
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    assert float(rows[-1]["pixel_accuracy"]) > float(rows[-1]["coarse_accuracy"])


def scores_that_peak_at(best: float) -> Callable[[PatchNetwork], Mapping[str, float]]:
    """A made-up score of the weights, so that neither the first nor the last are best."""
    seen: list[float] = []

    def score(network: PatchNetwork) -> Mapping[str, float]:
        bias = float(network.head.bn.weight.detach().mean())
        seen.append(bias)
        return {"score": -abs(len(seen) - best), "bias": bias}

    return score


def test_the_weights_that_score_best_are_kept(tmp_path: Path) -> None:
    recipe = replace(SHORT, validate_every=2)
    network = trainer(tmp_path, recipe).run(batches(0), scores_that_peak_at(2))
    with (tmp_path / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "6", "8"]
    kept = float(network.head.bn.weight.detach().mean())
    assert f"{kept:.6g}" == rows[1]["bias"] != rows[3]["bias"]


def test_the_best_weights_outlast_a_kill(tmp_path: Path) -> None:
    recipe = replace(SHORT, validate_every=2)
    with pytest.raises(Killed):
        trainer(tmp_path, recipe).run(
            killed_after(5, 0), scores_that_peak_at(1), clock=SaveClock(0.0)
        )
    resumed = trainer(tmp_path, recipe)
    assert resumed.best is not None
    best = {name: value.clone() for name, value in resumed.best.items()}
    network = resumed.run(batches(resumed.step), scores_that_peak_at(-9))
    for name, value in network.state_dict().items():
        assert torch.equal(value, best[name]), name


def test_cosine_warms_up_and_falls_to_the_final_rate() -> None:
    recipe = Recipe(steps=1000, learning_rate=1e-3, final_rate=1e-5, warmup_steps=100)
    rates = [recipe.learning_rate_at(step) for step in range(1001)]
    assert rates[0] == pytest.approx(1e-5)
    assert max(rates) == pytest.approx(1e-3) == rates[99]
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[1000] == pytest.approx(1e-5)


def test_the_papers_recipe_follows_its_schedule() -> None:
    recipe = RECIPES["paper"]
    for step in (0, 1, 16_000, 159_999, 160_000):
        expected = 1e-4 + (0.01 - 1e-4) * (1 - step / 160_000) ** 0.9
        assert recipe.learning_rate_at(step) == pytest.approx(expected, rel=1e-12)


def test_the_papers_optimizer_decays_everything_and_averages_nothing(tmp_path: Path) -> None:
    recipe = replace(RECIPES["paper"], steps=2, log_every=1)
    papers = trainer(tmp_path, recipe)
    reference = trainer(tmp_path / "other", recipe).network.train()
    by_hand = torch.optim.SGD(reference.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    for step in range(2):
        by_hand.param_groups[0]["lr"] = recipe.learning_rate_at(step)
        patches, targets = batch(step)
        full = upsample(reference(normalise(patches)))
        by_hand.zero_grad()
        cross_entropy(full, targets.long(), ignore_index=255).backward()
        by_hand.step()
    network = papers.run(batches(0))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[name], msg=name)


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps: expected an int > 0, got 0"):
        Recipe(steps=0)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path).run(batches(0))
    with pytest.raises(ValueError, match=r"another training .*steps was 8, is 9"):
        trainer(tmp_path, Recipe(steps=9, warmup_steps=2, log_every=1))


def test_a_damaged_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK no checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint\.pt: expected a checkpoint"):
        trainer(tmp_path)
