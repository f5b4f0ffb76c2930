"""Backbones with a feature pyramid: ResNets as the published detectors have them, and others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights, resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from bpr.detector.presets import TIMM, Preset

Norm = Callable[[int], nn.Module]

_IMAGENET_STD = (0.229, 0.224, 0.225)
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


def load_imagenet(backbone: nn.Module, preset: Preset) -> None:
    """Give a new backbone weights trained on ImageNet; they are downloaded.

    Args:
        backbone: of `make_backbone`; its pyramid stays random.
        preset: of the backbone.

    Raises:
        ValueError: there are none for this backbone, or they cannot be had.
    """
    if preset.conventions.stride_in_1x1:
        raise ValueError(
            "imagenet: expected a preset whose ResNet halves in 3x3 convolutions, as the weights "
            "do that can be downloaded (mmdetection's, torchvision's or ours)"
        )
    try:
        state = _imagenet_state(preset.backbone)
    except OSError as error:  # urllib's and the hub's are among them
        raise ValueError(f"imagenet: expected weights to download, got: {error}") from None
    fill_body(backbone, preset, state)


def fill_body(backbone: nn.Module, preset: Preset, state: Mapping[str, Tensor]) -> None:
    """Copy a classifier's weights into the body of a backbone; its last layers are left out.

    Args:
        backbone: of `make_backbone`.
        preset: of the backbone.
        state: of a classifier that sees images with ImageNet's mean and deviation, or with
            timm's for it.

    Raises:
        ValueError: a tensor of the body is not among them.
    """
    body: Any = backbone.body
    given = dict(state)
    if preset.backbone not in TIMM:
        # what the preset divides by more, the first weights are multiplied with
        scale = torch.tensor(preset.conventions.image_std) / torch.tensor(_IMAGENET_STD)
        given["conv1.weight"] = given["conv1.weight"] * scale[:, None, None]
    wanted = body.state_dict()
    counters = [key for key in wanted if key.endswith("num_batches_tracked")]
    missing = [key for key in wanted if key not in given and key not in counters]
    if missing:
        raise ValueError(f"imagenet: expected the tensors of {preset.backbone}, no {missing[0]}")
    body.load_state_dict({key: given.get(key, value) for key, value in wanted.items()})


def _imagenet_state(name: str) -> Mapping[str, Tensor]:
    if name in TIMM:
        state: Mapping[str, Tensor] = timm.create_model(TIMM[name], pretrained=True).state_dict()
        return state
    weights = get_model_weights(name).IMAGENET1K_V1
    downloaded: Mapping[str, Tensor] = weights.get_state_dict(progress=False)
    return downloaded
