"""Folders that hold photographs and their COCO jsons, as Roboflow, COCO and CVAT export them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.formats.segment_maps import is_panoptic
from bpr.pipeline.formats.text import load_json

_MOST_JSONS = 20  # in a folder; where there are more, they are label files, one an image


@dataclass(frozen=True)
class CocoSplit:
    """A json with the labels of some photographs."""

    json: AnyPath
    images: AnyPath  # the folder that the photographs are in, or below


def find_coco_splits(folder: AnyPath) -> list[CocoSplit]:
    """The labels of a data set in a folder, or in the folders inside it.

    Found are `train/_annotations.coco.json` beside the photographs (Roboflow; with the folder
    `train` named, or the one above), and `annotations/instances_train.json` (COCO, CVAT).
    """
    own = [CocoSplit(path, folder) for path in _label_jsons(folder)]
    if own:
        return own
    inside = []
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not part.name.startswith("."):
            images = folder if part.name == "annotations" else part
            inside += [CocoSplit(path, images) for path in _label_jsons(part)]
    return inside


def _label_jsons(folder: AnyPath) -> Iterator[AnyPath]:
    jsons = sorted(folder.glob("*.json"))
    for path in jsons if len(jsons) <= _MOST_JSONS else ():
        try:
            content = load_json(path)
        except ValueError:
            continue
        if _has_labels(content):
            yield path


def _has_labels(content: Any) -> bool:
    """Whether a json is COCO's, and not of captions, key points or panoptic segments alone."""
    lists = ("images", "annotations")
    if not isinstance(content, dict) or is_panoptic(content):
        return False
    if not all(isinstance(content.get(name), list) for name in lists):
        return False
    annotations = content["annotations"]
    return not annotations or any(isinstance(a, dict) and "segmentation" in a for a in annotations)
