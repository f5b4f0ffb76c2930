"""What checkpoints are that bpr cannot run, and what mmdetection's configurations state."""

from __future__ import annotations

import pytest
import timm
import torch
from torchvision.models import detection, resnet18

from bpr.detector.checkpoints import import_detector
from bpr.detector.presets import PRESETS, change_preset
from bpr.detector.recognition import describe
from bpr.detector.stated_config import read_config, stated_changes, unlike_strides


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (detection.fasterrcnn_mobilenet_v3_large_fpn, "no mask branch: it is a Faster R-CNN"),
        (detection.retinanet_resnet50_fpn, "a RetinaNet"),
        (detection.keypointrcnn_resnet50_fpn, "a Keypoint R-CNN without a mask branch"),
    ],
)
def test_torchvisions_other_detectors_are_named(make, words, tmp_path):
    with torch.device("meta"):
        model = make(weights=None, weights_backbone=None)
    names = list(model.state_dict())
    assert describe(names).startswith(words)
    path = tmp_path / "model.pth"
    torch.save({name: torch.zeros(1) for name in names}, path)
    with pytest.raises(ValueError, match=f"expected Mask R-CNN, .*, got {words}") as error:
        import_detector(path)
    assert "roi_heads.box_stages" not in str(error.value)
    assert "num_batches_tracked" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["backbone.bottom_up.a", "roi_heads.box_predictor.2.cls_score.bias"], "a Cascade R-CNN"),
        (["bbox_head.retina_cls.weight"], "a RetinaNet"),
        (["bbox_head.conv_cls.weight"], "a single-stage detector"),
        (["backbone.res4.0.conv1.weight"], "without a feature pyramid"),
        (["sem_seg_head.predictor.query_feat.weight"], "Mask2Former"),
        (["transformer.encoder.weight", "class_embed.weight"], "a DETR"),
        (["0.conv.weight", "22.cv2.0.0.conv.weight"], "a YOLO"),
        (["roi_heads.mask_head.point_head.fc1.weight"], "a PointRend"),
        (["backbone.layer3.0.conv2_offset.weight"], "deformable convolutions"),
        (["something.weight"], "none of these"),
    ],
)
def test_other_networks_are_named_by_their_tensors(names, words):
    assert words in describe(names)


def test_a_classifier_is_named_with_what_it_is_good_for():
    for model in (resnet18(), timm.create_model("resnet18")):
        assert "--start-from" in describe(model.state_dict())


V2 = """
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
model = dict(type='MaskRCNN', backbone=dict(type='ResNet', depth=50, style='caffe'),
    rpn_head=dict(anchor_generator=dict(strides=[4, 8, 16, 32, 64])))
"""
V3 = """
default_scope = 'mmdet'
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    backbone=dict(style='pytorch'))
evil = __import__('os').system('true')
"""


def test_mmdetections_configuration_states_colours_and_strides():
    two, three = read_config(V2), read_config(V3)
    assert (two.style, two.rgb, two.strides) == ("caffe", False, (4, 8, 16, 32, 64))
    changes = stated_changes(two)
    assert changes["stride_in_1x1"] is True
    assert changes["image_mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert changes["image_std"] == pytest.approx([1 / 255] * 3)
    plain = PRESETS["mask_rcnn_r50_fpn_1x_coco"].conventions
    changes = stated_changes(three)
    assert changes["image_mean"] == pytest.approx(plain.image_mean)
    assert changes["image_std"] == pytest.approx(plain.image_std)
    assert changes["stride_in_1x1"] is plain.stride_in_1x1


def test_a_configuration_may_state_them_in_a_pipeline_or_not_at_all():
    norm = "dict(type='Normalize', mean=[1, 2, 3], std=[1, 1, 1])"
    text = f"train_pipeline = [dict(type='Load'), {norm}]"
    assert read_config(text).mean == (1.0, 2.0, 3.0)
    for text in ("", "model = dict(", "model = 5", "x = [1]"):
        assert stated_changes(read_config(text)) == {}
    strides = "model = dict(rpn_head=dict(anchor_generator=dict(strides=[8, 16])))"
    assert "expected anchors at strides" in unlike_strides(read_config(strides))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 3}, "change: expected one of agnostic_masks, .*got 'steps'"),
        ({"refine_stages": 5}, "refine_stages: expected one of 1, 2, 3, 4, got 5"),
        ({"agnostic_masks": 1}, "agnostic_masks: expected one of True, False, got 1"),
        ({"image_std": [1, 2]}, "image_std: expected three numbers"),
        ({"keypoints": -1}, "keypoints: expected an int >= 0, got -1"),
    ],
)
def test_a_change_out_of_range_is_a_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        change_preset(PRESETS["small"], changes)
