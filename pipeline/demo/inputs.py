"""The scenes of `bpr demo` as the files that users have: every format holds the same masks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from bpr.pipeline.demo.scenes import DemoScene
from bpr.pipeline.formats import cityscapes, polygons, rle
from bpr.pipeline.formats.images import encode_mask, encode_png
from bpr.pipeline.instance import Instance, Mask, Prediction, paint

UNSCORED = 255  # value of instance maps where nothing is scored


def category_ids(scenes: Sequence[DemoScene]) -> dict[str, int]:
    """An id from 1 for each name of an object, in the order of their first appearance."""
    names = dict.fromkeys(name for scene in scenes for name in scene.names)
    return {name: number for number, name in enumerate(names, start=1)}


def prediction(scene: DemoScene, masks: Sequence[Mask], ids: Mapping[str, int]) -> Prediction:
    """Masks of a scene's objects as a prediction, with score 1."""
    size = (scene.image.shape[0], scene.image.shape[1])
    pairs = zip(scene.names, masks, strict=True)
    return Prediction(
        size, tuple(Instance(mask=mask, label=ids[name], score=1.0) for name, mask in pairs)
    )


def prediction_files(
    folder: str, scene: DemoScene, masks: Sequence[Mask], ids: Mapping[str, int]
) -> dict[str, bytes]:
    """A folder in the Cityscapes layout, by relative path."""
    names = {number: name for name, number in ids.items()}
    found = cityscapes.encode_detections(scene.name, prediction(scene, masks, ids), names)
    return {f"{folder}/{name}": content for name, content in found.items()}


def input_files(scenes: Sequence[DemoScene]) -> dict[str, bytes]:
    """What a user would start from, by path relative to the folder of the demo.

    Returns:
        `photos/`; the coarse masks as `masks/<photo>_<object>.png` (0 and 255), `predictions/`
        (Cityscapes), `yolo/`, `labels.json` (COCO data set) and `results.json` (COCO results);
        and `truth/`, the careful outlines as instance maps.
    """
    ids = category_ids(scenes)
    files: dict[str, bytes] = {}
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, scene in enumerate(scenes, start=1):
        height, width = scene.image.shape[:2]
        files[f"photos/{scene.name}.png"] = encode_png(scene.image)
        files |= prediction_files("predictions", scene, scene.coarse, ids)
        files[f"truth/{scene.name}.png"] = encode_png(_instance_map(scene))
        files[f"yolo/{scene.name}.txt"] = _yolo(scene, ids)
        images.append(
            {"id": number, "file_name": f"{scene.name}.png", "height": height, "width": width}
        )
        for name, mask in zip(scene.names, scene.coarse, strict=True):
            files[f"masks/{scene.name}_{name.replace(' ', '_')}.png"] = encode_mask(mask)
            annotations.append(_annotation(len(annotations) + 1, number, ids[name], mask))
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    labels = {"images": images, "annotations": annotations, "categories": categories}
    keys = ("image_id", "category_id", "segmentation")
    results = [{**{key: item[key] for key in keys}, "score": 1.0} for item in annotations]
    files["labels.json"] = json.dumps(labels, indent=1).encode()
    files["results.json"] = json.dumps(results, indent=1).encode()
    return files


def _annotation(number: int, image: int, category: int, mask: Mask) -> dict[str, object]:
    x0, y0, x1, y1 = mask.window
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": rle.encode(mask),
        "area": mask.area,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": 0,
    }


def _yolo(scene: DemoScene, ids: Mapping[str, int]) -> bytes:
    height, width = scene.image.shape[:2]
    lines = ""
    for name, mask in zip(scene.names, scene.coarse, strict=True):
        outline = polygons.join(polygons.trace_pixels(mask, polygons.DEFAULT_TOLERANCE).parts)
        shares = (outline + 0.5) / (width, height)
        # YOLO counts categories from 0
        lines += " ".join([str(ids[name] - 1), *(f"{share:.6f}" for share in shares.ravel())])
        lines += "\n"
    return lines.encode()


def _instance_map(scene: DemoScene) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    values = np.zeros(scene.image.shape[:2], np.uint8)
    numbers = range(1, len(scene.truth) + 1)
    paint(values, scene.truth, numbers, [1.0] * len(scene.truth))
    values[scene.ignore] = UNSCORED
    return values
