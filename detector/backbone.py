"""ResNets and ResNeXts with a feature pyramid, as the published detectors have them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d

from detector.presets import Preset

Norm = Callable[[int], nn.Module]

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
        body = getattr(resnet, preset.backbone)(
            norm_layer=make_norm(preset.norm, conventions.norm_eps)
        )
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
