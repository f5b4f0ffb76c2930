"""The second stage: what is in a box, and where the box should be."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead

from bpr.detector.backbone import make_norm
from bpr.detector.box_coder import ClampedBoxCoder
from bpr.detector.presets import Preset

POOLED = 7
"""Side of the features that a box is judged by."""

IOUS = (0.5, 0.6, 0.7)
"""Overlap with an object from which a box counts as the object, by stage of a cascade."""

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Of the offsets in the first stage; times 2 and 3 in those behind it."""

MMDETECTION_LAST = (1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067)
"""Of the last stage in mmdetection, which rounds."""


class BoxPredictor(nn.Module):
    """(N, D) features -> (N, K + 1) logits, background first, and offsets.

    Offsets are (N, 4), or (N, 4 K + 4) where each category has its own.
    """

    def __init__(self, features: int, categories: int, agnostic: bool) -> None:
        super().__init__()
        self.cls_score = nn.Linear(features, categories + 1)
        self.bbox_pred = nn.Linear(features, 4 if agnostic else 4 * (categories + 1))
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """As the class says, in float32."""
        return self.cls_score(features).float(), self.bbox_pred(features).float()


class BoxStage(nn.Module):
    """One judgement of boxes; a cascade has three.

    Args:
        preset: of the detector.
        categories: K, without background.
        number: of the stage, from 0.
    """

    def __init__(self, preset: Preset, categories: int, number: int) -> None:
        super().__init__()
        inputs, features = preset.channels, preset.box_features
        if preset.box_convolutions:
            self.head: nn.Module = FastRCNNConvFCHead(
                (inputs, POOLED, POOLED),
                [inputs] * preset.box_convolutions,
                [features],
                make_norm(preset.head_norm, preset.conventions.norm_eps),
            )
        else:
            head = TwoMLPHead(inputs * POOLED**2, features)
            for layer in (head.fc6, head.fc7):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)
            self.head = head
        self.predictor = BoxPredictor(features, categories, preset.cascade)
        weights = tuple(weight * (number + 1) for weight in WEIGHTS)
        if number == 2 and preset.conventions.library == "mmdetection":
            weights = MMDETECTION_LAST
        self.coder = ClampedBoxCoder(
            cast(tuple[float, float, float, float], weights), preset.conventions.clamp_shrinking
        )
        self.matcher = Matcher(IOUS[number], IOUS[number])

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, 7, 7) -> logits and offsets of `BoxPredictor`."""
        logits, deltas = self.predictor(self.head(pooled))
        return logits, deltas

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Offsets from (N, 4) boxes -> (N, 1 or K + 1, 4) boxes, not clipped."""
        decoded = self.coder.decode_single(deltas, boxes)
        return decoded.reshape(len(boxes), deltas.shape[1] // 4, 4)


def box_losses(
    logits: Tensor, deltas: Tensor, labels: Tensor, offsets: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Losses of a box stage.

    Args:
        logits: (N, K + 1), background first.
        deltas: (N, 4) or (N, 4 K + 4).
        labels: (N,) int64, 0 is background.
        offsets: (N, 4), those that lead to the objects.
        beta: where the loss of boxes turns from L2 to L1; 0 is L1 throughout.

    Returns:
        Cross entropy; box loss over the boxes on objects, divided by the number of all.

    Source: Girshick, ICCV 2015 (arXiv:1504.08083), eq. 1-3.
    """
    if not len(labels):
        return logits.sum() * 0, deltas.sum() * 0
    positive = torch.where(labels > 0)[0]
    by_category = deltas.reshape(len(deltas), -1, 4)
    column = labels[positive] if by_category.shape[1] > 1 else torch.zeros_like(positive)
    box_loss = functional.smooth_l1_loss(
        by_category[positive, column], offsets[positive], beta=beta, reduction="sum"
    )
    return functional.cross_entropy(logits, labels), box_loss / len(labels)
