"""Scores of a detector in training, and pictures of what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from bpr.detector.checkpoints import DetectorInfo
from bpr.pipeline.detection import as_prediction
from bpr.pipeline.evaluation.coco_ap import CocoRecords, TruthRecords, coco_ap
from bpr.pipeline.evaluation.matching import MatchSettings, match
from bpr.pipeline.instance import Prediction, UInt8Array
from bpr.pipeline.instance_pictures import draw_instances, tile
from bpr.pipeline.metrics import boundary_iou
from bpr.pipeline.training.detection_stream import DetectionSource

SURE = 0.5  # score from which an instance counts as found, and is drawn
_COLUMNS, _SHOWN, _SIDE = 4, 12, 320


@dataclass(frozen=True, eq=False)
class Validated:
    """What a detector is worth on images that it does not learn from."""

    scores: Mapping[str, float]
    """AP and AP50 of masks in [0, 1]; found: the share of objects with an instance of score 0.5
    that overlaps by 0.5; boundary_iou: the mean over these."""
    picture: UInt8Array  # (H, W, 3) RGB: the first images with what was found in them


@torch.inference_mode()
def validate_detector(
    model: nn.Module, info: DetectorInfo, source: DetectionSource, device: str
) -> Validated:
    """Find the objects of a data set, and compare them with the truth.

    Args:
        model: detector in any mode; left in evaluation mode.
        info: of the detector.
        source: images and truth, with the categories of the detector.
        device: of the model.
    """
    model.eval()
    named = source.categories()
    truths, records = TruthRecords(named), CocoRecords()
    settings = MatchSettings()
    fits: list[float] = []
    pictures: list[UInt8Array] = []
    num_objects = 0
    for number, key in enumerate(source.keys(), start=1):
        pixels = source.read(key).pixels
        tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).to(device).float() / 255
        (detections,) = model([tensor])
        prediction = as_prediction(detections, info)
        truth = source.truth.read(key)
        truths.add(number, truth)
        records.add(number, prediction)
        sure = Prediction(
            prediction.size, tuple(item for item in prediction.instances if item.score >= SURE)
        )
        num_objects += len(truth.objects)
        for found in match(truth, sure, settings).matches:
            if found.instance is not None:
                gt = found.annotation.mask
                fits.append(boundary_iou(found.instance.mask, gt, ignore=truth.ignore))
        if len(pictures) < _SHOWN:
            pictures.append(draw_instances(pixels, sure, named))
    averages = coco_ap(truths.dataset(), records.records).values
    scores = {
        "AP": averages["AP"],
        "AP50": averages["AP50"],
        "found": len(fits) / max(num_objects, 1),
        "boundary_iou": float(np.mean(fits)) if fits else 0.0,
    }
    return Validated(scores, tile(pictures, _COLUMNS, _SIDE))
