"""Backbones take a classifier's weights and then see what the classifier sees."""

from __future__ import annotations

import pytest
import timm
import torch
from torchvision.models import resnet18
from torchvision.transforms.functional import normalize

from bpr.detector.backbone import fill_body, load_imagenet, make_backbone
from bpr.detector.presets import PRESETS, Conventions
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


@torch.inference_mode()
@pytest.mark.parametrize("std", [STD, (1 / 255,) * 3])
def test_a_resnet_sees_what_the_classifier_sees_whatever_its_preset_divides_by(std):
    torch.manual_seed(0)
    classifier = randomise(resnet18())
    preset = tiny(norm="frozen", head_norm="none", conventions=Conventions(image_std=std))
    backbone = make_backbone(preset).eval()
    fill_body(backbone, preset, classifier.state_dict())
    image = torch.rand(1, 3, 64, 64)
    found = backbone.body(normalize(image, list(MEAN), list(std)))
    x = classifier.maxpool(
        classifier.relu(classifier.bn1(classifier.conv1(normalize(image, list(MEAN), list(STD)))))
    )
    for number in range(4):
        x = getattr(classifier, f"layer{number + 1}")(x)
        torch.testing.assert_close(found[str(number)], x, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_timm_backbone_sees_what_the_classifier_sees():
    torch.manual_seed(0)
    classifier = randomise(timm.create_model("tf_efficientnet_lite0"))
    preset = PRESETS["lite"]
    backbone = make_backbone(preset)
    fill_body(backbone, preset, classifier.state_dict())
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


def test_weights_of_another_network_are_refused():
    preset = tiny(norm="frozen", head_norm="none")
    with pytest.raises(ValueError, match="expected the tensors of resnet18, no bn1"):
        fill_body(make_backbone(preset), preset, {"conv1.weight": torch.zeros(64, 3, 7, 7)})


def test_imagenet_is_refused_where_strides_lie_elsewhere():
    preset = PRESETS["bmask_rcnn_R_50_FPN_1x"]
    with pytest.raises(ValueError, match="imagenet: expected a preset whose ResNet halves in 3x3"):
        load_imagenet(torch.nn.Module(), preset)
