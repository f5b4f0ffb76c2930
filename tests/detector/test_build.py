"""What detectors do with images: losses in training, instances in evaluation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bpr.detector import mask_branch
from bpr.detector.build import Detector, build_detector, set_inference
from bpr.detector.detections import Detections
from bpr.detector.presets import DETECTRON2, MMDETECTION, PRESETS, Conventions
from tests.detector.conftest import scene, tiny, tiny_detector

SYSTEMS: dict[str, dict[str, Any]] = {
    "mask": {},
    "bmask": {"mask_branch": "bmask", "train_on_predicted_boxes": True},
    "cascade_bmask": {"mask_branch": "bmask", "cascade": True},
    "refinemask": {"mask_branch": "refinemask", "box_loss_weight": 2.0},
    "simple_refinemask": {"mask_branch": "simple_refinemask", "agnostic_last_stage": True},
}
RPN = {"loss_objectness", "loss_rpn_box_reg"}
BOXES = {"loss_classifier", "loss_box_reg"}
CASCADE = {f"{name}_{stage}" for name in BOXES for stage in (1, 2, 3)}
LOSSES = {
    "mask": RPN | BOXES | {"loss_mask"},
    "bmask": RPN | BOXES | {"loss_mask", "loss_boundary"},
    "cascade_bmask": RPN | CASCADE | {"loss_mask", "loss_boundary"},
    "refinemask": RPN | BOXES | {"loss_instance", "loss_semantic"},
    "simple_refinemask": RPN | BOXES | {"loss_instance"},
}


def nothing(size: tuple[int, int]) -> dict[str, Tensor]:
    """The target of an image without objects."""
    return {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, *size, dtype=torch.uint8),
    }


def detect(model: Detector, images: list[Tensor]) -> list[Detections]:
    with torch.no_grad():
        found: list[Detections] = model.eval()(images)
    return found


@pytest.mark.parametrize("system", SYSTEMS)
def test_training_gives_the_losses_of_the_paper_and_reaches_every_weight(system: str) -> None:
    model = tiny_detector(**SYSTEMS[system])
    image, target = scene()
    torch.manual_seed(0)
    losses = model([image, image[:, :60, :90]], [target, nothing((60, 90))])
    assert set(losses) == LOSSES[system]
    assert all(bool(loss.isfinite()) and loss.ndim == 0 for loss in losses.values())
    sum(losses.values()).backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert without == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_images_without_objects_have_losses_too(system: str) -> None:
    model = tiny_detector(**SYSTEMS[system])
    losses = model([torch.rand(3, 60, 90)], [nothing((60, 90))])
    assert set(losses) == LOSSES[system]
    assert all(bool(loss.isfinite()) for loss in losses.values())
    no_mask = [name for name in losses if name in ("loss_mask", "loss_boundary", "loss_instance")]
    assert no_mask
    assert all(losses[name].item() == 0 for name in no_mask)
    sum(losses.values()).backward()


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_few_steps_learn_a_scene(system: str) -> None:
    model = tiny_detector(**SYSTEMS[system])
    image, target = scene()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    torch.manual_seed(0)
    totals = []
    for _ in range(12):
        loss = sum(model([image], [target]).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        totals.append(loss.item())
    assert sum(totals[-3:]) < 0.75 * sum(totals[:3])


def test_masks_learn_in_predicted_boxes_where_the_configuration_says_so() -> None:
    """With boxes pushed far off, the targets of masks are empty, and nothing else changes."""
    image, target = scene()
    areas = {}
    for predicted in (False, True):
        model = tiny_detector(mask_branch="bmask", train_on_predicted_boxes=predicted)
        with torch.no_grad():
            model.roi_heads.box_stages[0].predictor.bbox_pred.bias.fill_(50.0)
        seen: list[Tensor] = []
        model.roi_heads.mask_branch.boundary_pool.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(inputs[1])
        )
        torch.manual_seed(0)
        model([image], [target])
        areas[predicted] = (seen[0][:, 3] - seen[0][:, 1]).mean().item()
    assert areas[True] > 3 * areas[False]


@pytest.mark.parametrize("system", SYSTEMS)
def test_instances_lie_in_the_image_best_first(system: str) -> None:
    model = tiny_detector(**SYSTEMS[system])
    sizes = [(80, 120), (131, 64)]
    for found, size in zip(detect(model, [torch.rand(3, *s) for s in sizes]), sizes, strict=True):
        assert found.size == size
        assert 0 < len(found) <= 100
        x0, y0, x1, y1 = found.boxes.unbind(1)
        assert bool((x0 >= 0).all() & (x0 < x1).all() & (x1 <= size[1]).all())
        assert bool((y0 >= 0).all() & (y0 < y1).all() & (y1 <= size[0]).all())
        assert found.labels.min() >= 1
        assert found.labels.max() <= 3
        assert bool((found.scores[:-1] >= found.scores[1:]).all())
        side = 112 if "refinemask" in system else 28
        assert found.mask_probabilities.shape == (len(found), side, side)
        for mask, ((left, top, right, bottom), bitmap) in zip(
            found.masks(), found.windows(), strict=True
        ):
            assert mask.shape == size
            assert bitmap.shape == (bottom - top, right - left)
            assert int(mask.sum()) == int(bitmap.sum())


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_image_gives_the_same_instances_alone_and_in_a_batch(system: str) -> None:
    model = tiny_detector(**SYSTEMS[system])
    images = [torch.rand(3, 96, 128), torch.rand(3, 96, 100)]
    together = detect(model, images)
    for image, found in zip(images, together, strict=True):
        (alone,) = detect(model, [image])
        torch.testing.assert_close(found.scores[:5], alone.scores[:5], rtol=1e-3, atol=1e-4)


def test_an_image_in_which_nothing_is_found_gives_nothing() -> None:
    for system in SYSTEMS.values():
        model = tiny_detector(**system)
        set_inference(model, score=1.0)
        (found,) = detect(model, [torch.rand(3, 60, 80)])
        assert len(found) == 0
        assert list(found.masks()) == []
        assert found.boxes.shape == (0, 4)
        assert found.mask_probabilities.shape[0] == 0


def test_the_semantic_head_sees_each_image_once() -> None:
    model = tiny_detector(mask_branch="refinemask")
    set_inference(model, score=0.0, detections=3 * mask_branch.BATCH)
    counts = {"semantic": 0, "instances": 0}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            counts[name] += 1

        return hook

    head = model.roi_heads.mask_branch.head
    head.semantic_logits.register_forward_hook(count("semantic"))
    head.stages[1].semantic_transform_in.register_forward_hook(count("semantic"))
    head.final_instance_logits.register_forward_hook(count("instances"))
    (found,) = detect(model, [torch.rand(3, 96, 128)])
    assert len(found) == 3 * mask_branch.BATCH
    assert counts == {"semantic": 2, "instances": 3}  # one call of each of two layers


@pytest.mark.parametrize("system", SYSTEMS)
def test_masks_are_drawn_a_batch_at_a_time(system: str) -> None:
    """No layer of the mask branch ever sees more instances, so memory does not grow with them."""
    model = tiny_detector(**SYSTEMS[system])
    branch = model.roi_heads.mask_branch.eval()
    features = {str(level): torch.rand(1, 32, 32 >> level, 40 >> level) for level in range(4)}
    features["pool"] = torch.rand(1, 32, 2, 3)
    corners = torch.rand(5 * mask_branch.BATCH + 3, 2) * 60
    boxes = torch.cat([corners, corners + 20 + corners.flip(1)], dim=1)
    labels = torch.ones(len(boxes), dtype=torch.int64)
    most = 0

    def watch(_: Any, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal most
        if isinstance(output, Tensor):
            most = max(most, len(output))

    for module in branch.modules():
        module.register_forward_hook(watch)
    with torch.no_grad():
        (all_at_once,) = branch.predict(features, [boxes], [labels])
        assert most == mask_branch.BATCH
        (some,) = branch.predict(features, [boxes[40:50]], [labels[40:50]])
    torch.testing.assert_close(all_at_once[40:50], some, rtol=0, atol=1e-5)


def test_settings_of_inference_hold() -> None:
    model = tiny_detector()
    image = torch.rand(3, 96, 128)
    set_inference(model, score=0.0, detections=1000)
    (many,) = detect(model, [image])
    median = many.scores.median().item()
    set_inference(model, score=median)
    (better,) = detect(model, [image])
    assert 0 < len(better) < len(many)
    assert better.scores.min() > median
    set_inference(model, detections=7)
    assert len(detect(model, [image])[0]) == 7
    set_inference(model, score=0.0, nms_iou=0.05, detections=1000)
    assert len(detect(model, [image])[0]) < len(many)
    seen: list[Any] = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    set_inference(model, test_size=64, max_size=64)
    detect(model, [image])
    assert seen == [(1, 3, 64, 64)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("score", 1.5), ("nms_iou", -0.1), ("detections", 0), ("test_size", 0), ("max_size", -1)],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    settings: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"{name}: expected .*, got {value}"):
        set_inference(tiny_detector(), **settings)


def test_frozen_stages_take_no_gradients_and_affine_norms_do() -> None:
    with torch.device("meta"):
        refinemask = build_detector(PRESETS["refinemask_r50_1x"], 80)
        plain = build_detector(PRESETS["mask_rcnn_R_50_FPN_1x"], 80)
    learned = {name for name, weight in refinemask.named_parameters() if weight.requires_grad}
    assert not [n for n in learned if n.startswith(("backbone.body.conv1", "backbone.body.layer1"))]
    assert {"backbone.body.layer2.0.bn1.weight", "backbone.body.layer4.2.bn3.bias"} <= learned
    assert not [name for name, _ in plain.named_parameters() if ".bn" in name]


def test_presets_have_the_published_schedules() -> None:
    bmask = PRESETS["bmask_rcnn_R_50_FPN_1x"]
    assert bmask.schedule.steps == 90_000
    assert bmask.schedule.drops == (60_000, 80_000)
    assert tuple(bmask.train_sizes) == (800,)
    assert bmask.train_on_predicted_boxes
    cascade = PRESETS["cascade_bmask_rcnn_R_101_FPN_1x"]
    assert not cascade.train_on_predicted_boxes
    assert cascade.train_proposals == 2000
    city = PRESETS["bmask_rcnn_R_50_FPN_cityscapes"]
    assert (city.test_size, city.max_size, city.schedule.learning_rate) == (1024, 2048, 0.01)
    refine = PRESETS["refinemask_r50_cityscapes"]
    assert refine.box_loss_weight == 2.0
    assert refine.schedule.clip_norm == 35.0
    assert (min(refine.train_sizes), max(refine.train_sizes)) == (800, 1024)


@pytest.mark.parametrize("library", ["detectron2", "mmdetection", "torchvision"])
def test_an_image_a_thousand_times_as_long_as_wide_is_looked_at(library: Any) -> None:
    conventions = replace(PRESETS["small"].conventions, library=library)
    model = tiny_detector(max_size=160, conventions=conventions).eval()
    with torch.inference_mode():
        for size in ((1, 1000), (2000, 1), (1, 1)):
            (found,) = model([torch.rand(3, *size)])
            assert found.size == size


def test_objects_claim_boxes_where_the_configuration_says_so() -> None:
    """The objects' own boxes are among those that are matched, and claim nothing."""
    objects = torch.tensor([[0.0, 0, 100, 100], [30.0, 0, 130, 100]])
    found = torch.tensor([[20.0, 0, 120, 100], [29.0, 0, 129, 100], [300.0, 0, 400, 100]])
    labels = torch.tensor([2, 3])
    matched = {}
    for conventions in (DETECTRON2, MMDETECTION):
        heads: Any = tiny_detector(conventions=conventions).roi_heads
        chosen, names = heads.assign_targets_to_proposals(
            [torch.cat([found, objects])], [objects], [labels]
        )
        matched[conventions] = chosen[0].tolist(), names[0].tolist()
    assert matched[DETECTRON2] == ([1, 1, 0, 0, 1], [3, 3, 0, 2, 3])
    assert matched[MMDETECTION] == ([0, 1, 0, 0, 1], [2, 3, 0, 2, 3])


def test_of_two_objects_in_one_box_detectron2_teaches_the_first_alone() -> None:
    box = torch.tensor([[10.0, 10, 60, 60]])
    proposals, labels = torch.cat([box + 2, box, box]), torch.tensor([1, 2])
    matched = {}
    for conventions in (DETECTRON2, MMDETECTION):
        heads: Any = tiny_detector(conventions=conventions).roi_heads
        chosen, _ = heads.assign_targets_to_proposals(
            [proposals], [torch.cat([box, box])], [labels]
        )
        matched[conventions.library] = chosen[0].tolist()
    assert matched == {"detectron2": [0, 0, 0], "mmdetection": [1, 0, 1]}


@pytest.mark.parametrize("system", SYSTEMS)
def test_where_no_box_is_proposed_nothing_is_found(system: str) -> None:
    model = tiny_detector(**SYSTEMS[system])
    with torch.no_grad():  # every anchor is moved far out of the image
        model.rpn.head.bbox_pred.bias.copy_(torch.tensor([1e4, 1e4, 0, 0]).repeat(3))
    for found in detect(model, [torch.rand(3, 60, 90), torch.rand(3, 80, 50)]):
        assert len(found) == len(list(found.masks())) == 0


@pytest.mark.parametrize(("conventions", "divisor"), [(DETECTRON2, 256), (MMDETECTION, 2)])
def test_losses_of_proposals_are_divided_as_in_the_library(
    conventions: Conventions, divisor: int
) -> None:
    network = tiny_detector(conventions=conventions).rpn
    logits, offsets = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([[0.5] * 4] * 3)
    labels = torch.tensor([1.0, 0.0, -1.0])  # an object, nothing, neither
    objectness, boxes = network.compute_loss(logits, offsets, [labels], [torch.zeros(3, 4)])
    crosses = np.log1p(np.exp([-2.0, -1.0])).sum()
    np.testing.assert_allclose(objectness.item(), crosses / divisor, rtol=1e-5)
    np.testing.assert_allclose(boxes.item(), 4 * 0.5 / divisor, rtol=1e-5)
    ignored = network.compute_loss(logits, offsets, [-torch.ones(3)], [torch.zeros(3, 4)])
    assert [loss.item() for loss in ignored] == [0, 0]


def test_images_of_another_kind_are_refused() -> None:
    model = tiny_detector().eval()
    for image in (torch.rand(1, 60, 80), torch.zeros(3, 60, 80, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"image: expected \(3, H, W\) floats, got"):
            model([image])
    with pytest.raises(ValueError, match="categories: expected an int > 0, got 0"):
        build_detector(tiny(), 0)
