"""Boxes as offsets from other boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder


class ClampedBoxCoder(BoxCoder):
    """torchvision's coder, that can also limit how much boxes shrink.

    Args:
        weights: of the offsets x, y, width, height.
        clamp_shrinking: limit it as growth is limited, to a factor of 1000 / 16 (mmdetection).
    """

    def __init__(
        self, weights: tuple[float, float, float, float], clamp_shrinking: bool = False
    ) -> None:
        super().__init__(weights)
        self._clamp_shrinking = clamp_shrinking

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """(N, 4 C) offsets from (N, 4) boxes -> (N, 4 C) boxes."""
        if self._clamp_shrinking:
            low = -self.bbox_xform_clip * rel_codes.new_tensor(self.weights)
            low[:2] = -torch.inf
            rel_codes = torch.maximum(rel_codes, low.repeat(rel_codes.shape[1] // 4))
        return super().decode_single(rel_codes, boxes)  # type: ignore[no-any-return]
