"""Mask heads, boundaries, losses and targets against what the authors' code computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bpr.detector.bmask import BoundaryPreservingHead, boundary_loss, boundary_target
from bpr.detector.boundary_band import boundary_band
from bpr.detector.mask_branch import mask_loss
from bpr.detector.mask_targets import Positives, mask_targets
from bpr.detector.presets import PRESETS, Preset
from bpr.detector.refinemask import (
    SIDES,
    RefineMaskHead,
    instance_loss,
    merge_stages,
    semantic_target,
    stage_losses,
)
from bpr.detector.simple_refinemask import LOSS_WEIGHTS as SIMPLE_LOSS_WEIGHTS
from bpr.detector.simple_refinemask import SimpleRefineMaskHead, sample_points
from tests.detector.conftest import Arrays

REFINE_PRED = tuple(f"refine_pred{side}" for side in SIDES)


def refinemask(channels: int, agnostic_last: bool = False) -> Preset:
    """The published preset with as many channels."""
    plain = PRESETS["refinemask_r50_1x"]
    return replace(plain, channels=channels, agnostic_last_stage=agnostic_last)


def near(actual: Tensor | None, expected: Any) -> None:
    assert actual is not None
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.array(array))


def load(
    head: torch.nn.Module, recipe: Any, shapes: Mapping[str, list[int]], prefix: str
) -> torch.nn.Module:
    state = {
        name: torch.from_numpy(recipe.weight(prefix + name, tuple(shape)))
        for name, shape in shapes.items()
    }
    head.load_state_dict(state)
    return head.eval()


def bmask_head(channels: int, categories: int, recipe: Any, shapes: Any) -> torch.nn.Module:
    return load(
        BoundaryPreservingHead(channels, categories),
        recipe,
        shapes[f"bmask_head_dim{channels}_cls{categories}"],
        "roi_heads.mask_head.",
    )


def positives(rois: Tensor, labels: Tensor, objects: list[int], masks: list[Tensor]) -> Positives:
    sizes = [(mask.shape[1], mask.shape[2]) for mask in masks]
    polygons = [[()] * len(mask) for mask in masks]
    return Positives(rois, labels, torch.tensor(objects), masks, sizes, sizes[0], polygons)


def test_the_boundary_preserving_head_is_that_of_bmask(
    recipe: Any, shapes: Any, arrays: Callable[[str], Arrays]
) -> None:
    expected = arrays("bmask_head")
    small = bmask_head(16, 3, recipe, shapes)
    masks, boundaries = small(
        tensor(expected["small_mask_features"]), tensor(expected["small_boundary_features"])
    )
    near(masks, expected["small_mask_logits"])
    near(boundaries, expected["small_boundary_logits"])
    full = bmask_head(256, 8, recipe, shapes)
    masks, boundaries = full(
        torch.from_numpy(recipe.noise("bmask_full/mask_features", (2, 256, 14, 14))),
        torch.from_numpy(recipe.noise("bmask_full/boundary_features", (2, 256, 28, 28))),
    )
    near(masks, expected["full_mask_logits"])
    near(boundaries, expected["full_boundary_logits"])


def test_bmask_learns_from_the_recorded_targets_and_losses(
    recipe: Any, shapes: Any, arrays: Callable[[str], Arrays]
) -> None:
    expected = arrays("bmask_head")
    boxes, labels = tensor(expected["train_boxes"]), tensor(expected["train_classes0"])
    masks = tensor(expected["train_gt_masks"])
    rois = torch.cat([torch.zeros(2, 1), boxes], dim=1)
    (target,) = mask_targets(positives(rois, labels + 1, [0, 1], [masks]), (28,))
    assert target.to(torch.uint8).equal(tensor(expected["train_mask_target28"]))
    drawn, boundaries = bmask_head(16, 3, recipe, shapes)(
        tensor(expected["small_mask_features"]), tensor(expected["small_boundary_features"])
    )
    near(mask_loss(drawn[torch.arange(2), labels], target), expected["train_loss_mask"])
    near(
        boundary_loss(boundaries[torch.arange(2), labels], boundary_target(target)),
        expected["train_loss_boundary"],
    )


def test_the_boundary_loss_and_its_gradient_are_those_of_bmask(
    arrays: Callable[[str], Arrays],
) -> None:
    expected = arrays("boundary_ops_losses")
    target = boundary_target(tensor(expected["masks28"]))
    assert target.to(torch.uint8).equal(tensor(expected["bmask_boundary_target28"]))
    logits = tensor(expected["bmask_boundary_logits"]).requires_grad_()
    loss = boundary_loss(logits, target)
    near(loss, expected["bmask_boundary_loss"])
    near(mask_loss(logits, target), expected["bmask_boundary_bce"])
    near(loss - mask_loss(logits, target), expected["bmask_boundary_dice"])
    loss.backward()
    near(logits.grad, expected["bmask_boundary_loss_grad"])


@pytest.mark.parametrize("side", [28, 56])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_boundary_band_is_that_of_refinemask(
    side: int, width: int, arrays: Callable[[str], Arrays]
) -> None:
    expected = arrays("boundary_ops_losses")
    blocks = tensor(expected[f"refine_block{side}_w{width}"])
    band = boundary_band(tensor(expected[f"masks{side}"]).bool(), width)
    assert band.equal(blocks == 1)


def test_refinemask_merges_and_learns_as_recorded(arrays: Callable[[str], Arrays]) -> None:
    expected = arrays("boundary_ops_losses")
    logits = [tensor(expected[name]).requires_grad_() for name in REFINE_PRED]
    targets = [tensor(expected[f"refine_target{side}"]).float() for side in SIDES]
    near(merge_stages([stage.detach() for stage in logits]), expected["bar_merged112"])
    for number, loss in enumerate(stage_losses(logits, targets)):
        near(loss, expected[f"refine_loss_stage{number}_unweighted"])
    near(instance_loss(logits, targets, SIMPLE_LOSS_WEIGHTS), expected["bar_loss_simple"])
    semantic = tensor(expected["refine_semantic_logits"]).requires_grad_()
    where = mask_loss(semantic, tensor(expected["refine_semantic_target"]))
    near(where, expected["refine_loss_semantic"])
    loss = instance_loss(logits, targets)
    near(loss, expected["refine_loss_instance"])
    (loss + where).backward()
    for side, stage in zip(SIDES, logits, strict=True):
        near(stage.grad, expected[f"refine_grad_pred{side}"])
    near(semantic.grad, expected["refine_grad_semantic"])


@pytest.mark.parametrize("agnostic_last", [False, True])
def test_the_small_refinemask_head_draws_as_recorded(
    agnostic_last: bool, recipe: Any, shapes: Any, arrays: Callable[[str], Arrays]
) -> None:
    expected = arrays("refinemask_head")
    name = "refinemask_head_dim32_cls3" + ("_lastagnostic" if agnostic_last else "")
    head = load(
        RefineMaskHead(refinemask(32, agnostic_last), 3),
        recipe,
        shapes[name],
        "roi_head.mask_head.",
    )
    maps = head.prepare({"0": tensor(expected["small_p2"])})  # type: ignore[operator]
    drawn = head(
        tensor(expected["small_instance_features"]),
        maps,
        tensor(expected["rois_batch_xyxy"]),
        tensor(expected["labels0"]),
    )
    if agnostic_last:
        near(drawn[3], expected["agnostic_stage3_logits"])
        return
    near(maps.logits[:, 0], expected["small_semantic_logits"])
    for number, logits in enumerate(drawn):
        near(logits, expected[f"small_stage{number}_logits"])


def test_the_simple_refinemask_head_draws_as_recorded(
    recipe: Any, shapes: Any, arrays: Callable[[str], Arrays]
) -> None:
    expected = arrays("refinemask_head")
    head = load(
        SimpleRefineMaskHead(32, 3, agnostic_last=True),
        recipe,
        shapes["simplerefinemask_head_dim32_cls3_lastagnostic"],
        "roi_head.mask_head.",
    )
    maps = head.prepare({"0": tensor(expected["small_p2"])})  # type: ignore[operator]
    drawn = head(
        tensor(expected["small_instance_features"]),
        maps,
        tensor(expected["rois_batch_xyxy"]),
        tensor(expected["labels0"]),
    )
    for number, logits in enumerate(drawn):
        near(logits, expected[f"simple_stage{number}_logits"])


def test_points_are_read_from_the_box_of_their_own_image() -> None:
    ramp = torch.arange(8.0).expand(1, 6, 8)
    maps = torch.stack([ramp, 10 * ramp])  # the column, and ten times it
    rois = torch.tensor([[1.0, 8, 4, 24, 20], [0.0, 8, 4, 24, 20], [0.0, 100, 100, 120, 120]])
    read = sample_points(maps, rois, 2)
    columns = torch.tensor([[2.5, 4.5], [2.5, 4.5]])  # at x of 12 and 20, pixels of 4
    near(read[:, 0], torch.stack([10 * columns, columns, torch.zeros(2, 2)]))


def test_the_full_refinemask_head_draws_as_recorded(
    recipe: Any, shapes: Any, arrays: Callable[[str], Arrays]
) -> None:
    expected = arrays("refinemask_head")
    head = load(
        RefineMaskHead(refinemask(256), 8),
        recipe,
        shapes["refinemask_head_dim256_cls8"],
        "roi_head.mask_head.",
    )
    p2 = torch.from_numpy(recipe.noise("refine_full/p2", (2, 256, 16, 24)))
    maps = head.prepare({"0": p2})  # type: ignore[operator]
    near(maps.logits[:, 0], expected["full_semantic_logits"])
    drawn = head(
        torch.from_numpy(recipe.noise("refine_full/instance_features", (3, 256, 14, 14))),
        maps,
        tensor(expected["rois_batch_xyxy"]),
        tensor(expected["full_labels0"]),
    )
    for number, logits in enumerate(drawn):
        near(logits, expected[f"full_stage{number}_logits"])


def test_refinemask_has_the_recorded_targets(arrays: Callable[[str], Arrays]) -> None:
    expected = arrays("refinemask_head")
    masks = tensor(expected["target_gt_masks"])
    boxes = [tensor(expected[f"target_boxes_img{image}"]) for image in range(2)]
    rois = torch.cat([torch.tensor([[0.0], [0.0], [1.0]]), torch.cat(boxes)], dim=1)
    learned = positives(rois, torch.ones(3).long(), [0, 1, 0], [masks, masks[:1]])
    learned = learned._replace(mmdetection=True)
    for side, target in zip(SIDES, mask_targets(learned, SIDES), strict=True):
        assert target.to(torch.uint8).equal(tensor(expected[f"target{side}"]))
    semantic = semantic_target(learned, (10, 12)).to(torch.uint8)
    assert semantic.equal(tensor(expected["target_semantic_at_10x12"]))
    whole = semantic_target(learned, (40, 48)).to(torch.uint8)
    assert whole.equal(tensor(expected["target_semantic_fullres"]))
