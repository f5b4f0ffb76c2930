"""Training of the patch network on batches of patches and targets."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.network import PatchNetwork, normalise, upsample

IGNORE = 255  # target value without a loss
LOG_FIELDS = ("step", "loss", "pixel_accuracy", "coarse_accuracy", "learning_rate", "patches_per_s")


@dataclass(frozen=True)
class TrainingSettings:
    """One training run. The schedule depends on `steps`, so a resumed run keeps it."""

    steps: int = 6000
    learning_rate: float = 1e-3  # peak, AdamW
    weight_decay: float = 0.02
    warmup_steps: int = 200
    ema_decay: float = 0.999  # of the weights that are kept
    log_every: int = 50  # steps
    checkpoint_every: int = 250  # steps

    def __post_init__(self) -> None:
        if self.steps <= 0:
            raise ValueError(f"steps: expected an int > 0, got {self.steps}")
        if self.checkpoint_every % self.log_every:
            # else a resumed run would average a row over fewer steps
            raise ValueError(
                f"checkpoint_every: expected a multiple of log_every ({self.log_every}), "
                f"got {self.checkpoint_every}"
            )

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine down to 1 % of the peak."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


class Trainer:
    """A network in training, with all that a resumed run needs.

    Args:
        network: starting point; trained in place.
        settings: schedule.
        checkpoint: file the state is kept in; read if it exists.
        about: what else makes this training what it is (data, seed, sizes), json-ready.
        device: "cpu" or "cuda". Forward passes run in bfloat16, weights stay float32.

    Raises:
        ValueError: the checkpoint is damaged, or of another training.
    """

    def __init__(
        self,
        network: PatchNetwork,
        settings: TrainingSettings,
        checkpoint: Path,
        about: Mapping[str, Any],
        device: str = "cpu",
    ) -> None:
        self.settings = settings
        self.device = device
        self.checkpoint = checkpoint
        self.about = {"architecture": network.architecture, **asdict(settings), **about}
        self.network: PatchNetwork = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average: PatchNetwork = deepcopy(self.network).eval()
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.network, settings.weight_decay))
        self.step = 0
        if checkpoint.exists():
            self._resume()

    def run(self, batches: Iterable[tuple[Tensor, Tensor]], log: Path) -> PatchNetwork:
        """Train up to the last step, logging to a CSV file.

        Args:
            batches: (patches (B, S, S, 4) uint8, targets (B, S, S) uint8), to begin with the
                batch of number `self.step`.
            log: CSV file; appended to, with one row every `log_every` steps.

        Returns:
            The network of averaged weights, in evaluation mode.
        """
        if self.step >= self.settings.steps:
            return self.average
        _forget_rows_after(log, self.step)
        self.network.train()
        since, sums, seen = time.perf_counter(), torch.zeros(3), 0
        for patches, targets in batches:
            sums += self._train_step(patches, targets)
            seen += len(patches)
            self.step += 1
            if self.step % self.settings.log_every == 0:
                mean = (sums / self.settings.log_every).tolist()
                elapsed = time.perf_counter() - since
                rate = self.settings.learning_rate_at(self.step - 1)
                _append_row(log, (self.step, *mean, rate, seen / elapsed))
                since, sums, seen = time.perf_counter(), torch.zeros(3), 0
            finished = self.step >= self.settings.steps
            if finished or self.step % self.settings.checkpoint_every == 0:
                self._save()
            if finished:
                break
        return self.average

    def _train_step(self, patches: Tensor, targets: Tensor) -> Tensor:
        """One step; returns (loss, pixel accuracy, accuracy of the coarse mask)."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate_at(self.step)
        patches, targets = patches.to(self.device), targets.to(self.device)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            logits = self.network(normalise(patches))
        full = upsample(logits.float())
        loss = functional.cross_entropy(full, targets.long(), ignore_index=IGNORE)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self._update_average()
        with torch.no_grad():
            known = targets != IGNORE
            right = ((full[:, 1] > full[:, 0]) == (targets == 1))[known].float().mean()
            coarse = ((patches[..., 3] > 0) == (targets == 1))[known].float().mean()
            return torch.stack([loss.detach(), right, coarse]).cpu()

    @torch.no_grad()
    def _update_average(self) -> None:
        # a young average follows faster, else the random start would stay in it for long
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        averages = self.average.state_dict()
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                averages[name].lerp_(value, 1 - decay)
            else:
                averages[name].copy_(value)

    def _save(self) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_name(self.checkpoint.name + ".partial")
        torch.save(
            {
                "about": self.about,
                "step": self.step,
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
            partial,
        )
        os.replace(partial, self.checkpoint)

    def _resume(self) -> None:
        try:
            state: dict[str, Any] = torch.load(
                self.checkpoint, map_location=self.device, weights_only=True
            )
            found = state["about"]
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, UnpicklingError):
            raise ValueError(
                f"{self.checkpoint}: expected a checkpoint of a training, got a damaged or other "
                "file; delete it to start over"
            ) from None
        changes = [
            f"{name} was {found.get(name)!r}, is {self.about.get(name)!r}"
            for name in sorted({*found, *self.about})
            if found.get(name) != self.about.get(name)
        ]
        if changes:
            raise ValueError(
                f"{self.checkpoint}: belongs to another training ({'; '.join(changes)}); "
                "choose another folder"
            )
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay convolution weights only, not biases and batch norm."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _forget_rows_after(log: Path, step: int) -> None:
    """Drop rows that a killed run wrote after its last checkpoint: they will come again."""
    if log.exists():
        lines = log.read_text().splitlines(keepends=True)
        kept = [line for line in lines[1:] if int(line.split(",")[0]) <= step]
        log.write_text("".join(lines[:1] + kept))


def _append_row(log: Path, row: tuple[float, ...]) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    is_new = not log.exists()
    with log.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(LOG_FIELDS)
        writer.writerow([row[0], *(f"{value:.6g}" for value in row[1:])])
