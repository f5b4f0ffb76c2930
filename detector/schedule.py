"""How long and how fast a detector learns."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One training run: SGD with linear warm-up and drops by ten."""

    steps: int  # batches
    batch_size: int  # images of all processes
    learning_rate: float  # until the first drop
    drops: tuple[int, ...]  # steps at which the rate falls to a tenth
    warmup_steps: int = 1000  # the rate rises linearly from a thousandth
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip_norm: float = 35.0  # of the gradients; inf leaves them
    log_every: int = 20  # steps

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected an int > 0, got {getattr(self, name)}")

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a tenth for each drop that has passed."""
        rate = self.learning_rate * 0.1 ** sum(step >= drop for drop in self.drops)
        if step < self.warmup_steps:
            done = step / self.warmup_steps
            rate *= 1e-3 * (1 - done) + done
        return rate

    def for_batch_size(self, batch_size: int) -> Schedule:
        """The same training in batches of another size: the rate follows, rounds stay.

        Source: Goyal et al., 2017 (arXiv:1706.02677), section 2.1; detectron2, auto_scale_workers.
        """
        if batch_size <= 0:
            raise ValueError(f"batch_size: expected an int > 0, got {batch_size}")
        share = self.batch_size / batch_size
        scaled = self.for_steps(round(self.steps * share))
        return replace(
            scaled,
            batch_size=batch_size,
            learning_rate=self.learning_rate / share,
            warmup_steps=round(self.warmup_steps * share),
        )

    def for_steps(self, steps: int) -> Schedule:
        """A longer or shorter training, with drops at the same shares of it."""
        if steps <= 0:
            raise ValueError(f"steps: expected an int > 0, got {steps}")
        drops = tuple(round(drop * steps / self.steps) for drop in self.drops)
        return replace(self, steps=steps, drops=drops, warmup_steps=min(self.warmup_steps, steps))
