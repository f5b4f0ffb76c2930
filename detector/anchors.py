"""Anchors where the published models have them."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

STRIDES = (4, 8, 16, 32, 64)
"""Pixels between two positions, by level of the pyramid."""

SIDES = (32, 64, 128, 256, 512)
"""Of the square anchor in pixels, by level."""

ASPECT_RATIOS = (0.5, 1.0, 2.0)
"""Height by width."""


class PyramidAnchors(AnchorGenerator):
    """One side and three shapes at each position of each level.

    Args:
        exact: corners are not rounded and lie a stride apart, as in detectron2 and mmdetection.
            Otherwise as torchvision has them, whose strides follow from the sizes of image and
            map: 61 pixels where 64 are meant, for some sizes.
    """

    def __init__(self, exact: bool) -> None:
        self._exact = exact
        super().__init__(tuple((side,) for side in SIDES), tuple(ASPECT_RATIOS for _ in SIDES))

    def generate_anchors(
        self,
        scales: list[int],
        aspect_ratios: list[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (torchvision's signature)
    ) -> Tensor:
        """(A, 4) boxes around the origin; on the CPU, also while networks are built empty."""
        with torch.device("cpu"):
            if not self._exact:
                return super().generate_anchors(scales, aspect_ratios, dtype, device)  # type: ignore[no-any-return]
            boxes = []
            for scale in scales:
                for ratio in aspect_ratios:
                    # in float64, as the reference
                    width = (scale**2 / ratio) ** 0.5
                    height = ratio * width
                    boxes.append([-width / 2, -height / 2, width / 2, height / 2])
            return torch.tensor(boxes, dtype=dtype, device=device)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """(A, 4) float32 boxes of each image: by level, row, column, shape."""
        if not self._exact:
            return super().forward(image_list, feature_maps)  # type: ignore[no-any-return]
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        sizes = [list(level.shape[-2:]) for level in feature_maps]
        strides = [[torch.tensor(stride, device=device)] * 2 for stride in STRIDES]
        anchors = torch.cat(self.grid_anchors(sizes, strides))
        return [anchors for _ in image_list.image_sizes]
