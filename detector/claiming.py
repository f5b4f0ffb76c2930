"""Which boxes are on which objects, in training."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher


class ClaimingMatcher(Matcher):
    """Objects claim the boxes that overlap them most, whichever object these overlap more.

    Args:
        high: overlap (IoU) from which a box is on an object.
        low: overlap below which it is background.
        claim: overlap from which an object claims.

    Source: mmdetection 2.3, `MaxIoUAssigner` with `match_low_quality` and `min_pos_iou`.
    """

    def __init__(self, high: float, low: float, claim: float) -> None:
        super().__init__(high, low)
        self._claim = claim

    def __call__(self, match_quality_matrix: Tensor) -> Tensor:
        """(M, N) overlaps -> (N,) int64 object from 0, -1 background, -2 neither."""
        matches: Tensor = super().__call__(match_quality_matrix)
        best = match_quality_matrix.max(dim=1).values
        for number in torch.where(best >= self._claim)[0].tolist():
            matches[match_quality_matrix[number] == best[number]] = number
        return matches
