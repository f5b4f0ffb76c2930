"""How long and how fast the patch network learns: the numbers of a training, and two presets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run. The schedule depends on `steps`, so a resumed run keeps it."""

    steps: int = 10_000  # batches
    optimizer: Literal["adamw", "sgd"] = "adamw"  # sgd with momentum 0.9
    learning_rate: float = 6e-4  # peak
    final_rate: float = 6e-6
    schedule: Literal["cosine", "poly"] = "cosine"  # poly with power 0.9
    warmup_steps: int = 300  # the rate rises linearly
    weight_decay: float = 0.02
    decay_all: bool = False  # biases and batch norms too
    clip_norm: float = 5.0  # of the gradients; inf leaves them
    average_decay: float = 0.999  # of the running average that is kept (EMA); 0 keeps the last
    bfloat16: bool = True  # in forward passes; weights stay float32
    log_every: int = 50  # steps
    validate_every: int = 1000  # steps

    def __post_init__(self) -> None:
        if self.steps <= 0:
            raise ValueError(f"steps: expected an int > 0, got {self.steps}")

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then the schedule from the peak down to the final rate."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        done = min(done, 1.0)
        if self.schedule == "cosine":
            remaining = 0.5 * (1 + math.cos(math.pi * done))
        else:
            remaining = (1 - done) ** 0.9
        return self.final_rate + (self.learning_rate - self.final_rate) * remaining


RECIPES = {
    "bpr": Recipe(),
    # schedule_160k.py and the data configs of the reference
    "paper": Recipe(
        steps=160_000,
        optimizer="sgd",
        learning_rate=0.01,
        final_rate=1e-4,
        schedule="poly",
        warmup_steps=0,
        weight_decay=5e-4,
        decay_all=True,
        clip_norm=math.inf,
        average_decay=0.0,
        bfloat16=False,
        validate_every=16_000,
    ),
}
"""Ours, and that of Tang et al., CVPR 2021 (32 patches a batch)."""
