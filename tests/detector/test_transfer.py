"""Weights go over to detectors of other categories, by name."""

from __future__ import annotations

import pytest
import torch

from bpr.detector.build import build_detector
from bpr.detector.transfer import ClassRows, class_rows, transfer
from tests.detector.conftest import tiny

COCO = ("person", "bicycle", "car")
CITY = ("car", "rider", "person")


@pytest.mark.parametrize("branch", ["fcn", "bmask", "refinemask", "simple_refinemask"])
@pytest.mark.parametrize("cascade", [False, True])
def test_known_categories_keep_their_outputs_and_new_ones_stay_random(branch, cascade):
    preset = tiny(mask_branch=branch, cascade=cascade)
    torch.manual_seed(1)
    source, target = build_detector(preset, 3), build_detector(preset, 3)
    for value in source.state_dict().values():
        value.copy_(torch.rand_like(value.float()))
    fresh = {key: value.clone() for key, value in target.state_dict().items()}
    done = transfer(
        target, CITY, source.state_dict(), COCO, lambda number: build_detector(preset, number)
    )
    assert (done.kept, done.fresh, done.missing) == (("car", "person"), ("rider",), ())

    stage = "roi_heads.box_stages.0.predictor"
    old, new = source.state_dict(), target.state_dict()
    rows = old[f"{stage}.cls_score.weight"]
    expected = [rows[0], rows[3], fresh[f"{stage}.cls_score.weight"][2], rows[1]]
    assert torch.equal(new[f"{stage}.cls_score.weight"], torch.stack(expected))
    offsets = old[f"{stage}.bbox_pred.bias"]
    if cascade:
        assert torch.equal(new[f"{stage}.bbox_pred.bias"], offsets)
    else:
        kept = [*offsets[:4], *offsets[12:], *fresh[f"{stage}.bbox_pred.bias"][8:12], *offsets[4:8]]
        assert torch.equal(new[f"{stage}.bbox_pred.bias"], torch.stack(kept))
    outputs = class_rows(lambda number: build_detector(preset, number))
    masks = [key for key in outputs if "mask_branch" in key]
    assert masks
    for key in masks:
        first = outputs[key].background
        assert torch.equal(new[key][first], old[key][first + 2]), key
        assert torch.equal(new[key][first + 1], fresh[key][first + 1]), key
        assert torch.equal(new[key][first + 2], old[key][first]), key
    for key, value in new.items():
        if key not in outputs:
            assert torch.equal(value, old[key]), key


def test_output_layers_are_found_by_their_shapes():
    rows = class_rows(lambda number: build_detector(tiny(), number))
    stage = "roi_heads.box_stages.0.predictor"
    assert rows[f"{stage}.cls_score.weight"] == ClassRows(1, 1)
    assert rows[f"{stage}.bbox_pred.bias"] == ClassRows(4, 4)
    assert not any(key.startswith(("backbone", "rpn")) for key in rows)


def test_another_mask_branch_begins_anew_and_the_rest_is_taken_over():
    plain = build_detector(tiny(), 3)
    preset = tiny(mask_branch="bmask")
    target = build_detector(preset, 3)
    done = transfer(
        target, COCO, plain.state_dict(), COCO, lambda number: build_detector(preset, number)
    )
    assert done.missing
    assert all(key.startswith("roi_heads.mask_branch") for key in done.missing)
    key = "backbone.body.conv1.weight"
    assert torch.equal(target.state_dict()[key], plain.state_dict()[key])


def test_weights_of_something_else_are_refused():
    preset = tiny()
    with pytest.raises(ValueError, match="expected weights of a detector of this kind"):
        transfer(
            build_detector(preset, 1),
            ("object",),
            {"conv.weight": torch.zeros(3)},
            ("object",),
            lambda number: build_detector(preset, number),
        )
