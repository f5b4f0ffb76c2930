"""The ablations of RefineMask, masks for all categories, and the cascade of mmdetection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from bpr.detector.boundary_band import boundary_band, distance_band
from bpr.detector.build import build_detector, set_inference
from bpr.detector.categories import Categories
from bpr.detector.checkpoints import DetectorInfo, load_detector, save_detector
from bpr.detector.layouts import convert, recognise
from bpr.detector.mask_branch import CascadeFcnBranch
from bpr.detector.presets import PRESETS, change_preset
from bpr.detector.refinemask import Refinement, merge_stages, stage_losses
from tests.detector.conftest import scene, tiny, tiny_detector

CHANGES = [
    ({"refine_stages": 1}, 28),
    ({"refine_stages": 2}, 56),
    ({"refine_stages": 4, "channels": 64}, 224),
    ({"fusion": "conv1"}, 112),
    ({"fusion": "parallel"}, 112),
    ({"fusion": "conv3"}, 112),
    ({"semantic_head": False}, 112),
    ({"boundary_refinement": False}, 112),
    ({"band": "distance", "band_width": 1}, 112),
    ({"agnostic_masks": True}, 112),
]


@pytest.mark.parametrize(("changes", "side"), CHANGES)
def test_a_detector_without_a_part_learns_and_draws(changes, side):
    model = tiny_detector(mask_branch="refinemask", **changes)
    image, target = scene()
    losses = model([image], [target])
    assert ("loss_semantic" in losses) == changes.get("semantic_head", True)
    sum(losses.values()).backward()
    without = [
        name for name, value in model.roi_heads.mask_branch.named_parameters() if value.grad is None
    ]
    assert without == []
    set_inference(model.eval(), score=0.0, detections=3)
    with torch.no_grad():
        (found,) = model([image])
    assert found.mask_probabilities.shape[1:] == (side, side)


def test_only_the_last_mask_has_a_loss_without_multi_stage_supervision():
    model = tiny_detector(
        mask_branch="refinemask", supervised_stages="last", boundary_refinement=False
    )
    image, target = scene()
    model([image], [target])["loss_instance"].backward()
    head = model.roi_heads.mask_branch.head
    assert head.final_instance_logits.bias.grad.abs().sum() > 0
    late = [float(stage.instance_logits.bias.grad.abs().sum()) for stage in head.stages]
    everywhere = tiny_detector(mask_branch="refinemask", boundary_refinement=False)
    everywhere([image], [target])["loss_instance"].backward()
    stages = everywhere.roi_heads.mask_branch.head.stages
    all_of_them = [float(stage.instance_logits.bias.grad.abs().sum()) for stage in stages]
    assert all(one < other / 10 for one, other in zip(late, all_of_them, strict=True))


def test_masks_without_a_loss_are_not_joined():
    with pytest.raises(ValueError, match="boundary_refinement false with 'last'"):
        change_preset(PRESETS["small"], {"supervised_stages": "last"})


def test_three_parallel_convolutions_see_as_far_as_one_of_3_x_3():
    model = tiny_detector(mask_branch="refinemask", fusion="parallel")
    for stage in model.roi_heads.mask_branch.head.stages:
        (fusion,) = stage.fuse_conv
        assert [conv.kernel_size for conv in fusion.convs] == [(3, 3)] * 3
        assert [conv.dilation for conv in fusion.convs] == [(1, 1)] * 3


@pytest.mark.parametrize(("fusion", "side"), [("conv1", 1), ("conv3", 3)])
def test_one_convolution_in_the_place_of_the_fusion_module(fusion, side):
    model = tiny_detector(mask_branch="refinemask", fusion=fusion)
    for stage in model.roi_heads.mask_branch.head.stages:
        convs = [part for part in stage.fuse_conv.modules() if isinstance(part, torch.nn.Conv2d)]
        assert [conv.kernel_size for conv in convs] == [(side, side)]


@pytest.mark.parametrize("branch", ["fcn", "bmask", "refinemask", "simple_refinemask"])
def test_masks_for_all_categories_do_not_depend_on_the_category(branch):
    model = tiny_detector(mask_branch=branch, agnostic_masks=True).eval()
    image, _ = scene()
    with torch.no_grad():
        images, _ = model.transform([image])
        features = model.backbone(images.tensors)
        box = torch.tensor([[10.0, 10, 60, 50]])
        one, other = (
            model.roi_heads.mask_branch.predict(features, [box], [torch.tensor([label])])[0]
            for label in (1, 3)
        )
    assert one.equal(other)


def test_weights_remember_their_changes(tmp_path):
    changes = {"keypoints": 4, "agnostic_masks": True, "image_std": [0.2, 0.2, 0.2]}
    model = build_detector(change_preset(PRESETS["small"], changes), 2)
    info = DetectorInfo(
        preset="small", categories=Categories(("cat", "dog"), (1, 2)), changes=changes
    )
    save_detector(tmp_path / "mine.safetensors", model, info)
    again, found = load_detector(tmp_path / "mine.safetensors")
    assert found == info
    assert again.preset == model.preset
    assert again.preset.conventions.image_std == (0.2, 0.2, 0.2)


def test_without_boundary_refinement_the_last_mask_is_given_out_and_learned_whole():
    torch.manual_seed(0)
    logits = [torch.randn(2, side, side) for side in (14, 28, 56, 112)]
    targets = [(torch.rand(2, side, side) > 0.5).float() for side in (14, 28, 56, 112)]
    whole = Refinement(is_on=False)
    assert merge_stages(logits, whole).equal(logits[-1])
    for loss, drawn, target in zip(
        stage_losses(logits, targets, whole), logits, targets, strict=True
    ):
        expected = torch.nn.functional.binary_cross_entropy_with_logits(drawn, target)
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_band_of_distances_is_that_of_scipy(width):
    mask = np.zeros((28, 28), np.bool_)
    mask[5:20, 8:27] = True
    mask[12:15, 15:18] = False
    framed = np.pad(mask, 4)  # outside of the box there is background
    to_other = np.where(
        framed,
        ndimage.distance_transform_edt(framed),
        ndimage.distance_transform_edt(~framed),
    )[4:-4, 4:-4]
    found = distance_band(torch.from_numpy(mask)[None], width)[0].numpy()
    np.testing.assert_array_equal(found, to_other - 0.5 < width)
    squares = boundary_band(torch.from_numpy(mask)[None], width)[0].numpy()
    overlap = (found & squares).sum() / (found | squares).sum()
    assert overlap > 0.6, "the authors report 0.75 to 0.8"


def test_a_cascade_of_mmdetection_averages_masks_and_logits():
    preset = tiny(
        mask_branch="cascade_fcn",
        cascade=True,
        conventions=PRESETS["cascade_mask_rcnn_r50_fpn_1x_coco"].conventions,
    )
    torch.manual_seed(0)
    model = build_detector(preset, 3)
    image, target = scene()
    losses = model([image], [target])
    assert {f"loss_mask_{n}" for n in (1, 2, 3)} <= losses.keys()
    branch = model.eval().roi_heads.mask_branch
    assert isinstance(branch, CascadeFcnBranch)
    with torch.no_grad():
        features = model.backbone(model.transform([image])[0].tensors)
        rois = torch.tensor([[0.0, 10, 10, 60, 50], [0.0, 5, 8, 30, 40]])
        labels = torch.tensor([1, 2])
        each = [stage.logits(features, rois, labels).sigmoid() for stage in branch.stages]
        mean = branch.logits(features, rois, labels).sigmoid()
        torch.testing.assert_close(mean, torch.stack(each).mean(dim=0), rtol=0, atol=1e-6)
        proposals = [rois[:, 1:]]
        _, probability = model.roi_heads.judge(features, proposals, [(96, 96)])
    torch.testing.assert_close(probability.sum(dim=1), torch.ones(2))


def test_cascades_of_mmdetection_are_recognised_and_converted():
    """The names of mmdetection 2 and 3, made from ours."""
    name = "cascade_mask_rcnn_x101_32x4d_fpn_1x_coco"
    with torch.device("meta"):
        wanted = build_detector(PRESETS[name], 3).state_dict()
    tensors = {}
    for key, value in wanted.items():
        theirs = key.replace("backbone.body.", "backbone.").replace("rpn.head.", "rpn_head.")
        theirs = theirs.replace("conv.0.0.", "rpn_conv.").replace("cls_logits", "rpn_cls")
        theirs = theirs.replace("rpn_head.bbox_pred", "rpn_head.rpn_reg")
        theirs = theirs.replace("backbone.fpn.inner_blocks.", "neck.lateral_convs.")
        theirs = theirs.replace("backbone.fpn.layer_blocks.", "neck.fpn_convs.")
        if theirs.startswith("neck."):
            theirs = theirs.replace(".0.weight", ".conv.weight").replace(".0.bias", ".conv.bias")
        theirs = theirs.replace("roi_heads.box_stages.", "roi_head.bbox_head.")
        theirs = theirs.replace("head.fc6", "shared_fcs.0").replace("head.fc7", "shared_fcs.1")
        theirs = theirs.replace("predictor.cls_score", "fc_cls").replace(
            "predictor.bbox_pred", "fc_reg"
        )
        theirs = theirs.replace("roi_heads.mask_branch.stages.", "roi_head.mask_head.")
        for number in range(4):
            theirs = theirs.replace(f"mask_head.{number}.0.", f"convs.{number}.conv.")
        theirs = theirs.replace("mask_predictor.conv5_mask", "upsample")
        theirs = theirs.replace("mask_predictor.mask_fcn_logits", "conv_logits")
        if "conv_logits" in theirs:
            value = value[1:]
        tensors[theirs] = torch.zeros_like(value, device="cpu")
    assert recognise(tensors, "mmdetection") == name
    converted = convert(tensors, "mmdetection")
    assert not converted.unknown
    assert {k: v.shape for k, v in converted.tensors.items()} == {
        k: v.shape for k, v in wanted.items()
    }
