"""Errors by kind, pixel accuracy near outlines, AP of rare categories, and AP of keypoints."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy import ndimage

from bpr.pipeline.datasets.ground_truth import AnnotatedImage, Annotation
from bpr.pipeline.evaluation.coco_ap import lvis_ap
from bpr.pipeline.evaluation.error_types import TITLES, ErrorCounts, find_errors
from bpr.pipeline.evaluation.keypoint_ap import keypoint_ap
from bpr.pipeline.evaluation.pixel_accuracy import SHARE, pixel_accuracy
from bpr.pipeline.instance import Instance, Mask, Prediction

SIZE = (60, 100)


def box(x0: int, y0: int, x1: int, y1: int) -> Mask:
    bitmap = np.zeros(SIZE, np.bool_)
    bitmap[y0:y1, x0:x1] = True
    return Mask.from_array(bitmap)


OBJECT = box(10, 10, 30, 30)


def counts(*found: tuple[Mask, int, float], **options: bool) -> ErrorCounts:
    truth = AnnotatedImage(SIZE, (Annotation(mask=OBJECT, label=1, id=1),))
    instances = tuple(Instance(mask=mask, label=label, score=score) for mask, label, score in found)
    return find_errors(truth, Prediction(SIZE, instances), **options).counts


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(OBJECT, 1, 0.9)], {}),
        ([], {"missed": 1}),
        ([(OBJECT, 2, 0.9)], {"category": 1}),
        ([(box(10, 10, 30, 18), 1, 0.9)], {"location": 1}),
        ([(box(10, 10, 30, 18), 2, 0.9)], {"location_and_category": 1, "missed": 1}),
        ([(box(60, 10, 80, 30), 1, 0.9)], {"background": 1, "missed": 1}),
        ([(OBJECT, 1, 0.9), (OBJECT, 1, 0.8)], {"duplicate": 1}),
        ([(OBJECT, 2, 0.9), (OBJECT, 1, 0.8)], {"category": 1}),
    ],
)
def test_an_error_has_the_kind_of_its_cause(found, expected):
    assert counts(*found) == ErrorCounts(**expected)


def test_each_instance_and_each_object_has_its_kind():
    truth = AnnotatedImage(SIZE, (Annotation(mask=OBJECT, label=1, id=1),))
    found = Prediction(
        SIZE,
        (
            Instance(mask=box(60, 10, 80, 30), label=1, score=0.9),
            Instance(mask=OBJECT, label=2, score=0.8),
        ),
    )
    errors = find_errors(truth, found)
    assert errors.instances == ("background", "category")
    assert errors.objects == ("category",)
    assert errors.counts == ErrorCounts(background=1, category=1)


def test_every_kind_has_a_title():
    assert list(TITLES) == list(ErrorCounts.__dataclass_fields__)


def test_categories_may_be_passed_over_and_crowds_excuse():
    assert counts((OBJECT, 2, 0.9), class_agnostic=True) == ErrorCounts()
    crowd = Annotation(mask=box(60, 0, 100, 60), label=1, id=2, is_crowd=True)
    truth = AnnotatedImage(SIZE, (Annotation(mask=OBJECT, label=1, id=1), crowd))
    found = Prediction(SIZE, (Instance(mask=box(65, 5, 80, 30), label=1, score=0.5),))
    assert find_errors(truth, found).counts == ErrorCounts(missed=1)


@pytest.mark.parametrize("seed", range(4))
def test_pixels_near_the_outline_are_those_of_a_plain_computation(seed):
    rng = np.random.default_rng(seed)
    gt = ndimage.binary_opening(ndimage.gaussian_filter(rng.normal(size=SIZE), 6) > 0.01)
    mask = np.roll(gt, (1, -2), (0, 1))
    ignore = np.zeros(SIZE, np.bool_)
    ignore[:, 70:75] = True
    found = pixel_accuracy(Mask.from_array(mask), Mask.from_array(gt), ignore)
    ys, xs = np.nonzero(gt)
    sides = (xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min())
    distance = max(1.0, SHARE * math.sqrt(sides[0] * sides[1]))
    framed = np.pad(gt, 20)
    to_other = np.where(
        framed,
        ndimage.distance_transform_edt(framed),
        ndimage.distance_transform_edt(~framed),
    )[20:-20, 20:-20]
    near = (to_other <= distance) & ~ignore
    assert found.boundary == pytest.approx((mask == gt)[near].mean(), abs=2e-3)
    assert 0.5 < found.boundary < found.away <= 1


def test_a_perfect_mask_is_right_everywhere():
    found = pixel_accuracy(OBJECT, OBJECT)
    assert (found.boundary, found.away) == (1, 1)


def test_rare_common_and_frequent_categories_have_an_ap_each():
    pytest.importorskip("faster_coco_eval")
    square = np.zeros((20, 20), np.uint8, order="F")
    square[5:15, 5:15] = 1
    code = coco_mask.encode(square)
    code = {"size": [20, 20], "counts": code["counts"].decode()}
    frequencies = {1: "r", 2: "c", 3: "f", 4: "f"}
    dataset = {
        "images": [
            {"id": 1, "height": 20, "width": 20, "neg_category_ids": [],
             "not_exhaustive_category_ids": []}
        ],
        "annotations": [
            {"id": label, "image_id": 1, "category_id": label, "segmentation": code, "area": 100,
             "bbox": [5, 5, 10, 10], "iscrowd": 0}
            for label in frequencies
        ],
        "categories": [
            {"id": label, "name": str(label), "frequency": letter}
            for label, letter in frequencies.items()
        ],
    }  # fmt: skip
    records = [
        {"image_id": 1, "category_id": label, "segmentation": code, "score": 0.9}
        for label in (2, 3)
    ]
    values = lvis_ap(dataset, records, None).values
    assert values["AP"] == pytest.approx(0.5)
    assert [values[f"AP_{letter}"] for letter in "rcf"] == pytest.approx([0, 1, 0.5])


def test_keypoints_are_scored_by_their_distance():
    points = np.column_stack([np.arange(17) * 5.0, np.arange(17) * 3.0 + 10, np.full(17, 2)])
    person = {
        "id": 1, "image_id": 1, "category_id": 1, "area": 2000.0, "iscrowd": 0,
        "bbox": [0, 0, 80, 60], "keypoints": points.ravel().tolist(),
    }  # fmt: skip
    crowd = {**person, "id": 2, "keypoints": [0] * 51}
    dataset = {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "annotations": [person, crowd],
        "categories": [{"id": 1, "name": "person"}],
    }

    def ap(shift: float) -> float:
        moved = points + np.array([shift, 0, 0])
        record = {
            "image_id": 1,
            "category_id": 1,
            "score": 0.9,
            "keypoints": moved.ravel().tolist(),
        }
        return keypoint_ap(dataset, [record])["AP_kp"]

    assert ap(0) == pytest.approx(1)
    assert 0 < ap(4) < 1
    assert ap(60) == 0
    assert keypoint_ap(dataset, [])["AP_kp"] == 0
