"""The later mask branch of RefineMask, which its authors call faster and better.

There is no semantic mask, features of the image are read at points, and the last mask is drawn
small and enlarged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bpr.detector.boundary_band import upsample
from bpr.detector.mask_branch import (
    MaskBranch,
    at_label,
    init_convolution,
)
from bpr.detector.mask_targets import Positives, mask_targets
from bpr.detector.pooling import LEVELS, PyramidPool
from bpr.detector.presets import Preset
from bpr.detector.refinemask import (
    SIDES,
    Convolution,
    MultiBranchFusion,
    ReluConv2d,
    instance_loss,
    merge_stages,
)

LOSS_WEIGHTS = (0.5, 0.75, 0.75, 1.0)
"""Of the losses of the masks of `SIDES`."""

_STRIDE = LEVELS["0"]


class SimpleRefineStage(nn.Module):
    """A mask, and what the image shows around it -> features of the next mask."""

    def __init__(self, semantic: int, channels: int) -> None:
        super().__init__()
        self.semantic_transform_in = ReluConv2d(semantic, channels, 1)
        self.fuse_conv = nn.Sequential(
            ReluConv2d(2 * channels + 1, channels, 1), MultiBranchFusion(channels, average=True)
        )
        self.fuse_transform_out = ReluConv2d(channels, channels // 2 - 1, 1)

    def forward(self, instance: Tensor, logits: Tensor, semantic: Tensor, rois: Tensor) -> Tensor:
        """Look again.

        Args:
            instance: (N, C, S, S).
            logits: (N, S, S) of this stage's mask.
            semantic: (B, C, H, W) what `semantic_transform_in` made of the whole images.
            rois: (N, 5).

        Returns:
            (N, C / 2, S, S).
        """
        mask = logits.sigmoid()[:, None]
        seen = sample_points(semantic, rois, instance.shape[-1])
        fused = self.fuse_conv(torch.cat([instance, seen, mask], dim=1))
        return torch.cat([self.fuse_transform_out(fused), mask], dim=1)


def sample_points(feature: Tensor, rois: Tensor, side: int) -> Tensor:
    """Read the map at the centres of the cells of boxes, one point each.

    Args:
        feature: (B, C, H, W) at a stride of 4; there are zeros around it.
        rois: (N, 5).
        side: cells of a box in a row, S.

    Returns:
        (N, C, S, S) float32.

    Source: Kirillov et al., CVPR 2020 (arXiv:1912.08193), as mmcv's `SimpleRoIAlign` does it.
    """
    feature, rois = feature.float(), rois.float()
    height, width = feature.shape[-2:]
    centres = (torch.arange(side, device=rois.device) + 0.5) / side
    x0, y0, x1, y1 = rois[:, 1:, None].unbind(1)
    # grid_sample has the map's edges at -1 and 1
    x = (x0 + (x1 - x0) * centres) / (_STRIDE * width) * 2 - 1
    y = (y0 + (y1 - y0) * centres) / (_STRIDE * height) * 2 - 1
    grid = torch.stack(
        [x[:, None, :].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], dim=-1
    )
    read = feature.new_zeros((len(rois), feature.shape[1], side, side))
    for image, of_image in enumerate(feature):
        here = torch.where(rois[:, 0] == image)[0]
        points = functional.grid_sample(
            of_image[None], grid[here].reshape(1, -1, side, 2), align_corners=False
        )
        read[here] = points.reshape(feature.shape[1], len(here), side, side).transpose(0, 1)
    return read


class ImageMaps(NamedTuple):
    """What is seen in a batch of images; boxes have no part in it."""

    features: Mapping[str, Tensor]  # of the backbone
    by_stage: tuple[Tensor, ...]  # (B, C, H, W) at a stride of 4, C of the stage


class SimpleRefineMaskHead(nn.Module):
    """Pooled features and the finest level -> four masks. Names are those of the reference.

    Args:
        channels: of the features.
        categories: K.
        agnostic_last: the last mask is the same for all categories.
    """

    def __init__(self, channels: int, categories: int, agnostic_last: bool = False) -> None:
        super().__init__()
        self.instance_convs = nn.Sequential(*(Convolution(channels, channels) for _ in range(2)))
        self.semantic_convs = nn.Sequential(*(Convolution(channels, channels) for _ in range(4)))
        self.stages = nn.ModuleList(
            SimpleRefineStage(channels, channels >> number) for number in range(3)
        )
        maps = [*[categories] * 3, 1 if agnostic_last else categories]
        self.stage_instance_logits = nn.ModuleList(
            nn.Conv2d(channels >> number, count, 1) for number, count in enumerate(maps)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                # as RefineMaskHead: calm losses to begin with
                init_convolution(layer, std=None if isinstance(layer, ReluConv2d) else 0.001)

    def prepare(self, features: Mapping[str, Tensor]) -> ImageMaps:
        """See whole images, once."""
        seen = self.semantic_convs(features["0"])
        stages = cast(Iterable[SimpleRefineStage], self.stages)
        return ImageMaps(features, tuple(stage.semantic_transform_in(seen) for stage in stages))

    def forward(
        self, pooled: Tensor, maps: ImageMaps, rois: Tensor, indices: Tensor
    ) -> list[Tensor]:
        """(N, C, 14, 14), (N, 5) and (N,) categories from 0 -> (N, S, S) logits for `SIDES`."""
        instance = self.instance_convs(pooled)
        *predictors, last = self.stage_instance_logits
        drawn: list[Tensor] = []
        for stage, predictor, semantic in zip(self.stages, predictors, maps.by_stage, strict=True):
            if drawn:
                instance = functional.interpolate(instance, scale_factor=2, mode="bilinear")
            drawn.append(at_label(predictor(instance), indices))
            instance = stage(instance, drawn[-1], semantic, rois)
        final = last(instance)
        if final.shape[1] == 1:
            indices = torch.zeros_like(indices)
        return [*drawn, upsample(at_label(final, indices), SIDES[-1])]


class SimpleRefineMaskBranch(MaskBranch[ImageMaps]):
    """Draws masks at 28, 56 and 112 pixels and joins them along their boundaries."""

    def __init__(self, preset: Preset, categories: int) -> None:
        super().__init__()
        self.pool = PyramidPool(SIDES[0], "mmdetection")
        self.head = SimpleRefineMaskHead(preset.channels, categories, preset.agnostic_last_stage)

    def prepare(self, features: Mapping[str, Tensor]) -> ImageMaps:
        """What the image shows, once for all boxes."""
        maps: ImageMaps = self.head.prepare(features)
        return maps

    def stage_logits(self, prepared: ImageMaps, rois: Tensor, labels: Tensor) -> list[Tensor]:
        """(N, S, S) logits for `SIDES`, not merged."""
        pooled = self.pool(prepared.features, rois)
        drawn: list[Tensor] = self.head(pooled, prepared, rois, labels - 1)
        return drawn

    def logits(self, prepared: ImageMaps, rois: Tensor, labels: Tensor) -> Tensor:
        """(N, 112, 112)."""
        return merge_stages(self.stage_logits(prepared, rois, labels))

    def losses(self, prepared: ImageMaps, positives: Positives) -> dict[str, Tensor]:
        """`instance_loss` alone."""
        logits = self.stage_logits(prepared, positives.rois, positives.labels)
        targets = mask_targets(positives, SIDES)
        return {"loss_instance": instance_loss(logits, targets, LOSS_WEIGHTS)}
