"""Opening ground truth of whatever format."""

from __future__ import annotations

from bpr._paths import AnyPath
from bpr.pipeline.datasets.cityscapes_truth import PATTERN, CityscapesTruth
from bpr.pipeline.datasets.coco_truth import CocoTruth
from bpr.pipeline.datasets.ground_truth import GroundTruth
from bpr.pipeline.datasets.instance_maps import InstanceMaps


def open_ground_truth(path: AnyPath, coco_categories: bool = False) -> GroundTruth:
    """Find out what ground truth is, from what is there.

    Args:
        path: a json (COCO, LVIS), a folder with `*_gtFine_instanceIds.png` (Cityscapes), or
            instance maps: a folder of PNGs or one.
        coco_categories: keep COCO's 80 categories of an LVIS json, under COCO's ids.

    Raises:
        ValueError: nothing is there, or nothing of these.
    """
    if coco_categories and path.suffix.lower() != ".json":
        raise ValueError(f"--coco-categories: expected an LVIS json as ground truth, got {path}")
    if path.is_dir():
        is_cityscapes = next(path.rglob(PATTERN), None) is not None
        return CityscapesTruth(path) if is_cityscapes else InstanceMaps(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected ground truth, found no file or folder")
    if path.suffix.lower() == ".png":
        return InstanceMaps(path)
    return CocoTruth(path, coco_categories)
