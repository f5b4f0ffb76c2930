"""FiftyOne's own objects, which need no database.

pip install fiftyone && pytest -m slow tests/pipeline/adapters/test_fiftyone.py
"""

from __future__ import annotations

import numpy as np
import pytest

from bpr import add_refined_field, load_refiner
from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.formats.images import encode_mask, encode_png
from bpr.pipeline.instance import Mask

pytestmark = pytest.mark.slow


@pytest.fixture
def fo(monkeypatch, tmp_path):
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "1")
    return pytest.importorskip("fiftyone", reason="needs pip install fiftyone")


def detection(fo, mask, **fields):
    height, width = mask.size
    x0, y0, x1, y1 = mask.window
    box = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]
    return fo.Detection(bounding_box=box, mask=np.array(mask.bitmap), **fields)


def full(detection, size):
    height, width = size
    x, y, _, _ = detection.bounding_box
    x0, y0 = round(x * width), round(y * height)
    array = np.zeros(size, np.bool_)
    rows, columns = detection.mask.shape
    array[y0 : y0 + rows, x0 : x0 + columns] = detection.mask
    return array


def test_a_refined_field_stands_beside_the_coarse_one(fo, tmp_path):
    refiner = load_refiner(device="cpu", backend="torch", nms_iou=0.25)
    (scene,) = (scene for scene in load_demo_scenes() if scene.name == "coffee")
    size = scene.image.shape[:2]
    (tmp_path / "coffee.png").write_bytes(encode_png(scene.image))
    cut = Mask.from_array(scene.coarse[1].bitmap)
    (tmp_path / "mask.png").write_bytes(encode_mask(cut))
    first = detection(fo, scene.coarse[0], label="cup", confidence=0.5, tags=["t"], own=3)
    second = detection(fo, scene.coarse[1], label="spoon", index=4)
    second.mask, second.mask_path = None, str(tmp_path / "mask.png")
    sample = fo.Sample(filepath=str(tmp_path / "coffee.png"))
    sample["coarse"] = fo.Detections(detections=[first, second])
    lost = fo.Sample(filepath=str(tmp_path / "gone.png"), coarse=fo.Detections())
    boxes = fo.Sample(filepath=str(tmp_path / "coffee.png"))
    boxes["coarse"] = fo.Detections(detections=[fo.Detection(bounding_box=[0, 0, 1, 1])])
    without = fo.Sample(filepath=str(tmp_path / "coffee.png"), coarse=None)
    failures = add_refined_field([sample, lost, boxes, without], "coarse", "refined", refiner)
    assert len(failures) == 2
    assert "gone.png: expected an image, found no file" in failures[0]
    assert "detection 0: expected a mask, got a box alone" in failures[1]
    want = refiner(scene.image, np.stack([mask.to_array() for mask in scene.coarse[:2]]))
    cup, spoon = sample["refined"].detections
    assert (cup.label, cup.confidence, cup.tags, cup.own) == ("cup", 0.5, ["t"], 3)
    assert (spoon.label, spoon.index) == ("spoon", 4)
    for got, mask, coarse in zip((cup, spoon), want, scene.coarse, strict=False):
        np.testing.assert_array_equal(full(got, size), mask)
        assert got.changed_pixels == np.count_nonzero(mask != coarse.to_array()) > 0
    assert sample["coarse"].detections[0].mask.shape == scene.coarse[0].bitmap.shape
    np.testing.assert_array_equal(full(first, size), scene.coarse[0].to_array())
