"""Backbones from weights that were trained on ImageNet: MSRA's, torchvision's and timm's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn
from torchvision.models import get_model_weights

from bpr._published_weights import read_published
from bpr._weight_files import HUB_FILE
from bpr.detector.presets import TIMM, Preset

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of the RGB images in [0, 1] that torchvision's and timm's ResNets have seen."""

_PLAIN = {"stride_in_1x1": False, "image_mean": list(MEAN), "image_std": list(STD)}
_MSRA = {"stride_in_1x1": True, "image_mean": list(MEAN), "image_std": [1 / 255] * 3}
# the names of caffe2's files, then those of detectron2, one after the other
_RULES = (
    (r"^res_conv1_bn_", "conv1_bn_"),
    (r"_bn_s$", ".norm.weight"),
    (r"_bn_b$", ".norm.bias"),
    (r"_bn_rm$", ".norm.running_mean"),
    (r"_bn_riv$", ".norm.running_var"),
    (r"_w$", ".weight"),
    (r"_b$", ".bias"),
    (r"^res(\d)_(\d+)_branch1\.", r"res\1.\2.shortcut."),
    (r"^res(\d)_(\d+)_branch2a\.", r"res\1.\2.conv1."),
    (r"^res(\d)_(\d+)_branch2b\.", r"res\1.\2.conv2."),
    (r"^res(\d)_(\d+)_branch2c\.", r"res\1.\2.conv3."),
    (r"^(?:backbone\.bottom_up\.)?stem\.", ""),
    (r"^backbone\.bottom_up\.", ""),
    (r"^conv1\.norm\.", "bn1."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
)


def is_backbone(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint has a ResNet and no more of a detector."""
    names = "\n".join(tensors)
    is_stem = re.search(r"^(stem\.)?conv(1|_stem)(\.weight|_w)$", names, re.MULTILINE) is not None
    return is_stem and re.search(r"^(neck|rpn|roi|backbone\.fpn)", names, re.MULTILINE) is None


def is_backbone_file(source: str) -> bool:
    """Whether a path leads to a classifier's weights; False for anything else.

    Args:
        source: path or name of weights.

    Raises:
        ValueError: a published checkpoint cannot be read.
    """
    path = Path(source)
    if not (path.is_file() or (path / HUB_FILE).is_file()):
        return False
    return is_backbone(read_published(path).tensors)


def backbone_changes(source: str, preset: Preset) -> dict[str, Any]:
    """How a preset changes so that images look as they did to the backbone that it starts from.

    Args:
        source: "imagenet", or the path of a classifier's weights.
        preset: of the detector.

    Returns:
        Changes of `change_preset`; none where the preset sees images so already, or has its own
        backbone of timm.

    Raises:
        ValueError: the file cannot be read, or holds another network.
    """
    if preset.backbone in TIMM:
        return {}
    wanted = _PLAIN if source == "imagenet" or not _is_msra(_read(source)) else _MSRA
    now = preset.conventions
    return {
        name: value
        for name, value in wanted.items()
        if (tuple(value) if isinstance(value, list) else value) != getattr(now, name)
    }


def load_backbone(backbone: nn.Module, preset: Preset, source: str) -> None:
    """Give a new backbone weights trained on ImageNet.

    Args:
        backbone: of `make_backbone`; its pyramid stays random.
        preset: of the backbone, changed as `backbone_changes` says.
        source: "imagenet", which downloads torchvision's (timm's for `TIMM`), or the path of a
            classifier's weights: MSRA's R-50.pkl or R-101.pkl, torchvision's, timm's.

    Raises:
        ValueError: there are none for this backbone, they cannot be had, or have other tensors.
    """
    if source != "imagenet":
        fill_body(backbone, preset, own_names(_read(source)), source)
        return
    try:
        state = _downloaded(preset.backbone)
    except OSError as error:  # urllib's and the hub's are among them
        raise ValueError(
            f"imagenet: expected weights to download, got: {error}; pass the path of a "
            "classifier's weights to --start-from"
        ) from None
    fill_body(backbone, preset, state, "imagenet")


def own_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A classifier's tensors under torchvision's names, the first layer for RGB."""
    bgr = _is_msra(tensors)
    named = {}
    for name, tensor in tensors.items():
        for pattern, replacement in _RULES:
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"^res(\d)\.", lambda match: f"layer{int(match[1]) - 1}.", name)
        named[name] = tensor
    if bgr:
        named["conv1.weight"] = named["conv1.weight"].flip(1)
    return named


def fill_body(
    backbone: nn.Module, preset: Preset, state: Mapping[str, Tensor], source: str
) -> None:
    """Copy a classifier's weights into the body of a backbone; its last layers are left out.

    Batch norms without statistics have mean 0 and variance 1.

    Args:
        backbone: of `make_backbone`.
        preset: of the backbone.
        state: of `own_names`, or with timm's names for a backbone of `TIMM`.
        source: of the weights, for the message.

    Raises:
        ValueError: a tensor of the body is not among them, or has another shape.
    """
    body: Any = backbone.body
    given = dict(state)
    wanted = body.state_dict()
    for key, value in wanted.items():
        if key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            given.setdefault(key, value)  # a new norm has mean 0, variance 1
    missing = [key for key in wanted if key not in given]
    if missing:
        raise ValueError(
            f"{source}: expected the tensors of {preset.backbone}, found no {missing[0]}"
        )
    for key, value in wanted.items():
        if given[key].shape != value.shape:
            raise ValueError(
                f"{source}, {key}: expected shape {tuple(value.shape)} of {preset.backbone}, "
                f"got {tuple(given[key].shape)}"
            )
    body.load_state_dict({key: given[key].float() for key in wanted})


def _read(source: str) -> Mapping[str, Tensor]:
    tensors = read_published(Path(source)).tensors
    if not is_backbone(tensors):
        raise ValueError(f"{source}: expected a detector or a ResNet classifier, got neither")
    return tensors


def _is_msra(tensors: Mapping[str, Tensor]) -> bool:
    """Names of caffe2 or detectron2: BGR images of 0 to 255, strides in 1x1 convolutions."""
    return "conv1_w" in tensors or any("stem.conv1" in name for name in tensors)


def _downloaded(name: str) -> Mapping[str, Tensor]:
    if name in TIMM:
        state: Mapping[str, Tensor] = timm.create_model(TIMM[name], pretrained=True).state_dict()
        return state
    try:
        weights = get_model_weights(name).IMAGENET1K_V1
    except ValueError:
        raise ValueError(
            f"imagenet: expected a backbone that torchvision has, got {name}"
        ) from None
    downloaded: Mapping[str, Tensor] = weights.get_state_dict(progress=True)
    return downloaded
