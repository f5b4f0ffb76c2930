"""The patch network: HRNet with a 4-channel stem and a fully convolutional head.

Source: Tang et al., CVPR 2021 (arXiv:2104.05239); HRNetV2 from timm (Wang et al.,
arXiv:1908.07919). Layers and sizes are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from bpr.refiner.model_config import ARCHITECTURES, CHANNELS

# R, G, B of ImageNet on a 0..255 scale; the coarse mask 0/1 becomes -1/+1
MEAN = (123.675, 116.28, 103.53, 0.5)
STD = (58.395, 57.12, 57.375, 0.5)


PAPER_ARCHITECTURES = tuple(name for name in ARCHITECTURES if name not in CHANNELS)
"""Those that this file builds."""


class PatchNetwork(nn.Module):
    """Labels the pixels of boundary patches as background (0) or object (1).

    Weights start as the reference starts them without ImageNet weights: Kaiming normal
    (fan out) convolutions, PyTorch's default for the mask's part of the stem, batch norm
    1 / 0, classifier normal(0, 0.01) with bias 0.

    Args:
        architecture: one of PAPER_ARCHITECTURES.

    Raises:
        ValueError: the architecture is unknown.
    """

    def __init__(self, architecture: str) -> None:
        super().__init__()
        if architecture not in PAPER_ARCHITECTURES:
            raise ValueError(
                f"architecture: expected one of {', '.join(PAPER_ARCHITECTURES)}, "
                f"got {architecture!r}"
            )
        self.architecture = architecture
        self.channels = 4  # of the patches
        # feature_location="" leaves out timm's classification layers
        backbone: Any = timm.create_model(
            ARCHITECTURES[architecture],
            in_chans=4,
            features_only=True,
            feature_location="",
            out_indices=(1, 2, 3, 4),
        )
        for module in backbone.modules():
            if isinstance(module, nn.Upsample):
                # timm repeats pixels where the published weights were trained to interpolate
                module.mode, module.align_corners = "bilinear", False
        _initialise_mask_channel(backbone.conv1.weight)
        self.backbone: nn.Module = backbone
        self.head = _Head(sum(backbone.feature_info.channels()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Predict logits at a quarter of the patch's resolution.

        Args:
            inputs: (N, 4, S, S) float from `normalise`, S a multiple of 32.

        Returns:
            (N, 2, S / 4, S / 4) logits of background and object, in the type of `inputs`
            (or of autocast).
        """
        logits: Tensor = self.head(self.backbone(inputs))
        return logits

    def object_logits(self, patches: Tensor) -> Tensor:
        """(N, S, S, 4) uint8 as for `normalise` -> (N, S, S) object minus background logit."""
        return self.logits_from(normalise(patches))

    def logits_from(self, inputs: Tensor) -> Tensor:
        """(N, 4, S, S) from `normalise` -> (N, S, S) float32 object minus background logit."""
        logits = self(inputs).float()
        return upsample(logits[:, 1:] - logits[:, :1])[:, 0]


def imagenet_network(architecture: str) -> PatchNetwork:
    """A network whose backbone starts from timm's ImageNet weights; downloads them.

    The stem's mask channel and the head start as in every new network.

    Raises:
        ValueError: the architecture is unknown, or the weights cannot be had.
    """
    network = PatchNetwork(architecture)
    try:
        pretrained: Any = timm.create_model(
            ARCHITECTURES[architecture],
            pretrained=True,
            features_only=True,
            feature_location="",
            out_indices=(1, 2, 3, 4),
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"ImageNet weights of {ARCHITECTURES[architecture]}: expected to download them, got "
            f"{type(error).__name__}; start from the shipped weights instead, or from random ones"
        ) from error
    copy_backbone(network, pretrained.state_dict())
    return network


def copy_backbone(network: PatchNetwork, state: Mapping[str, Tensor]) -> None:
    """Start a network's backbone from that of one without the mask's channel.

    Args:
        network: changed in place.
        state: of a timm HRNet of three channels without classification layers.
    """
    with torch.no_grad():
        stem = network.backbone.get_parameter("conv1.weight")
        colours, mask = state["conv1.weight"], stem[:, 3:].clone()
    network.backbone.load_state_dict({**state, "conv1.weight": torch.cat([colours, mask], dim=1)})


class _Head(nn.Module):
    """All branches at stride 4, concatenated, mixed by 1 x 1 convolutions into two logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.classifier = nn.Conv2d(width, 2, 1)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.get_parameter("bias"))

    def forward(self, branches: list[Tensor]) -> Tensor:
        finest = branches[0]
        resized = [finest]
        for level, branch in enumerate(branches[1:], start=1):
            resized.append(_enlarge(branch, 2**level))
        hidden = functional.relu(self.bn(self.conv(torch.cat(resized, dim=1))))
        logits: Tensor = self.classifier(hidden)
        return logits


def _initialise_mask_channel(stem: Tensor) -> None:
    """Start the mask's channel as the reference's convolution of its own: PyTorch's default.

    Args:
        stem: (64, 4, 3, 3) weights of the first convolution, changed in place.
    """
    with torch.no_grad():
        mask = torch.empty_like(stem[:, 3:])
        nn.init.kaiming_uniform_(mask, a=5**0.5)
        stem[:, 3:] = mask


def _enlarge(maps: Tensor, factor: int) -> Tensor:
    return functional.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)


def normalise(patches: Tensor) -> Tensor:
    """Turn patches into the network's input.

    Args:
        patches: (N, S, S, 4) uint8: R, G, B in 0..255 and the coarse mask as 0 or 1.

    Returns:
        (N, 4, S, S) float32 in channels-last memory: (colour - mean) / std of ImageNet, and
        -1 or +1 for the mask.
    """
    mean = torch.tensor(MEAN, device=patches.device)
    std = torch.tensor(STD, device=patches.device)
    # dividing gives the recorded inputs bit for bit; multiplying by 1 / std does not
    return ((patches.float() - mean) / std).permute(0, 3, 1, 2)


def upsample(logits: Tensor) -> Tensor:
    """Bring logits from stride 4 to the resolution of the patch.

    Args:
        logits: (N, C, S / 4, S / 4).

    Returns:
        (N, C, S, S), bilinear with half-pixel centres.
    """
    return _enlarge(logits, 4)


def object_logits(network: nn.Module, patches: Tensor) -> Tensor:
    """Predict how much more likely object than background each pixel is.

    Each kind of network has a method of this name, which this calls.

    The sigmoid of the result is the softmax probability of the object. Resizing is linear, so
    resizing this difference gives what resizing both logits gives.

    Args:
        network: a PatchNetwork or a PatchUNet, or a copy with folded batch norms.
        patches: (N, S, S, C) uint8 with the network's channels, S a multiple of 32.

    Returns:
        (N, S, S) object minus background logit.
    """
    method: Any = network.object_logits
    logits: Tensor = method(patches)
    return logits
