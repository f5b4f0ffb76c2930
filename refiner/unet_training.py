"""Training of the patch U-Net; a run can be stopped, resumed and lengthened at any step."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bpr._replace import replace_file
from bpr._training_run import (
    Interrupted,
    SaveClock,
    append_row,
    forget_rows_after,
    load_checkpoint,
    save_checkpoint,
    stop_on_signals,
)
from bpr.refiner.unet import PatchUNet, normalise

IGNORE = 255  # target value without a loss


@dataclass(frozen=True, kw_only=True)
class UNetRecipe:
    """A schedule that can be lengthened: constant rate, then a fall to zero at its end."""

    steps: int  # batches in all
    falling_steps: int  # at the end, while the rate falls
    learning_rate: float = 1e-3  # of new layers
    encoder_rate: float = 0.4  # of the learning rate, for layers that start from ImageNet
    warmup_steps: int = 200
    weight_decay: float = 0.02
    clip_norm: float = 2.0
    average_decay: float = 0.998  # of the running average that is kept
    log_every: int = 50  # steps
    average_every: int = 100  # steps; how old the average may be that loaders roll out
    bfloat16: bool = False  # forward passes

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        rise = min((step + 1) / max(self.warmup_steps, 1), 1.0)
        left = min((self.steps - step) / max(self.falling_steps, 1), 1.0)
        return self.learning_rate * rise * (0.5 - 0.5 * math.cos(math.pi * max(left, 0.0)))


class UNetTrainer:
    """A network in training and all that a resumed run needs.

    Files in `folder`: `checkpoint.pt`, `average.pt` (the running average alone, for loaders that
    roll the network out), `log.csv`.

    Args:
        network: starting point; trained in place.
        recipe: schedule; a resumed training may be given another one.
        folder: its checkpoint is read if there is one.
        about: what makes this training what it is (data, seed, sizes), json-ready.
        device: cpu or cuda.

    Raises:
        ValueError: the checkpoint is damaged, or of another training.
    """

    def __init__(
        self,
        network: PatchUNet,
        recipe: UNetRecipe,
        folder: Path,
        about: Mapping[str, Any],
        device: str = "cpu",
    ) -> None:
        self.recipe, self.folder, self.about = recipe, folder, dict(about)
        self.checkpoint = folder / "checkpoint.pt"
        self._device = torch.device(device)
        network = network.to(self._device)
        self.network: PatchUNet = network.to(memory_format=torch.channels_last)
        encoder = list(network.encoder.parameters())
        known = {id(p) for p in encoder}
        others = [p for p in network.parameters() if id(p) not in known]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in part if (p.ndim > 1) == decays], "share": share}
                | {"weight_decay": recipe.weight_decay if decays else 0.0}
                for part, share in ((encoder, recipe.encoder_rate), (others, 1.0))
                for decays in (True, False)
            ]
        )
        self.average = deepcopy(self.network).eval().requires_grad_(False)
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            state = load_checkpoint(self.checkpoint, self.about, self._device)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def run(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        on_log: Callable[[Mapping[str, float]], None] = lambda _: None,
        on_step: Callable[[int], None] = lambda _: None,
        clock: SaveClock | None = None,
    ) -> PatchUNet:
        """Train up to the last step.

        Args:
            batches: (patches (B, S, S, 7) uint8, targets (B, S, S) uint8 0, 1 or 255),
                beginning with batch number `self.step`.
            on_log: takes each row of the log.
            on_step: takes the number of steps done, after each.
            clock: when checkpoints are written besides the one at the end; every five minutes
                if not given.

        Returns:
            The running average, in evaluation mode.

        Raises:
            Interrupted: Ctrl-C or SIGTERM came; the last step was finished and saved.
        """
        clock = clock or SaveClock()
        log = self.folder / "log.csv"
        forget_rows_after(log, self.step)
        self.network.train()
        sums, since = torch.zeros(3, device=self._device), time.perf_counter()
        seen = steps = 0
        with stop_on_signals() as stop:
            remaining = iter(batches)  # loader processes inherit what signals do
            while self.step < self.recipe.steps:
                patches, targets = next(remaining)
                sums += self._train_step(patches, targets)
                seen, steps = seen + len(patches), steps + 1
                self.step += 1
                if self.step % self.recipe.log_every == 0:
                    names = ("loss", "error", "coarse_error")
                    row: dict[str, float] = {"step": self.step}
                    row |= dict(zip(names, (sums / steps).tolist(), strict=True))
                    row |= {"learning_rate": self.recipe.rate_at(self.step)}
                    row |= {"patches_per_s": seen / (time.perf_counter() - since)}
                    append_row(log, row)
                    on_log(row)
                    sums.zero_()
                    since, seen, steps = time.perf_counter(), 0, 0
                on_step(self.step)
                is_last = self.step == self.recipe.steps
                if self.step % self.recipe.average_every == 0:
                    self._save_average()
                if is_last or clock.is_due or stop.is_made:
                    self._save()
                    clock.saved()
                if stop.is_made:
                    raise Interrupted(self.step, self.checkpoint)
        return self.average

    def _train_step(self, patches: Tensor, targets: Tensor) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(self.step) * group["share"]
        patches, targets = patches.to(self._device), targets.to(self._device)
        known = targets != IGNORE
        truth = (targets == 1).float()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            logits = self.network(normalise(patches))
        logits = logits.float()
        loss = functional.binary_cross_entropy_with_logits(logits, truth, known.float())
        with torch.no_grad():
            side = targets.shape[-1]
            wrong_before = (((patches[..., 3] != 0) != (targets == 1)) & known).sum((1, 2)) / side
            wrong_after = (((logits > 0) != (targets == 1)) & known).sum((1, 2)) / side
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self._update_average()
        return torch.stack([loss.detach(), wrong_after.mean(), wrong_before.mean()])

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.average_decay, (1 + self.step) / (10 + self.step))
        averages, values = self.average.state_dict(), self.network.state_dict()
        moving = [name for name, value in values.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [averages[name] for name in moving], [values[name] for name in moving], 1 - decay
        )

    def _save_average(self) -> None:
        temporary = self.folder / f".average.{os.getpid()}.tmp"
        torch.save(self.average.state_dict(), temporary)
        replace_file(temporary, self.folder / "average.pt")

    def _save(self) -> None:
        save_checkpoint(
            self.checkpoint,
            self.about,
            {
                "step": self.step,
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
        )
