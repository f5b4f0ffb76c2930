"""Backbones take a classifier's weights and then see what the classifier sees."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18, resnet50
from torchvision.transforms.functional import normalize

from bpr.detector.backbone import make_backbone
from bpr.detector.imagenet import backbone_changes, fill_body, load_backbone
from bpr.detector.presets import PRESETS, Conventions, change_preset
from tests.detector.conftest import tiny

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Batch norms with statistics, as after training."""
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return model.eval()


def stages(classifier: torch.nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """What torchvision's and timm's ResNets make of a normalised image, stage by stage."""
    x = classifier.bn1(classifier.conv1(image)).relu()
    x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
    found = []
    for number in range(4):
        x = getattr(classifier, f"layer{number + 1}")(x)
        found.append(x)
    return found


@torch.inference_mode()
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_resnet_sees_what_the_classifier_sees_whatever_its_preset(library, tmp_path):
    torch.manual_seed(0)
    classifier = randomise(
        resnet18() if library == "torchvision" else timm.create_model("resnet18")
    )
    save_file(classifier.state_dict(), tmp_path / "classifier.safetensors")
    source = str(tmp_path / "classifier.safetensors")
    before = tiny(
        norm="frozen",
        head_norm="none",
        conventions=Conventions(image_std=(1 / 255,) * 3, stride_in_1x1=False),
    )
    changes = backbone_changes(source, before)
    assert changes == {"image_std": list(STD)}
    preset = change_preset(before, changes)
    backbone = make_backbone(preset).eval()
    load_backbone(backbone, preset, source)
    image = torch.rand(1, 3, 64, 64)
    found = backbone.body(normalize(image, list(preset.conventions.image_mean), list(STD)))
    for number, expected in enumerate(stages(classifier, normalize(image, list(MEAN), list(STD)))):
        torch.testing.assert_close(found[str(number)], expected, rtol=1e-4, atol=1e-4)


def msra(classifier: torch.nn.Module) -> dict[str, np.ndarray]:
    """A ResNet-50 under the names of MSRA's R-50.pkl: BGR, no statistics."""
    blobs = {}
    names = {"downsample.0": "branch1", "downsample.1": "branch1_bn"}
    for letter, number in zip("abc", "123", strict=True):
        names[f"conv{number}"] = f"branch2{letter}"
        names[f"bn{number}"] = f"branch2{letter}_bn"
    for key, value in classifier.state_dict().items():
        if key.startswith("fc.") or "running" in key or "num_batches" in key:
            continue
        layer, ending = key.rsplit(".", 1)
        if layer in ("conv1", "bn1"):
            new = "conv1" if layer == "conv1" else "res_conv1_bn"
        else:
            stage, block, part = layer.split(".", 2)
            new = f"res{int(stage[-1]) + 1}_{block}_{names[part]}"
        suffix = {"weight": "s" if "bn" in new else "w", "bias": "b"}[ending]
        blobs[f"{new}_{suffix}"] = value.numpy()
    blobs["conv1_w"] = blobs["conv1_w"][:, ::-1]
    return blobs


@torch.inference_mode()
@pytest.mark.parametrize("layout", ["caffe2", "detectron2"])
def test_msras_resnet_sees_bgr_and_halves_in_1x1_convolutions(layout, tmp_path):
    torch.manual_seed(0)
    classifier = resnet50().eval()
    for stage in (classifier.layer2, classifier.layer3, classifier.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    blobs = msra(classifier)
    if layout == "detectron2":
        blobs = {own: value for name, value in blobs.items() for own in [in_detectron2(name)]}
    path = tmp_path / "R-50.pkl"
    content = {"blobs": blobs} if layout == "caffe2" else {"model": blobs, "__author__": "d2"}
    path.write_bytes(pickle.dumps(content))
    before = PRESETS["bmask_rcnn_R_50_FPN_1x"]
    assert backbone_changes(str(path), before) == {}
    assert backbone_changes("imagenet", before) == {
        "stride_in_1x1": False,
        "image_std": list(STD),
    }
    changed = backbone_changes(str(path), PRESETS["refinemask_r50_1x"])
    assert changed == {"stride_in_1x1": True, "image_std": [1 / 255] * 3}
    backbone = make_backbone(before).eval()
    load_backbone(backbone, before, str(path))
    image = torch.rand(1, 3, 64, 64)
    theirs = image * 255 - torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    ours = normalize(image, list(MEAN), [1 / 255] * 3)
    found = backbone.body(ours)
    for number, expected in enumerate(stages(classifier, theirs)):
        torch.testing.assert_close(found[str(number)], expected, rtol=1e-3, atol=0.05)


def in_detectron2(name: str) -> str:
    """The name that detectron2 gives a blob of caffe2."""
    name = name.replace("res_conv1_bn_", "conv1_bn_").replace("_bn_s", ".norm.weight")
    name = name.replace("_bn_b", ".norm.bias").removesuffix("_w")
    name = name if "norm" in name else f"{name}.weight"
    for old, new in {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2"}.items():
        name = name.replace(old, new)
    name = name.replace("branch2c", "conv3").replace("_", ".")
    return f"stem.{name}" if name.startswith("conv1") else name


@torch.inference_mode()
def test_a_timm_backbone_sees_what_the_classifier_sees():
    torch.manual_seed(0)
    classifier = randomise(timm.create_model("tf_efficientnet_lite0"))
    preset = PRESETS["lite"]
    backbone = make_backbone(preset)
    fill_body(backbone, preset, classifier.state_dict(), "timm")
    backbone.train()
    image = torch.rand(2, 3, 64, 96) - 0.5
    expected = classifier.forward_intermediates(
        image, indices=(1, 2, 3, 4), intermediates_only=True
    )
    for one, other in zip(backbone.body(image), expected, strict=True):
        torch.testing.assert_close(one, other)
    features = backbone(image)
    assert list(features) == ["0", "1", "2", "3", "pool"]
    sizes = [tuple(feature.shape[1:]) for feature in features.values()]
    assert sizes == [(128, 16, 24), (128, 8, 12), (128, 4, 6), (128, 2, 3), (128, 1, 2)]


def test_the_first_stages_of_a_timm_backbone_are_frozen_and_statistics_stay():
    backbone = make_backbone(PRESETS["lite"]).train()
    before = {name: value.clone() for name, value in backbone.body.named_buffers()}
    sum(feature.sum() for feature in backbone(torch.rand(1, 3, 64, 64)).values()).backward()
    for name, value in backbone.body.named_parameters():
        is_frozen = name.startswith(("conv_stem", "bn1", "blocks.0.", "blocks.1."))
        assert (value.grad is None) == is_frozen, name
    for name, value in backbone.body.named_buffers():
        assert torch.equal(value, before[name]), name


def test_weights_of_another_network_are_refused(tmp_path):
    preset = tiny(norm="frozen", head_norm="none")
    backbone = make_backbone(preset)
    state = {"conv1.weight": torch.zeros(64, 3, 7, 7), "bn1.weight": torch.zeros(64)}
    with pytest.raises(ValueError, match="file: expected the tensors of resnet18, found no bn1"):
        fill_body(backbone, preset, state, "file")
    save_file({"linear.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="expected a detector or a ResNet classifier, got neither"):
        backbone_changes(str(tmp_path / "other.safetensors"), preset)
