"""How much the instances of an image lie on top of each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from bpr.pipeline.instance import Prediction


@dataclass(frozen=True)
class Overlap:
    """Pixels of images, counted over all their instances."""

    covered: int = 0  # pixels that belong to at least one instance
    shared: int = 0  # pixels that belong to at least two

    @property
    def share(self) -> float:
        """Shared pixels by covered ones, in [0, 1]; NaN where nothing is covered."""
        return self.shared / self.covered if self.covered else float("nan")


def overlap(prediction: Prediction) -> Overlap:
    """Count the pixels of one image that belong to one and to several instances."""
    counts = np.zeros(prediction.size, np.uint16)
    for instance in prediction.instances:
        x0, y0, x1, y1 = instance.mask.window
        counts[y0:y1, x0:x1] += instance.mask.bitmap
    return Overlap(int(np.count_nonzero(counts)), int(np.count_nonzero(counts > 1)))


def total(parts: Iterable[Overlap]) -> Overlap:
    """Add up images."""
    items = list(parts)
    return Overlap(sum(item.covered for item in items), sum(item.shared for item in items))
