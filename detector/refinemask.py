"""The mask branch of RefineMask, which draws a mask again and again at twice the size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

from bpr.detector.boundary_band import BANDS, TRAIN_WIDTH, merge, upsample
from bpr.detector.mask_branch import (
    MaskBranch,
    at_label,
    init_convolution,
    mask_loss,
)
from bpr.detector.mask_targets import Positives, mask_targets
from bpr.detector.pooling import LEVELS, PyramidPool
from bpr.detector.presets import Preset

SIDES = (14, 28, 56, 112)
"""Of the mask that each stage draws, and the last one."""

LOSS_WEIGHTS = (0.25, 0.5, 0.75, 1.0)
"""Of the losses of these masks."""

FOUR_STAGES = (*SIDES, 224)
"""Sides of the ablation with one stage more."""

FOUR_WEIGHTS = (*LOSS_WEIGHTS, 1.25)
"""Weights of its losses. The paper does not give the last one: it continues the series."""

_START = 1  # the first stage whose mask is used
_STRIDE = LEVELS["0"]


class ReluConv2d(nn.Conv2d):
    """A convolution and ReLU."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        return super().forward(input).relu()


class Convolution(nn.Module):
    """A convolution and ReLU, one level down in checkpoints as mmcv has it."""

    def __init__(self, inputs: int, outputs: int, side: int = 3, dilation: int = 1) -> None:
        super().__init__()
        self.conv = ReluConv2d(
            inputs, outputs, side, padding=dilation * (side // 2), dilation=dilation
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        drawn: Tensor = self.conv(x)
        return drawn


class MultiBranchFusion(nn.Module):
    """Sees three surroundings at once.

    Args:
        channels: in and out.
        average: see the mean of the whole box too.
    """

    def __init__(self, channels: int, average: bool = False) -> None:
        super().__init__()
        self._average = average
        self.dilation_conv_1 = Convolution(channels, channels, dilation=1)
        self.dilation_conv_2 = Convolution(channels, channels, dilation=3)
        self.dilation_conv_3 = Convolution(channels, channels, dilation=5)
        self.merge_conv = Convolution(channels, channels, side=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S, S) -> the same."""
        near, middle, far = self.dilation_conv_1, self.dilation_conv_2, self.dilation_conv_3
        seen = near(x) + middle(x) + far(x)
        if self._average:
            seen = seen + x.mean(dim=(2, 3), keepdim=True)
        merged: Tensor = self.merge_conv(seen)
        return merged


class ParallelConvolutions(nn.Module):
    """Three convolutions of 3 x 3 side by side, all of the same dilation.

    The paper's table 4 only names this fusion: the three are summed, as those of the fusion module.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ReluConv2d(inputs, outputs, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, C', S, S)."""
        return torch.stack([conv(x) for conv in self.convs]).sum(dim=0)


class RefineStage(nn.Module):
    """Semantic fusion module: one mask, and the features of the next at twice the size.

    Source: Zhang et al., CVPR 2021 (arXiv:2104.08569), fig. 4.
    """

    def __init__(
        self, semantic: int, channels: int, categories: int, fusion: str, sees_image: bool
    ) -> None:
        super().__init__()
        self._sees_image = sees_image
        if sees_image:
            self.semantic_transform_in = ReluConv2d(semantic, channels, 1)
            self.semantic_transform_out = ReluConv2d(channels, channels, 1)
        self.instance_logits = nn.Conv2d(channels, categories, 1)
        inputs = 2 * channels + 2 if sees_image else channels + 1
        fused: list[nn.Module] = [ReluConv2d(inputs, channels, 1)]
        if fusion == "sfm":
            fused.append(MultiBranchFusion(channels))
        elif fusion == "conv3":
            fused = [ReluConv2d(inputs, channels, 3, padding=1)]
        elif fusion == "parallel":
            fused = [ParallelConvolutions(inputs, channels)]
        self.fuse_conv = nn.Sequential(*fused)
        self.fuse_transform_out = ReluConv2d(channels, channels // 2 - (2 if sees_image else 1), 1)

    def forward(
        self,
        instance: Tensor,
        semantic: Tensor | None,
        semantic_mask: Tensor | None,
        rois: Tensor,
        indices: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Predict this stage's mask and the features for the next stage.

        Args:
            instance: (N, C, S, S).
            semantic: (B, C, H, W) what `semantic_transform_in` made of the whole images; None
                without a semantic head.
            semantic_mask: (B, 1, H, W) probability; likewise.
            rois: (N, 5).
            indices: (N,) categories from 0.

        Returns:
            (N, S, S) logits, (N, C / 2, 2 S, 2 S) features.
        """
        side = instance.shape[-1]
        logits = at_label(self.instance_logits(instance), indices)[:, None]
        masks = logits.sigmoid()
        parts = [instance]
        if semantic is not None and semantic_mask is not None:
            parts.append(self.semantic_transform_out(_pool(semantic, rois, side)))
            masks = torch.cat([masks, _pool(semantic_mask, rois, side)], dim=1)
        fused = self.fuse_conv(torch.cat([*parts, masks], dim=1))
        fused = self.fuse_transform_out(fused)
        fused = functional.interpolate(fused, scale_factor=2, mode="bilinear", align_corners=False)
        masks = functional.interpolate(masks, scale_factor=2, mode="bilinear", align_corners=True)
        return logits[:, 0], torch.cat([fused, masks], dim=1)


def _pool(feature: Tensor, rois: Tensor, side: int) -> Tensor:
    """Cut (N, 5) from the map at a stride of 4, whatever their size."""
    return roi_align(  # type: ignore[no-any-return]
        feature.float(), rois.float(), side, 1 / _STRIDE, sampling_ratio=0, aligned=True
    )


class SemanticMaps(NamedTuple):
    """What the semantic head sees in a batch of images; boxes have no part in it."""

    features: Mapping[str, Tensor]  # of the backbone
    by_stage: tuple[Tensor | None, ...]  # (B, C, H, W) at a stride of 4, C of the stage
    logits: Tensor | None  # (B, 1, H, W); None of both without a semantic head


class RefineMaskHead(nn.Module):
    """Pooled features and the finest level -> four masks. Names are those of the reference.

    Args:
        preset: of the detector; its ablations take parts away.
        categories: K.
    """

    def __init__(self, preset: Preset, categories: int) -> None:
        super().__init__()
        channels, stages = preset.channels, preset.refine_stages
        self.instance_convs = nn.Sequential(*(Convolution(channels, channels) for _ in range(2)))
        self._sees_image = preset.semantic_head
        if preset.semantic_head:
            self.semantic_convs = nn.Sequential(
                *(Convolution(channels, channels) for _ in range(4))
            )
            self.semantic_logits = nn.Conv2d(channels, 1, 1)
        self.stages = nn.ModuleList(
            RefineStage(
                channels, channels >> number, categories, preset.fusion, preset.semantic_head
            )
            for number in range(stages)
        )
        maps = 1 if preset.agnostic_last_stage else categories
        self.final_instance_logits = nn.Conv2d(channels >> stages, maps, 1)
        for layer in self.modules():
            if isinstance(layer, ReluConv2d):
                init_convolution(layer)
            elif isinstance(layer, nn.Conv2d):
                # the reference's larger ones start with losses over 100
                init_convolution(layer, std=0.001)

    def prepare(self, features: Mapping[str, Tensor]) -> SemanticMaps:
        """See whole images, once."""
        if not self._sees_image:
            return SemanticMaps(features, (None,) * len(self.stages), None)
        seen = self.semantic_convs(features["0"])
        stages = cast(Iterable[RefineStage], self.stages)
        by_stage = tuple(stage.semantic_transform_in(seen) for stage in stages)
        return SemanticMaps(features, by_stage, self.semantic_logits(seen))

    def forward(
        self, pooled: Tensor, maps: SemanticMaps, rois: Tensor, indices: Tensor
    ) -> list[Tensor]:
        """(N, C, 14, 14), (N, 5) and (N,) categories from 0 -> (N, S, S) logits for `SIDES`."""
        instance = self.instance_convs(pooled)
        semantic_mask = None if maps.logits is None else maps.logits.sigmoid()
        drawn = []
        for stage, semantic in zip(self.stages, maps.by_stage, strict=True):
            logits, instance = stage(instance, semantic, semantic_mask, rois, indices)
            drawn.append(logits)
        last = self.final_instance_logits(instance)
        if last.shape[1] == 1:
            indices = torch.zeros_like(indices)
        return [*drawn, at_label(last, indices)]


class RefineMaskBranch(MaskBranch[SemanticMaps]):
    """Draws masks at 28, 56 and 112 pixels and joins them along their boundaries.

    Without boundary-aware refinement every stage draws whole masks, and the last one is given
    out.
    """

    def __init__(self, preset: Preset, categories: int) -> None:
        super().__init__()
        self.pool = PyramidPool(SIDES[0], "mmdetection")
        self.head = RefineMaskHead(preset, categories)
        self._last_only = preset.supervised_stages == "last"
        self._refinement = Refinement(preset.boundary_refinement, preset.band, preset.band_width)

    def prepare(self, features: Mapping[str, Tensor]) -> SemanticMaps:
        """The semantic head, once for all boxes."""
        maps: SemanticMaps = self.head.prepare(features)
        return maps

    def stage_logits(self, prepared: SemanticMaps, rois: Tensor, labels: Tensor) -> list[Tensor]:
        """(N, S, S) logits for `SIDES`, not merged."""
        pooled = self.pool(prepared.features, rois)
        drawn: list[Tensor] = self.head(pooled, prepared, rois, labels - 1)
        return drawn

    def logits(self, prepared: SemanticMaps, rois: Tensor, labels: Tensor) -> Tensor:
        """(N, 112, 112)."""
        return merge_stages(self.stage_logits(prepared, rois, labels), self._refinement)

    def losses(self, prepared: SemanticMaps, positives: Positives) -> dict[str, Tensor]:
        """`instance_loss`, and cross entropy of where any object is."""
        logits = self.stage_logits(prepared, positives.rois, positives.labels)
        targets = mask_targets(positives, FOUR_STAGES[: len(logits)])
        weights = FOUR_WEIGHTS[: len(logits)]
        if self._last_only:
            weights = (0.0,) * (len(logits) - 1) + weights[-1:]
        losses = {"loss_instance": instance_loss(logits, targets, weights, self._refinement)}
        if prepared.logits is not None:
            height, width = prepared.logits.shape[-2:]
            semantic = semantic_target(positives, (height, width))
            losses["loss_semantic"] = mask_loss(prepared.logits[:, 0], semantic)
        return losses


@dataclass(frozen=True)
class Refinement:
    """How late stages redraw boundaries."""

    is_on: bool = True  # else every stage draws whole masks
    band: str = "squares"  # a key of `BANDS`
    width: int = TRAIN_WIDTH  # of the band in training


PUBLISHED = Refinement()
"""As the authors' code does it."""


def merge_stages(logits: Sequence[Tensor], refinement: Refinement = PUBLISHED) -> Tensor:
    """Logits for `SIDES` -> those of the last side: coarse inside, fine along boundaries."""
    if not refinement.is_on:
        return logits[-1].float()
    merged = logits[_START].float()
    for finer in logits[_START + 1 :]:
        merged = merge(merged, finer.float(), refinement.band)
    return merged


def instance_loss(
    logits: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[float] = LOSS_WEIGHTS,
    refinement: Refinement = PUBLISHED,
) -> Tensor:
    """Cross entropy of each stage, of the later ones only near boundaries; weighted sum.

    Args:
        logits: (N, S, S) for `SIDES`.
        targets: of the same shapes, 0 or 1.
        weights: of the stages.
        refinement: where the later ones learn.

    Source: Zhang et al., CVPR 2021 (arXiv:2104.08569), eq. 2-4.
    """
    total = sum(
        weight * loss
        for weight, loss in zip(weights, stage_losses(logits, targets, refinement), strict=True)
    )
    assert isinstance(total, Tensor)
    return total


def stage_losses(
    logits: Sequence[Tensor], targets: Sequence[Tensor], refinement: Refinement = PUBLISHED
) -> list[Tensor]:
    """The losses of `instance_loss` without weights."""
    find_band, width = BANDS[refinement.band], refinement.width
    losses = []
    before = logits[_START].detach().float()  # the merged mask that a stage begins with
    for number, (drawn, target) in enumerate(zip(logits, targets, strict=True)):
        if number <= _START or not drawn.numel() or not refinement.is_on:
            losses.append(mask_loss(drawn, target))
            continue
        band = find_band(before.sigmoid() >= 0.5, width)
        band |= find_band(targets[number - 1] >= 0.5, width)
        region = upsample(band.float(), drawn.shape[-1]) >= 0.5
        loss = functional.binary_cross_entropy_with_logits(
            drawn.float(), target.float(), weight=region.float(), reduction="sum"
        )
        losses.append(loss / region.sum().clamp(min=1))
        before = merge(before, drawn.detach().float(), refinement.band)
    return losses


def semantic_target(positives: Positives, size: tuple[int, int]) -> Tensor:
    """Where any object is.

    Args:
        positives: masks of the images are read.
        size: height, width of the semantic map.

    Returns:
        (B, height, width) float32, 0 or 1.
    """
    targets = []
    for masks, seen in zip(positives.masks, positives.sizes, strict=True):
        union = masks.any(dim=0)[None, None].float()
        if union.shape[-2:] != seen:
            union = functional.interpolate(union, seen, mode="bilinear", antialias=True)
        below, right = (whole - part for whole, part in zip(positives.padded, seen, strict=True))
        union = functional.pad(union, (0, right, 0, below))
        targets.append(functional.interpolate(union, size, mode="bilinear")[0, 0] >= 0.5)
    return torch.stack(targets).float()
