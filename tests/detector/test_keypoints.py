"""Keypoints: torchvision's own model gives the same points; a handful of people is learned."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.detection import keypointrcnn_resnet50_fpn

from bpr.detector.build import build_detector, set_inference
from bpr.detector.keypoint_head import KeypointHead
from bpr.detector.layouts import convert
from bpr.detector.presets import PRESETS
from bpr.detector.schedule import Schedule
from bpr.detector.training import DetectorTrainer
from bpr.detector.views import detect_views
from tests.detector.conftest import scene, tiny, tiny_detector
from tests.detector.test_torchvision import lively


def test_the_points_are_those_of_torchvisions_model_with_the_same_weights() -> None:
    sides = {"min_size": 96, "max_size": 160, "box_detections_per_img": 6}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        theirs = lively(
            keypointrcnn_resnet50_fpn(
                weights=None, weights_backbone=None, num_classes=2, num_keypoints=17, **sides
            ),
            2,
        )
        image = torch.rand(3, 70, 90)
    ours = build_detector(replace(PRESETS["maskrcnn_resnet50_fpn"], keypoints=17), 1).eval()
    converted = convert(theirs.state_dict(), "torchvision")
    lacking = ours.load_state_dict(converted.tensors, strict=False)
    assert not lacking.unexpected_keys
    assert {name.split(".")[1] for name in lacking.missing_keys} == {"mask_branch"}
    set_inference(ours, test_size=96, max_size=160, detections=6)
    with torch.no_grad():
        (expected,), (found,) = theirs([image]), ours([image])
    assert len(found) == 6
    torch.testing.assert_close(found.boxes, expected["boxes"], rtol=0, atol=1e-3)
    assert found.keypoints is not None
    torch.testing.assert_close(
        found.keypoints[..., :2], expected["keypoints"][..., :2], rtol=0, atol=1e-3
    )
    torch.testing.assert_close(
        found.keypoints[..., 2], expected["keypoints_scores"], rtol=1e-4, atol=1e-4
    )


def test_the_head_has_eight_layers_of_512_and_maps_of_56() -> None:
    head = KeypointHead(tiny(keypoints=5))
    widths = [layer.out_channels for layer in head.head if isinstance(layer, nn.Conv2d)]
    assert widths == [512] * 8
    features = {str(n): torch.zeros(1, 32, 32 >> n, 32 >> n) for n in range(4)}
    maps = head(features, torch.tensor([[0.0, 1, 2, 30, 40]]))
    assert maps.shape == (1, 5, 56, 56)


POINTS = torch.tensor(
    [
        [[25.0, 15.0, 2.0], [55.0, 35.0, 2.0], [0.0, 0.0, 0.0]],
        [[75.0, 50.0, 2.0], [105.0, 65.0, 1.0], [90.0, 57.0, 2.0]],
    ]
)


def people() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    image, target = scene()
    pixels = (image * 255).to(torch.uint8)
    return [pixels, pixels], [{**target, "keypoints": POINTS}] * 2


def test_points_without_a_label_cost_nothing_and_no_object_is_no_loss() -> None:
    model = tiny_detector(keypoints=3)
    images, targets = people()
    pixels = [image / 255 for image in images]
    torch.manual_seed(0)
    known = model(pixels, targets)["loss_keypoint"]
    assert known > 1
    hidden = [{**t, "keypoints": torch.zeros_like(POINTS)} for t in targets]
    assert model(pixels, hidden)["loss_keypoint"] == 0


def test_views_take_the_points_of_the_first() -> None:
    model = tiny_detector(keypoints=3).eval()
    set_inference(model, score=0.0, detections=4)
    image, _ = scene()
    with torch.no_grad():
        found = detect_views(model, image, (96,), flip=True)
    assert found.keypoints is not None
    assert found.keypoints.shape == (len(found), 3, 3)


@pytest.mark.slow
def test_a_handful_of_people_is_learned_by_heart(tmp_path: Path) -> None:
    model = tiny_detector(keypoints=3, train_samples=16)  # the head of 8 x 512 sees few boxes
    schedule = Schedule(
        steps=150,
        batch_size=1,
        learning_rate=0.01,
        drops=(120,),
        warmup_steps=20,
        clip_norm=10,
        log_every=50,
    )

    def batches():
        images, targets = people()
        yield from ((images[:1], targets[:1]) for _ in count())

    DetectorTrainer(model, schedule, tmp_path, {}).run(batches())
    model.eval()
    image, target = scene()
    with torch.no_grad():
        (found,) = model([image])
    for box, points in zip(target["boxes"], POINTS, strict=True):
        best = ((found.boxes - box).abs().sum(dim=1)).argmin()
        labelled = points[:, 2] > 0
        distance = (found.keypoints[best, labelled, :2] - points[labelled, :2]).norm(dim=-1)
        assert distance.max() < 3
