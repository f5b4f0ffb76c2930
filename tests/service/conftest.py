"""Networks and inputs of the service's tests."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from bpr.pipeline.detection import DetectionSettings, InstanceDetector
from bpr.pipeline.formats import rle
from bpr.pipeline.formats.images import encode_mask, encode_png
from bpr.pipeline.instance import Mask
from bpr.refiner.predictor import load_predictor
from tests.networks import save_random_detector, save_random_network
from tests.service.services import running

SIZE = (60, 80)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    return save_random_network(tmp_path_factory.mktemp("weights") / "random.safetensors")


@pytest.fixture(scope="session")
def predictor(weights):
    """A small real network that changes masks a lot."""
    return load_predictor(weights, "cpu", "torch")


@pytest.fixture(scope="session")
def detector(tmp_path_factory):
    """A real detector that finds four things in everything."""
    path = save_random_detector(tmp_path_factory.mktemp("weights") / "detector.safetensors")
    return InstanceDetector(path, "cpu", DetectionSettings(score=0.0, detections=4))


@pytest.fixture(scope="module")
def service(predictor):
    with running(predictor) as service:
        yield service


class Scene:
    """A small image with three overlapping objects, in all the forms that the service takes."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
        self.arrays = []
        for centre, axes in (((25, 30), (15, 10)), ((50, 25), (18, 14)), ((60, 45), (10, 9))):
            array = np.zeros(SIZE, np.uint8)
            cv2.ellipse(array, centre, axes, int(rng.integers(0, 90)), 0, 360, 1, -1)
            self.arrays.append(array.astype(np.bool_))
        self.masks = [Mask.from_array(array) for array in self.arrays]

    @property
    def image_part(self):
        return ("image", ("scene.png", encode_png(self.image)))

    @property
    def mask_parts(self):
        files = [(f"{index}.png", encode_mask(mask)) for index, mask in enumerate(self.masks)]
        return [self.image_part, *(("masks", file) for file in files)]

    @property
    def map_values(self):
        values = np.zeros(SIZE, np.uint16)
        for value, array in zip((300, 7, 255), self.arrays, strict=True):
            values[array] = value
        return values

    @property
    def map_parts(self):
        return [self.image_part, ("instance_map", ("map.png", encode_png(self.map_values)))]

    @property
    def records(self):
        return [
            {
                "image_id": 5,
                "category_id": 26 + index,
                "score": 0.9 - index / 10,
                "segmentation": rle.encode(mask),
                "note": {"by": "Ada", "tags": [1, None, "é"]},
            }
            for index, mask in enumerate(self.masks)
        ]

    @property
    def coco_parts(self):
        content = json.dumps(self.records).encode()
        return [self.image_part, ("instances", ("results.json", content, "application/json"))]


@pytest.fixture(scope="session")
def scene():
    return Scene()
