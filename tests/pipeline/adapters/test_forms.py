"""The forms in which plain Python programs hold masks: read, and written back in kind."""

from __future__ import annotations

import types

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from bpr.pipeline.adapters.boxes import with_boxes
from bpr.pipeline.adapters.find import find_adapter
from bpr.pipeline.adapters.labels import LabelMapAdapter
from bpr.pipeline.adapters.refiner import _rgb
from bpr.pipeline.instance import Instance, Mask, Prediction

SIZE = (30, 40)


def disc(x, radius=8):
    canvas = np.zeros(SIZE, np.uint8)
    cv2.circle(canvas, (x, 15), radius, 1, -1)
    return canvas.astype(np.bool_)


COARSE = np.stack([disc(10), disc(30)])
REFINED = np.stack([disc(10, 9), disc(30, 6)])
PREDICTION = Prediction(
    SIZE, tuple(Instance(mask=Mask.from_array(one), label=0, score=1.0) for one in REFINED)
)
SOFT = np.where(COARSE, 0.95, 0.05).astype(np.float32)


def pictures(masks):
    return [Image.fromarray(mask.astype(np.uint8) * 255) for mask in masks]


FORMS = {
    "bool": (lambda masks: masks, np.asarray),
    "0 and 1": (lambda masks: masks.astype(np.uint8), np.asarray),
    "0 and 255": (lambda masks: masks.astype(np.uint8) * 255, lambda new: new / 255),
    "probabilities": (lambda masks: np.where(masks, 0.95, 0.05), np.asarray),
    "tensor": (lambda masks: torch.tensor(masks), np.asarray),
    "several of each": (lambda masks: masks[None], lambda new: new[0]),
    "list": (lambda masks: list(masks), np.stack),
    "tuple": (lambda masks: tuple(masks), np.stack),
    "list of tensors": (lambda masks: list(torch.tensor(masks)), np.stack),
    "pictures": (pictures, lambda new: np.stack([np.asarray(one) / 255 for one in new])),
    "SAM's predictor": (
        lambda masks: (masks, np.ones(2), np.zeros((2, 256, 256))),
        lambda new: new[0],
    ),
    "SAM's generator": (
        lambda masks: [{"segmentation": mask, "area": 1, "bbox": [0] * 4} for mask in masks],
        lambda new: np.stack([one["segmentation"] for one in new]),
    ),
    "records with probabilities": (
        lambda masks: [{"segmentation": np.where(mask, 0.95, 0.05)} for mask in masks],
        lambda new: np.stack([one["segmentation"] for one in new]),
    ),
    "mask-generation": (
        lambda masks: {"masks": list(masks), "scores": [1, 2]},
        lambda new: np.stack(new["masks"]),
    ),
    "image-segmentation": (
        lambda masks: [{"score": 1, "label": "cup", "mask": one} for one in pictures(masks)],
        lambda new: np.stack([np.asarray(one["mask"]) / 255 for one in new]),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_masks_are_read_and_come_back_in_the_same_form(form):
    make, arrays = FORMS[form]
    masks = make(COARSE)
    adapter = find_adapter(masks)
    found = adapter.read(masks, SIZE)
    np.testing.assert_array_equal(np.stack([one.mask.to_array() for one in found]), COARSE)
    new = adapter.write(masks, PREDICTION)
    assert type(new) is type(masks)
    np.testing.assert_array_equal(arrays(new), REFINED)


def test_one_mask_is_one_mask():
    adapter = find_adapter(COARSE[0])
    (instance,) = adapter.read(COARSE[0], SIZE)
    np.testing.assert_array_equal(instance.mask.to_array(), COARSE[0])
    new = adapter.write(COARSE[0], Prediction(SIZE, PREDICTION.instances[:1]))
    np.testing.assert_array_equal(new, REFINED[0])


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_a_label_map_has_an_object_for_each_value(make):
    labels = np.where(COARSE[0], 4, 0) + np.where(COARSE[1], 9, 0)
    labels[0] = -1  # what transformers calls background
    found = LabelMapAdapter().read(make(labels), SIZE)
    np.testing.assert_array_equal(np.stack([one.mask.to_array() for one in found]), COARSE)
    new = np.asarray(LabelMapAdapter().write(make(labels), PREDICTION))
    np.testing.assert_array_equal(new[1:], (REFINED[0] * 4 + REFINED[1] * 9)[1:])
    assert (new[0] == -1).all()


def test_what_nobody_labelled_stays_in_a_label_map():
    labels = (COARSE[0] * 4).astype(np.uint8)
    labels[:, 18:20] = 255
    (instance,) = LabelMapAdapter().read(labels, SIZE)
    assert instance.mask.area == np.count_nonzero(labels == 4)
    new = LabelMapAdapter().write(labels, Prediction(SIZE, PREDICTION.instances[:1]))
    np.testing.assert_array_equal(new == 255, labels == 255)


def test_the_array_that_ultralytics_carries_is_turned_to_rgb():
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    results = types.SimpleNamespace(orig_img=image)
    np.testing.assert_array_equal(_rgb(image, results, None), image[..., ::-1])
    np.testing.assert_array_equal(_rgb(image.copy(), results, None), image)
    np.testing.assert_array_equal(_rgb(image[..., ::-1], results, None), image[..., ::-1])
    np.testing.assert_array_equal(_rgb(image, results, "rgb"), image)
    np.testing.assert_array_equal(_rgb(image, COARSE, "bgr"), image[..., ::-1])
    with pytest.raises(ValueError, match="channels: expected rgb or bgr"):
        _rgb(image, COARSE, "hsv")


def test_boxes_of_supervision_follow_their_masks():
    import supervision as sv

    boxes = np.zeros((2, 4), np.float32)
    detections = sv.Detections(xyxy=boxes, mask=REFINED, class_id=np.array([1, 2]))
    moved = with_boxes(detections, PREDICTION)
    assert moved.xyxy.tolist() == [list(one.mask.window) for one in PREDICTION.instances]
    assert moved.class_id.tolist() == [1, 2]
    assert (detections.xyxy == 0).all()
    assert with_boxes(REFINED, PREDICTION) is REFINED
