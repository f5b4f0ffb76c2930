"""Training of the patch U-Net: resumable, to be stopped and lengthened at any step."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from bpr._training_run import append_row
from bpr.refiner.unet import PatchUNet, normalise

IGNORE = 255  # target value without a loss
LEAST_ERROR = 0.05  # wrong pixels by the patch's side: smaller errors are alike to the judge


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
    judge_weight: float = 0.1  # of its loss
    log_every: int = 50  # steps
    save_every: int = 100  # steps

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        rise = min((step + 1) / max(self.warmup_steps, 1), 1.0)
        left = min((self.steps - step) / max(self.falling_steps, 1), 1.0)
        return self.learning_rate * rise * (0.5 - 0.5 * math.cos(math.pi * max(left, 0.0)))


class UNetTrainer:
    """A network in training and all that a resumed run needs.

    Files in `folder`: `checkpoint.pt`, `average.pt` (the running average alone, for whoever uses
    the network as it is now), `log.csv`.

    Args:
        network: starting point; trained in place.
        recipe: schedule; a resumed training may be given another one.
        folder: its checkpoint is read if there is one.
        device: auto (a GPU where there is one), cpu or cuda.
    """

    def __init__(
        self, network: PatchUNet, recipe: UNetRecipe, folder: Path, device: str = "cpu"
    ) -> None:
        self.recipe, self.folder = recipe, folder
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
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
        if (folder / "checkpoint.pt").exists():
            state = torch.load(
                folder / "checkpoint.pt", map_location=self._device, weights_only=True
            )
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def run(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        on_log: Callable[[Mapping[str, float]], None] = lambda _: None,
        deadline: float = math.inf,
    ) -> PatchUNet:
        """Train up to the last step, or until the clock (`time.time`) says `deadline`.

        Args:
            batches: (patches (B, S, S, 7) uint8, targets (B, S, S) uint8 0, 1 or 255),
                beginning with batch number `self.step`.
            on_log: takes each row of the log.
            deadline: the state is saved and the running average returned.
        """
        self.network.train()
        sums, since = torch.zeros(4, device=self._device), time.perf_counter()
        seen = 0
        for patches, targets in batches:
            if self.step >= self.recipe.steps or time.time() > deadline:
                break
            sums += self._train_step(patches, targets)
            seen += len(patches)
            self.step += 1
            if self.step % self.recipe.log_every == 0:
                names = ("loss", "error", "coarse_error", "judge")
                row = dict(zip(names, (sums / self.recipe.log_every).tolist(), strict=True))
                row |= {"rate": self.recipe.rate_at(self.step)}
                row |= {"patches_per_s": seen / (time.perf_counter() - since)}
                append_row(self.folder / "log.csv", {"step": self.step, **row})
                on_log({"step": self.step, **row})
                sums.zero_()
                since, seen = time.perf_counter(), 0
            if self.step % self.recipe.save_every == 0:
                self.save()
        self.save()
        return self.average

    def _train_step(self, patches: Tensor, targets: Tensor) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(self.step) * group["share"]
        patches, targets = patches.to(self._device), targets.to(self._device)
        known = targets != IGNORE
        truth = (targets == 1).float()
        logits, judged = self.network(normalise(patches))
        pixels = functional.binary_cross_entropy_with_logits(logits, truth, known.float())
        with torch.no_grad():
            side = targets.shape[-1]
            wrong_before = (((patches[..., 3] != 0) != (targets == 1)) & known).sum((1, 2)) / side
            wrong_after = (((logits > 0) != (targets == 1)) & known).sum((1, 2)) / side
            errors = torch.stack([wrong_before, wrong_after], dim=1)
        judge = functional.smooth_l1_loss(judged, torch.log(errors + LEAST_ERROR))
        loss = pixels + self.recipe.judge_weight * judge
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self._update_average()
        return torch.stack(
            [pixels.detach(), errors[:, 1].mean(), errors[:, 0].mean(), judge.detach()]
        )

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.average_decay, (1 + self.step) / (10 + self.step))
        averages, values = self.average.state_dict(), self.network.state_dict()
        moving = [name for name, value in values.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [averages[name] for name in moving], [values[name] for name in moving], 1 - decay
        )

    def save(self) -> None:
        """Write the checkpoint and the running average, each complete or not at all."""
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        for name, content in (("checkpoint.pt", state), ("average.pt", state["average"])):
            temporary = self.folder / f".{name}.{os.getpid()}.tmp"
            torch.save(content, temporary)
            os.replace(temporary, self.folder / name)
