"""Training of a detector on batches of images and the objects in them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

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
from bpr.detector.schedule import Schedule

Batch = tuple[Sequence[Tensor], Sequence[Mapping[str, Any]]]
"""Images (3, H, W) uint8 RGB; targets with boxes (N, 4), labels (N,) 1..K, masks (N, H, W), and
perhaps polygons, for each object as `Positives` has them."""


@dataclass(frozen=True, kw_only=True)
class Events:
    """What a training calls on its way, in the first of its processes."""

    on_log: Callable[[Mapping[str, float]], None] = lambda _: None  # takes each row of the log
    on_step: Callable[[int], None] = lambda _: None  # takes the number of steps done
    on_checkpoint: Callable[[], None] = lambda: None  # when one has been written
    validate: Callable[[int], Mapping[str, float]] | None = None  # step -> scores
    validate_every: int = 1000  # steps; and at the end


_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class DetectorTrainer:
    """A detector in training, with all that a resumed run needs.

    Files in `folder`: `checkpoint.pt`, `log.csv` with one row every `log_every` steps, and
    `validation.csv`. Only the first of several processes writes them.

    Args:
        network: starting point; trained in place.
        schedule: how fast, and for how long.
        folder: where the training is kept; its checkpoint is read if there is one.
        about: what else makes this training what it is (data, seed, sizes), json-ready.
        seed: of what the network draws (sizes, sampled boxes): each step has its own.
        bfloat16: in forward passes; weights stay float32.
        process: where to train, and with whom.

    Raises:
        ValueError: the checkpoint is damaged, or of another training.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        folder: Path,
        about: Mapping[str, Any],
        seed: int = 0,
        bfloat16: bool = False,
        process: Process = ALONE,
    ) -> None:
        self.schedule = schedule
        self.folder = folder
        self.checkpoint = folder / "checkpoint.pt"
        self.about = {
            **asdict(schedule),
            "seed": seed,
            "bfloat16": bfloat16,
            "processes": process.count,
            **about,
        }
        self._seed, self._bfloat16, self._process = seed, bfloat16, process
        self._device = torch.device(process.device)
        self.network = network.to(self._device)
        self.optimizer = _optimizer(self.network, schedule)
        self.step = 0
        self._sums: dict[str, Tensor] = {}  # losses of the steps since the last row of the log
        if self.checkpoint.exists():
            state = load_checkpoint(self.checkpoint, self.about, self._device)
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self._sums = state["step"], state["sums"]
        self._shared = process.shared(self.network)

    def run(
        self,
        batches: Iterable[Batch],
        events: Events = Events(),
        clock: SaveClock | None = None,
    ) -> None:
        """Train up to the last step.

        Args:
            batches: to begin with the batch of number `self.step`.
            events: what is called on the way.
            clock: when checkpoints are written besides the one at the end; every five minutes
                if not given.

        Raises:
            ValueError: the loss is no longer a number; what is on the disk stays.
            Interrupted: Ctrl-C or SIGTERM came; the last step was finished and saved.
        """
        clock = clock or SaveClock()
        log, validation = (self.folder / name for name in ("log.csv", "validation.csv"))
        if self._process.is_first:
            forget_rows_after(log, self.step)
            forget_rows_after(validation, self.step)
        self.network.train()
        since, seen = time.perf_counter(), 0
        with stop_on_signals() as stop:
            remaining = iter(batches)  # loader processes inherit what signals do
            while self.step < self.schedule.steps:
                images, targets = next(remaining)
                for name, loss in self._train_step(images, targets).items():
                    self._sums[name] = self._sums.get(name, torch.zeros_like(loss)) + loss
                seen += len(images) * self._process.count
                self.step += 1
                is_last = self.step == self.schedule.steps
                if self.step % self.schedule.log_every == 0:
                    row = self._row(seen, time.perf_counter() - since)
                    since, seen, self._sums = time.perf_counter(), 0, {}
                    if self._process.is_first:
                        append_row(log, row)
                        events.on_log(row)
                if not self._process.is_first:
                    continue
                events.on_step(self.step)
                if events.validate and (is_last or self.step % events.validate_every == 0):
                    append_row(validation, {"step": self.step, **events.validate(self.step)})
                    self.network.train()
                if is_last or clock.is_due or stop.is_made:
                    self._check()
                    self._save()
                    clock.saved()
                    events.on_checkpoint()
                if stop.is_made:
                    raise Interrupted(self.step, self.checkpoint)

    def _row(self, images: int, elapsed: float) -> dict[str, float]:
        total = self._check() / self.schedule.log_every
        losses = {n: float(value) / self.schedule.log_every for n, value in self._sums.items()}
        rate = self.schedule.learning_rate_at(self.step - 1)
        return {
            "step": self.step,
            "loss": total,
            **losses,
            "learning_rate": rate,
            "images_per_s": images / elapsed,
        }

    def _check(self) -> float:
        """The sum of losses since the last row; ValueError unless it is a number."""
        total = sum(float(value) for value in self._sums.values())
        if not math.isfinite(total):
            raise ValueError(
                f"step {self.step}: expected a finite loss, got {total}; nothing was saved since "
                "the last checkpoint. A larger batch, or weights to start from, train more calmly"
            )
        return total

    def _train_step(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """One step; returns the losses of this process."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate_at(self.step)
        # what the network draws follows from the step alone, so that a resumed run is the same
        draws = np.random.SeedSequence([self._seed, self.step, self._process.rank])
        torch.manual_seed(int(draws.generate_state(1)[0]))
        pixels = [image.to(self._device, non_blocking=True).float() / 255 for image in images]
        objects = [
            {
                name: value.to(self._device, non_blocking=True) if torch.is_tensor(value) else value
                for name, value in target.items()
            }
            for target in targets
        ]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            losses: dict[str, Tensor] = self._shared(pixels, objects)
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.clip_norm)
        self.optimizer.step()
        return {name: loss.detach().float() for name, loss in losses.items()}

    def _save(self) -> None:
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self._sums,
        }
        save_checkpoint(self.checkpoint, self.about, state)


def _optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """SGD with momentum over what is not frozen; norms do not decay."""
    norms = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    }
    trained = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if id(p) not in norms]},
        {"params": [p for p in trained if id(p) in norms], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        schedule.learning_rate,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
    )
