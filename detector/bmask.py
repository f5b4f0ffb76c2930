"""The mask branch of BMask R-CNN, which learns boundaries beside masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from bpr.detector.mask_branch import (
    MaskBranch,
    at_label,
    init_convolution,
    mask_loss,
)
from bpr.detector.mask_targets import Positives, mask_targets
from bpr.detector.pooling import PyramidPool
from bpr.detector.presets import Preset


class BoundaryPreservingHead(nn.Module):
    """Pooled features -> mask and boundary of every category. Names are those of the reference.

    Source: Cheng et al., ECCV 2020 (arXiv:2007.08921), fig. 3.
    """

    def __init__(self, channels: int, categories: int) -> None:
        super().__init__()

        def convolution(side: int, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(channels, channels, side, stride, padding=side // 2)

        self.mask_fcn1, self.mask_fcn2 = convolution(3), convolution(3)
        self.mask_fcn3, self.mask_fcn4 = convolution(3), convolution(3)
        self.downsample = convolution(3, stride=2)
        self.mask_to_boundary = convolution(1)
        self.boundary_fcn1, self.boundary_fcn2 = convolution(3), convolution(3)
        self.boundary_to_mask = convolution(1)
        self.mask_final_fusion = convolution(3)
        self.mask_deconv = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.mask_predictor = nn.Conv2d(channels, categories, 1)
        self.boundary_deconv = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.boundary_predictor = nn.Conv2d(channels, categories, 1)
        predictors = (self.mask_predictor, self.boundary_predictor)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                init_convolution(layer, std=0.001 if layer in predictors else None)

    def forward(self, mask: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, 14, 14) and (N, C, 28, 28) -> logits of masks and boundaries, (N, K, 28, 28)."""
        for layer in (self.mask_fcn1, self.mask_fcn2, self.mask_fcn3, self.mask_fcn4):
            mask = layer(mask).relu()
        boundary = self.downsample(boundary).relu()
        boundary = boundary + self.mask_to_boundary(mask).relu()
        boundary = self.boundary_fcn2(self.boundary_fcn1(boundary).relu()).relu()
        mask = self.boundary_to_mask(boundary).relu() + mask
        mask = self.mask_final_fusion(mask).relu()
        return (
            self.mask_predictor(self.mask_deconv(mask).relu()),
            self.boundary_predictor(self.boundary_deconv(boundary).relu()),
        )


class BMaskBranch(MaskBranch[Mapping[str, Tensor]]):
    """Boundaries are drawn from the finest level, and teach; what is given out are masks."""

    def __init__(self, preset: Preset, categories: int) -> None:
        super().__init__()
        self.pool = PyramidPool(14, "detectron2")
        self.boundary_pool = PyramidPool(28, "detectron2", finest_only=True)
        self.head = BoundaryPreservingHead(preset.channels, categories)

    def prepare(self, features: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """There is nothing to prepare."""
        return features

    def both_logits(
        self, features: Mapping[str, Tensor], rois: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(N, 28, 28) logits of masks and of their boundaries."""
        masks, boundaries = self.head(self.pool(features, rois), self.boundary_pool(features, rois))
        return at_label(masks, labels - 1), at_label(boundaries, labels - 1)

    def logits(self, prepared: Mapping[str, Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """(N, 28, 28)."""
        return self.both_logits(prepared, rois, labels)[0]

    def losses(self, prepared: Mapping[str, Tensor], positives: Positives) -> dict[str, Tensor]:
        """Cross entropy of masks, and `boundary_loss`."""
        logits = self.both_logits(prepared, positives.rois, positives.labels)
        (target,) = mask_targets(positives, (28,))
        return {
            "loss_mask": mask_loss(logits[0], target),
            "loss_boundary": boundary_loss(logits[1], boundary_target(target)),
        }


def boundary_target(masks: Tensor) -> Tensor:
    """(N, S, S) masks of {0, 1} -> float32, 1 on the inner boundary.

    That is every foreground pixel with background among its eight neighbours; what lies outside
    the box counts as background.

    Source: BMaskR-CNN, `boundary_loss_func`: a Laplacian over 0.1.
    """
    background = 1 - masks.float()[:, None]
    touched = functional.max_pool2d(functional.pad(background, (1,) * 4, value=1.0), 3, 1)
    return torch.minimum(touched[:, 0], masks.float())


def boundary_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy, and the dice loss of each instance, of (N, S, S); 0 without any.

    Source: Cheng et al., ECCV 2020 (arXiv:2007.08921), eq. 2-3; the reference does not square
    probabilities in the denominator.
    """
    if not logits.numel():
        return logits.sum() * 0
    logits = logits.float()
    probability, goal = logits.sigmoid().flatten(1), target.float().flatten(1)
    common = (probability * goal).sum(dim=1)
    dice = 1 - (2 * common + 1) / (probability.sum(dim=1) + goal.sum(dim=1) + 1)
    return mask_loss(logits, target) + dice.mean()
