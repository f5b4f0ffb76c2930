"""Features of boxes, cut from a pyramid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from bpr.detector.presets import Library

LEVELS = {"0": 4, "1": 8, "2": 16, "3": 32}
"""Names of the levels that boxes are cut from, P2 to P5, and pixels of a position."""


def indexed(boxes: Sequence[Tensor]) -> Tensor:
    """(N_i, 4) boxes of several images -> (N, 5) boxes behind the number of their image."""
    return torch.cat(
        [
            torch.cat([torch.full_like(of_image[:, :1], number), of_image], dim=1)
            for number, of_image in enumerate(boxes)
        ]
    )


def box_levels(boxes: Tensor, library: Library) -> Tensor:
    """(N, 4) boxes in pixels -> (N,) int64 level from which each is cut, 0 for P2.

    Libraries differ in what they add so that a side of exactly 224 pixels gets P4.

    Source: Lin et al., CVPR 2017 (arXiv:1612.03144), eq. 1.
    """
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    if library == "mmdetection":
        levels = torch.floor(torch.log2(sides / 56 + 1e-6)) + 2
    elif library == "detectron2":
        levels = torch.floor(4 + torch.log2(sides / 224 + 1e-8))
    else:
        levels = torch.floor(4 + torch.log2(sides / 224) + 1e-6)
    return levels.clamp(2, 5).to(torch.int64) - 2


class PyramidPool(nn.Module):
    """Boxes of any size -> features of one size, each box from the level of its size.

    Args:
        side: of the output.
        library: in detectron2 and mmdetection pixels lie at their centres and boxes are sampled
            as densely as they need; in torchvision half a pixel off, at two by two points.
        finest_only: cut every box from P2.
    """

    def __init__(self, side: int, library: Library, finest_only: bool = False) -> None:
        super().__init__()
        self.side = side
        self._library = library
        self._finest_only = finest_only

    def forward(self, features: Mapping[str, Tensor], rois: Tensor) -> Tensor:
        """(N, 5) of `indexed` -> (N, C, side, side) float32."""
        finest = features["0"]
        if self._finest_only:
            return self._align(finest, rois, LEVELS["0"])
        levels = box_levels(rois[:, 1:], self._library)
        pooled = finest.new_zeros(
            (len(rois), finest.shape[1], self.side, self.side), dtype=torch.float32
        )
        for level, (name, stride) in enumerate(LEVELS.items()):
            chosen = torch.where(levels == level)[0]
            if len(chosen):
                pooled[chosen] = self._align(features[name], rois[chosen], stride)
        return pooled

    def _align(self, feature: Tensor, rois: Tensor, stride: int) -> Tensor:
        exact = self._library != "torchvision"
        return roi_align(  # type: ignore[no-any-return]
            feature.float(),
            rois.float(),
            self.side,
            1 / stride,
            sampling_ratio=0 if exact else 2,
            aligned=exact,
        )
