"""What a patch dataset holds and how it lies on disk."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bpr.pipeline.settings import PatchSettings

SHARDS, FOLDERS = "shards", "folders"
TRAIN_MIN_IOU = 0.5  # the reference's filter.py, which it runs on the training split only


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """How patches are cut, which instances count, and the layout."""

    patches: PatchSettings
    split: str = "train"
    """Name of the part of the dataset: letters, digits, - and _."""
    layout: str = SHARDS
    min_iou: float | None = TRAIN_MIN_IOU
    """Instances whose IoU with their ground truth is not larger are left out; None keeps all."""
    images_per_shard: int = 32
    """What one task reads and one file holds; part of the plan, never the cluster's choice."""
    seed: int = 0
    """Of simulated coarse masks."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.split):
            raise ValueError(f"split: expected letters, digits, - and _, got {self.split!r}")
        if self.layout not in (SHARDS, FOLDERS):
            raise ValueError(f"layout: expected {SHARDS} or {FOLDERS}, got {self.layout!r}")
        if self.min_iou is not None and not 0 <= self.min_iou < 1:
            raise ValueError(f"min_iou: expected a number in [0, 1), got {self.min_iou}")
        if self.images_per_shard <= 0:
            raise ValueError(f"images_per_shard: expected an int > 0, got {self.images_per_shard}")
        if self.seed < 0:
            raise ValueError(f"seed: expected an int >= 0, got {self.seed}")
