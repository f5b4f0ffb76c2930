"""Training of the patch network on batches of patches and targets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from bpr._training_run import (
    ALONE,
    Interrupted,
    Process,
    SaveClock,
    append_row,
    forget_rows_after,
    load_checkpoint,
    save_checkpoint,
    stop_on_signals,
)
from bpr.refiner.network import PatchNetwork, normalise, upsample
from bpr.refiner.recipes import Recipe

IGNORE = 255  # target value without a loss
LOG_FIELDS = ("step", "loss", "pixel_accuracy", "coarse_accuracy", "learning_rate", "patches_per_s")

Validate = Callable[[PatchNetwork], Mapping[str, float]]
"""Scores a network; the first of its figures decides which weights are best, more is better."""


class RefinerTrainer:
    """A network in training, with all that a resumed run needs.

    Files in `folder`: `checkpoint.pt`, `log.csv`, with one row every `log_every` steps, and
    `validation.csv`. Only the first of several processes writes them.

    Args:
        network: starting point; trained in place.
        recipe: schedule.
        folder: where the training is kept; its checkpoint is read if there is one.
        about: what else makes this training what it is (data, seed, sizes), json-ready.
        process: where to train, and with whom.

    Raises:
        ValueError: the checkpoint is damaged, or of another training.
    """

    def __init__(
        self,
        network: PatchNetwork,
        recipe: Recipe,
        folder: Path,
        about: Mapping[str, Any],
        process: Process = ALONE,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.checkpoint = folder / "checkpoint.pt"
        self.about = {
            "architecture": network.architecture,
            **asdict(recipe),
            "processes": process.count,
            **about,
        }
        self._process = process
        self._device = torch.device(process.device)
        self.network: PatchNetwork = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average: PatchNetwork = deepcopy(self.network).eval()
        self.best: dict[str, Tensor] | None = None  # state of the average that scored best
        self.best_score = float("-inf")
        self.optimizer = _optimizer(self.network, recipe)
        self.step = 0
        self._sums = torch.zeros(3, device=self._device)  # of the steps since the last row
        if self.checkpoint.exists():
            self._resume()
        self._shared = process.shared(self.network)

    def run(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        validate: Validate | None = None,
        on_log: Callable[[Mapping[str, float]], None] = lambda _: None,
        on_step: Callable[[int], None] = lambda _: None,
        clock: SaveClock | None = None,
    ) -> PatchNetwork:
        """Train up to the last step.

        Args:
            batches: (patches (B, S, S, 4) uint8, targets (B, S, S) uint8), to begin with the
                batch of number `self.step`.
            validate: scores the averaged network every `validate_every` steps and at the end.
            on_log: takes each row of the log.
            on_step: takes the number of steps done, after each.
            clock: when checkpoints are written besides the one at the end; every five minutes
                if not given.

        Returns:
            The network of averaged weights, in evaluation mode; with `validate`, as it was when
            it scored best.

        Raises:
            Interrupted: Ctrl-C or SIGTERM came; the last step was finished and saved.
        """
        clock = clock or SaveClock()
        log = self.folder / "log.csv"
        validation = self.folder / "validation.csv"
        if self._process.is_first:
            forget_rows_after(log, self.step)
            forget_rows_after(validation, self.step)
        self.network.train()
        since, seen = time.perf_counter(), 0
        with stop_on_signals() as stop:
            remaining = iter(batches)  # loader processes inherit what signals do
            while self.step < self.recipe.steps:
                patches, targets = next(remaining)
                self._sums += self._train_step(patches, targets)
                seen += len(patches) * self._process.count
                self.step += 1
                if not self._process.is_first:
                    continue
                if self.step % self.recipe.log_every == 0:
                    mean = (self._sums / self.recipe.log_every).tolist()
                    elapsed = time.perf_counter() - since
                    rate = self.recipe.learning_rate_at(self.step - 1)
                    values = (self.step, *mean, rate, seen / elapsed)
                    row = dict(zip(LOG_FIELDS, values, strict=True))
                    append_row(log, row)
                    on_log(row)
                    since, seen = time.perf_counter(), 0
                    self._sums.zero_()
                on_step(self.step)
                is_last = self.step == self.recipe.steps
                if validate and (is_last or self.step % self.recipe.validate_every == 0):
                    self._validate(validate, validation)
                if is_last or clock.is_due or stop.is_made:
                    self._save()
                    clock.saved()
                if stop.is_made:
                    raise Interrupted(self.step, self.checkpoint)
        if self.best is not None:
            self.average.load_state_dict(self.best)
        return self.average

    def _validate(self, validate: Validate, log: Path) -> None:
        scores = validate(self.average)
        append_row(log, {"step": self.step, **scores})
        score = next(iter(scores.values()))
        if score > self.best_score:
            self.best_score = score
            self.best = {name: t.clone() for name, t in self.average.state_dict().items()}

    def _train_step(self, patches: Tensor, targets: Tensor) -> Tensor:
        """One step; returns (loss, pixel accuracy, accuracy of the coarse mask)."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(self.step)
        patches, targets = patches.to(self._device), targets.to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            logits = self._shared(normalise(patches))
        full = upsample(logits.float())
        loss = functional.cross_entropy(full, targets.long(), ignore_index=IGNORE)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self._update_average()
        with torch.no_grad():
            known = targets != IGNORE
            right = ((full[:, 1] > full[:, 0]) == (targets == 1))[known].float().mean()
            coarse = ((patches[..., 3] > 0) == (targets == 1))[known].float().mean()
            return torch.stack([loss.detach(), right, coarse])

    @torch.no_grad()
    def _update_average(self) -> None:
        # a young average follows faster, else the random start would stay in it for long
        decay = min(self.recipe.average_decay, (1 + self.step) / (10 + self.step))
        averages, values = self.average.state_dict(), self.network.state_dict()
        counters = [name for name, value in values.items() if not value.is_floating_point()]
        for name in counters:
            averages.pop(name).copy_(values.pop(name))
        move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        move([*averages.values()], [*values.values()], 0)

    def _save(self) -> None:
        save_checkpoint(
            self.checkpoint,
            self.about,
            {
                "step": self.step,
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "best": self.best,
                "best_score": self.best_score,
                "optimizer": self.optimizer.state_dict(),
                "sums": self._sums,
            },
        )

    def _resume(self) -> None:
        state = load_checkpoint(self.checkpoint, self.about, self._device)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.best, self.best_score = state["best"], state["best_score"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self._sums = state["step"], state["sums"]


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]  # biases and batch norms
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": recipe.weight_decay if recipe.decay_all else 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, recipe.learning_rate)
