"""Backbones with a feature pyramid: ResNets as the published detectors have them, and others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from bpr.detector.presets import RESNEXT, TIMM, Preset

Norm = Callable[[int], nn.Module]

_TIMM_STAGES = (
    ("conv_stem", "bn1", "blocks.0"),
    ("blocks.1",),
    ("blocks.2",),
    ("blocks.3", "blocks.4"),
    ("blocks.5", "blocks.6"),
)
_STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))


class AffineBatchNorm2d(FrozenBatchNorm2d):
    """Batch norm with frozen statistics, whose scale and shift are trained."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps)
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            delattr(self, name)  # a buffer
            self.register_parameter(name, nn.Parameter(torch.full((num_features,), value)))


def make_norm(kind: str, eps: float) -> Norm | None:
    """The layer that a kind of norm in `Preset` stands for; None for "none"."""
    norms: dict[str, Norm | None] = {
        "none": None,
        "frozen": partial(FrozenBatchNorm2d, eps=eps),
        "affine": partial(AffineBatchNorm2d, eps=eps),
        "group": partial(nn.GroupNorm, 32),
    }
    return norms[kind]


class PyramidBackbone(BackboneWithFPN):
    """(N, 3, H, W) normalised images -> features "0" to "3" and "pool" (P2 to P6).

    What the preset freezes takes no gradients.
    """

    def __init__(self, preset: Preset) -> None:
        conventions = preset.conventions
        body = _resnet(preset.backbone, make_norm(preset.norm, conventions.norm_eps))
        if conventions.stride_in_1x1:
            for stage in (body.layer2, body.layer3, body.layer4):
                stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
        for names in _STAGES[: preset.frozen_stages]:
            for name in names:
                getattr(body, name).requires_grad_(False)
        last = body.inplanes
        super().__init__(
            body,
            {f"layer{number + 1}": str(number) for number in range(4)},
            [last // 8, last // 4, last // 2, last],
            preset.channels,
            norm_layer=make_norm(preset.head_norm, conventions.norm_eps),
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """As the class says."""
        features: dict[str, Tensor] = super().forward(x)
        return features


def _resnet(name: str, norm: Norm | None) -> Any:
    if name not in RESNEXT:
        return getattr(resnet, name)(norm_layer=norm)
    blocks, groups, width = RESNEXT[name]
    return resnet.ResNet(
        resnet.Bottleneck, list(blocks), groups=groups, width_per_group=width, norm_layer=norm
    )


class TimmPyramid(nn.Module):
    """The same around a backbone of timm, whose batch norms keep their statistics.

    Args:
        preset: names a backbone of `TIMM`; the norm must be "affine".
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        if preset.norm != "affine":
            raise ValueError(f"{preset.backbone}: expected norm 'affine', got {preset.norm!r}")
        self.out_channels = preset.channels
        body: Any = timm.create_model(
            TIMM[preset.backbone], features_only=True, out_indices=(1, 2, 3, 4)
        )
        for names in _TIMM_STAGES[: preset.frozen_stages]:
            for name in names:
                body.get_submodule(name).requires_grad_(False)
        self.body = body
        self.fpn = FeaturePyramidNetwork(
            body.feature_info.channels(),
            preset.channels,
            LastLevelMaxPool(),
            make_norm(preset.head_norm, preset.conventions.norm_eps),
        )

    def train(self, mode: bool = True) -> TimmPyramid:
        """As always, but for the statistics: batches are too small to take any."""
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """As `PyramidBackbone`."""
        stages = OrderedDict((str(number), stage) for number, stage in enumerate(self.body(x)))
        features: dict[str, Tensor] = self.fpn(stages)
        return features


def make_backbone(preset: Preset) -> PyramidBackbone | TimmPyramid:
    """The backbone of a preset, with random weights."""
    return TimmPyramid(preset) if preset.backbone in TIMM else PyramidBackbone(preset)
