"""What draws masks in boxes: the interface, and the plain branch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from bpr.detector.backbone import make_norm
from bpr.detector.mask_targets import Positives, mask_targets
from bpr.detector.pooling import PyramidPool, indexed
from bpr.detector.presets import Preset

BATCH = 32
"""Masks drawn together in inference: memory does not grow beyond that."""

Prepared = TypeVar("Prepared")


class MaskBranch(nn.Module, ABC, Generic[Prepared]):
    """Draws masks in boxes. Labels are 1 to K here; there is no background to draw."""

    @abstractmethod
    def prepare(self, features: Mapping[str, Tensor]) -> Prepared:
        """What does not depend on boxes, once for a batch of images."""

    @abstractmethod
    def logits(self, prepared: Prepared, rois: Tensor, labels: Tensor) -> Tensor:
        """(N, 5) of `indexed` and (N,) labels -> (N, S, S) final logits."""

    @abstractmethod
    def losses(self, prepared: Prepared, positives: Positives) -> dict[str, Tensor]:
        """Losses by name. Without boxes they are 0, and still reach every weight."""

    agnostic = False  # every label has the map of the first category

    def predict(
        self, features: Mapping[str, Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> list[Tensor]:
        """Draw the masks of a batch of images, `BATCH` at a time.

        Args:
            features: of the backbone.
            boxes: for each image (N_i, 4) in pixels of the network's input.
            labels: for each image (N_i,).

        Returns:
            For each image (N_i, S, S) float32 probabilities.
        """
        counts = [len(of_image) for of_image in boxes]
        rois, wanted = indexed(boxes), self.map_labels(torch.cat(list(labels)))
        prepared = self.prepare(features)
        # without any box an empty batch still tells the size of masks
        drawn = [
            self.logits(prepared, rois[start : start + BATCH], wanted[start : start + BATCH])
            .float()
            .sigmoid()
            for start in range(0, max(len(rois), 1), BATCH)
        ]
        return list(torch.split(torch.cat(drawn), counts))

    def map_labels(self, labels: Tensor) -> Tensor:
        """Labels of categories -> those of the maps that are drawn for them, of the same shape."""
        return torch.ones_like(labels) if self.agnostic else labels


class FcnBranch(MaskBranch[Mapping[str, Tensor]]):
    """Four convolutions, one upsampling: Mask R-CNN's own.

    Source: He et al., ICCV 2017 (arXiv:1703.06870), fig. 4.
    """

    def __init__(self, preset: Preset, categories: int) -> None:
        super().__init__()
        channels = preset.channels
        norm = make_norm(preset.head_norm, preset.conventions.norm_eps)
        self.pool = PyramidPool(14, preset.conventions.library)
        self.mask_head = MaskRCNNHeads(channels, [channels] * 4, 1, norm_layer=norm)
        # torchvision has a map for the background too
        self.mask_predictor = MaskRCNNPredictor(channels, channels, categories + 1)
        init_convolution(self.mask_predictor.mask_fcn_logits, std=0.001)

    def prepare(self, features: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """There is nothing to prepare."""
        return features

    def logits(self, prepared: Mapping[str, Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """(N, 28, 28)."""
        maps: Tensor = self.mask_predictor(self.mask_head(self.pool(prepared, rois)))
        return at_label(maps, labels)

    def losses(self, prepared: Mapping[str, Tensor], positives: Positives) -> dict[str, Tensor]:
        """Cross entropy of the object's category."""
        logits = self.logits(prepared, positives.rois, positives.labels)
        (target,) = mask_targets(positives, (logits.shape[-1],))
        return {"loss_mask": mask_loss(logits, target)}


class CascadeFcnBranch(MaskBranch[Mapping[str, Tensor]]):
    """A plain branch behind each box stage; in inference their probabilities are averaged.

    Source: Cai and Vasconcelos, 2019 (arXiv:1906.09756), section 5, as mmdetection's
    `CascadeRoIHead` does it.
    """

    LOSS_WEIGHTS = (1.0, 0.5, 0.25)
    """Of the stages."""

    def __init__(self, preset: Preset, categories: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(FcnBranch(preset, categories) for _ in self.LOSS_WEIGHTS)

    def prepare(self, features: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """There is nothing to prepare."""
        return features

    def logits(self, prepared: Mapping[str, Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """(N, 28, 28) logits of the mean probability."""
        drawn = [stage.logits(prepared, rois, labels).float().sigmoid() for stage in self._stages()]
        return torch.stack(drawn).mean(dim=0).logit(eps=1e-7)

    def losses(self, prepared: Mapping[str, Tensor], positives: Positives) -> dict[str, Tensor]:
        """All stages on the same boxes."""
        return self.stage_losses(prepared, [positives] * len(self.LOSS_WEIGHTS))

    def stage_losses(
        self, prepared: Mapping[str, Tensor], positives: Sequence[Positives]
    ) -> dict[str, Tensor]:
        """Cross entropy of each stage in the boxes that its box stage learned from."""
        return {
            f"loss_mask_{number}": weight * stage.losses(prepared, of_stage)["loss_mask"]
            for number, (weight, stage, of_stage) in enumerate(
                zip(self.LOSS_WEIGHTS, self._stages(), positives, strict=True), start=1
            )
        }

    def _stages(self) -> list[FcnBranch]:
        return [cast(FcnBranch, stage) for stage in self.stages]


def init_convolution(layer: nn.Conv2d | nn.ConvTranspose2d, std: float | None = None) -> None:
    """Random weights of a standard deviation, or as large as ReLU needs (MSRA), and no bias."""
    if std is None:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    else:
        nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def at_label(maps: Tensor, labels: Tensor) -> Tensor:
    """(N, C, S, S) maps and (N,) indices -> (N, S, S) the map of each one's index."""
    return maps[torch.arange(len(maps), device=maps.device), labels]


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy of logits and {0, 1} of the same shape; 0 without any."""
    if not logits.numel():
        return logits.sum() * 0
    return functional.binary_cross_entropy_with_logits(logits.float(), target.float())
