"""Each system learns a handful of photographs by heart, from random weights.

pytest -m slow tests/detector/test_overfit.py
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bpr.detector.build import build_detector
from bpr.detector.categories import Categories
from bpr.detector.checkpoints import DetectorInfo
from bpr.detector.schedule import Schedule
from bpr.detector.training import Batch, DetectorTrainer
from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.detection import as_prediction
from bpr.pipeline.formats import coco, rle
from bpr.pipeline.instance import Prediction
from tests.detector.conftest import tiny

SYSTEMS = {
    "mask_rcnn": {"mask_branch": "fcn"},
    "bmask_rcnn": {"mask_branch": "bmask", "train_on_predicted_boxes": True},
    "cascade_bmask_rcnn": {"mask_branch": "bmask", "cascade": True},
    "refinemask": {"mask_branch": "refinemask", "box_loss_weight": 2.0},
}
SCHEDULE = Schedule(
    steps=400,
    batch_size=4,
    learning_rate=0.02,
    drops=(320,),
    warmup_steps=30,
    clip_norm=10,
    log_every=20,
)
CATEGORIES = Categories(("object",), (1,))


def batches() -> Iterator[Batch]:
    """All photographs, mirrored every second time."""
    for number in count():
        images, targets = [], []
        for scene in load_demo_scenes():
            pixels = scene.image[:, ::-1] if number % 2 else scene.image
            masks = np.stack([mask.to_array() for mask in scene.truth])
            masks = masks[..., ::-1] if number % 2 else masks
            boxes = [box_of(mask) for mask in masks]
            images.append(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
            targets.append(
                {
                    "boxes": torch.tensor(boxes, dtype=torch.float32),
                    "labels": torch.ones(len(boxes), dtype=torch.int64),
                    "masks": torch.from_numpy(masks.copy()),
                }
            )
        yield images, targets


def box_of(mask: np.ndarray) -> list[int]:
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def ap50(predictions: list[Prediction]) -> float:
    """By pycocotools, of the masks."""
    truth, results = COCO(), []
    truth.dataset = {"images": [], "annotations": [], "categories": [{"id": 1}], "info": {}}
    for number, (scene, prediction) in enumerate(zip(load_demo_scenes(), predictions, strict=True)):
        height, width = scene.image.shape[:2]
        truth.dataset["images"].append({"id": number, "height": height, "width": width})
        for mask in scene.truth:
            x0, y0, x1, y1 = mask.window
            truth.dataset["annotations"].append(
                {
                    "id": len(truth.dataset["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": mask.area,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "segmentation": rle.encode(mask),
                }
            )
        results += [coco.detected_record(number, instance) for instance in prediction.instances]
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(results), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[1])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_detector_learns_photographs_by_heart(system: str, tmp_path: Path) -> None:
    preset = tiny(train_sizes=(128,), test_size=128, train_samples=64, **SYSTEMS[system])
    torch.manual_seed(0)
    model = build_detector(preset, 1)
    DetectorTrainer(model, SCHEDULE, tmp_path, {}).run(batches(), print)
    model.eval()
    info = DetectorInfo(preset="small", categories=CATEGORIES)
    with torch.inference_mode():
        found = [
            model([torch.from_numpy(scene.image.transpose(2, 0, 1).copy()).float() / 255])[0]
            for scene in load_demo_scenes()
        ]
    assert ap50([as_prediction(one, info) for one in found]) > 0.9
