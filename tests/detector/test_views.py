"""An image seen several times gives one set of instances."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from bpr.detector.build import set_inference
from bpr.detector.views import detect_views
from tests.detector.conftest import scene, tiny_detector


@pytest.fixture(scope="module")
def model():
    found = tiny_detector().eval()
    set_inference(found, score=0.0, detections=20)
    return found


@torch.inference_mode()
def test_a_single_view_is_the_model_itself(model):
    image, _ = scene()
    (alone,) = model([image])
    viewed = detect_views(model, image, (), flip=False)
    assert len(viewed) > 5
    torch.testing.assert_close(viewed.boxes, alone.boxes)
    torch.testing.assert_close(viewed.scores, alone.scores)
    assert torch.equal(viewed.labels, alone.labels)
    torch.testing.assert_close(
        viewed.mask_probabilities, alone.mask_probabilities, atol=1e-4, rtol=0
    )


@torch.inference_mode()
@pytest.mark.parametrize("scales", [(), (64, 96, 128)])
def test_with_mirrored_views_a_mirrored_image_gives_the_mirrored_instances(model, scales):
    image, _ = scene()
    straight = detect_views(model, image, scales, flip=True)
    mirrored = detect_views(model, image.flip(-1), scales, flip=True)
    boxes = mirrored.boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1])
    boxes += torch.tensor([image.shape[-1], 0, image.shape[-1], 0])
    best = box_iou(straight.boxes, boxes)
    # equal scores may come in another order, so each is looked for among all
    assert (best.max(dim=1).values > 0.999).float().mean() > 0.9
    overlap, partner = best[0].max(dim=0)
    assert overlap > 0.999
    torch.testing.assert_close(straight.scores[0], mirrored.scores[partner], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        straight.mask_probabilities[0],
        mirrored.mask_probabilities[partner].flip(-1),
        atol=1e-3,
        rtol=0,
    )


@torch.inference_mode()
def test_views_leave_the_settings_of_the_model_alone(model):
    before = (model.transform.test_size, model.transform.max_size, model.roi_heads.score_thresh)
    detect_views(model, scene()[0], (48, 64), flip=True)
    after = (model.transform.test_size, model.transform.max_size, model.roi_heads.score_thresh)
    assert after == before


@torch.inference_mode()
def test_limits_hold_for_all_views_together(model):
    image, _ = scene()
    set_inference(model, detections=3)
    assert len(detect_views(model, image, (64, 96), flip=True)) == 3
    set_inference(model, detections=20, score=1.0)
    assert len(detect_views(model, image, (64, 96), flip=True)) == 0
    set_inference(model, score=0.0)
