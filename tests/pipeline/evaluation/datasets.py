"""Generated data sets: the same scenes as Cityscapes folders, COCO jsons and instance maps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

LABELS = {24: "person", 25: "rider", 26: "car", 33: "bicycle"}
VOID = 4  # the label "static", which the benchmark does not evaluate
ROAD = 7


@dataclass(frozen=True)
class Dataset:
    folder: Path

    @property
    def images(self):
        return self.folder / "leftImg8bit"

    @property
    def gt_fine(self):
        return self.folder / "gtFine"

    @property
    def coco(self):
        return self.folder / "truth.json"

    @property
    def maps(self):
        return self.folder / "maps"

    @property
    def before(self):
        return self.folder / "before"

    @property
    def after(self):
        return self.folder / "after"

    @property
    def before_json(self):
        return self.folder / "before.json"

    @property
    def after_json(self):
        return self.folder / "after.json"


def make_dataset(folder: Path, num_images: int = 4, size=(96, 140), seed: int = 0) -> Dataset:
    """Scenes with groups, void, tiny objects, duplicates, false positives and wrong labels.

    `before` are coarse masks, `after` the same instances with masks nearer to the truth, except
    for one in each image that got worse.
    """
    rng = np.random.default_rng(seed)
    dataset = Dataset(folder)
    truth = {"images": [], "annotations": [], "categories": []}
    truth["categories"] = [{"id": label, "name": name} for label, name in LABELS.items()]
    results = {"before": [], "after": []}
    for part in ("leftImg8bit/val/town", "gtFine/val/town", "maps", "before", "after"):
        (folder / part).mkdir(parents=True)
    for number in range(num_images):
        name = f"town_{number:06d}_000019"
        values = _scene(rng, size)
        colours = rng.integers(0, 256, (2**16, 3), np.uint8)
        pixels = colours[values].astype(np.int64) // 2 + rng.integers(0, 60, (*size, 3))
        image = folder / f"leftImg8bit/val/town/{name}_leftImg8bit.png"
        Image.fromarray(pixels.astype(np.uint8)).save(image)
        Image.fromarray(values).save(folder / f"gtFine/val/town/{name}_gtFine_instanceIds.png")
        truth["images"].append(
            {"id": 10 * number + 3, "file_name": image.name, "height": size[0], "width": size[1]}
        )
        numbered = np.zeros(size, np.uint8)
        numbered[values == VOID] = 255
        for k, value in enumerate(v for v in np.unique(values) if v >= 1000):
            numbered[values == value] = k + 1
        Image.fromarray(numbered).save(folder / f"maps/{name}.png")
        for value in np.unique(values).tolist():
            label = value if value < 1000 else value // 1000
            if label in LABELS:
                truth["annotations"].append(
                    _annotation(truth, 10 * number + 3, label, values == value, value < 1000)
                )
        for stage, masks in _predictions(rng, values).items():
            _write_stage(folder / stage, name, masks)
            results[stage] += [
                {
                    "image_id": 10 * number + 3,
                    "category_id": label,
                    "score": score,
                    "segmentation": _rle(mask),
                    **({"bbox": _loose_box(mask)} if seed % 2 else {}),
                }
                for mask, label, score in masks
            ]
    dataset.coco.write_text(json.dumps(truth))
    dataset.before_json.write_text(json.dumps(results["before"]))
    dataset.after_json.write_text(json.dumps(results["after"]))
    return dataset


def _scene(rng, size):
    values = np.full(size, ROAD, np.uint16)
    height, width = size
    values[: height // 8] = VOID
    values[:, -width // 12 :] = VOID
    counts = dict.fromkeys(LABELS, 0)
    for _ in range(rng.integers(4, 8)):
        label = int(rng.choice(list(LABELS)))
        value = 1000 * label + counts[label]
        counts[label] += 1
        if rng.random() < 0.15:
            value = label  # a group
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = tuple(int(n) for n in rng.integers(3, 26, 2))
        shape = np.zeros(size, np.uint8)
        cv2.ellipse(shape, centre, axes, float(rng.integers(0, 180)), 0, 360, 1, -1)
        values[shape != 0] = value
    return values


def _predictions(rng, values):
    """Masks, labels and scores per stage; ties of scores included."""
    before, after = [], []
    objects = [v for v in np.unique(values).tolist() if v >= 24 and v != VOID]
    for position, value in enumerate(objects):
        mask = values == value
        label = value if value < 1000 else value // 1000
        if rng.random() < 0.1:
            label = int(rng.choice(list(LABELS)))
        score = round(float(rng.choice([0.9, 0.8, rng.random()])), 3)
        coarse = np.roll(_grown(mask, rng.integers(-1, 3)), tuple(rng.integers(-2, 3, 2)), (0, 1))
        fine = np.roll(mask, (0, 4), (0, 1)) if position == 1 else _grown(mask, rng.integers(0, 2))
        before.append((coarse, label, score))
        after.append((fine, label, score))
        if rng.random() < 0.2:  # found twice
            before.append((_grown(coarse, 1), label, round(score * 0.9, 3)))
            after.append((_grown(fine, 1), label, round(score * 0.9, 3)))
    for _ in range(2):  # of nothing
        extra = np.zeros(values.shape, np.bool_)
        y, x = (int(rng.integers(0, side - 8)) for side in values.shape)
        extra[y : y + 12, x : x + 12] = True
        item = (extra, int(rng.choice(list(LABELS))), round(float(rng.random()), 3))
        before.append(item)
        after.append(item)
    before.append((np.zeros(values.shape, np.bool_), 26, 0.3))
    after.append((np.zeros(values.shape, np.bool_), 26, 0.3))
    return {"before": before, "after": after}


def _grown(mask, steps):
    values = mask.astype(np.uint8)
    square = np.ones((3, 3), np.uint8)
    if steps < 0:
        return cv2.erode(values, square, iterations=int(-steps)) != 0
    return cv2.dilate(values, square, iterations=int(steps)) != 0


def _write_stage(folder, name, masks):
    lines = ""
    for index, (mask, label, score) in enumerate(masks):
        file = f"{name}_leftImg8bit_{index}.png"
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / file)
        lines += f"{file} {label} {score}\n"
    (folder / f"{name}_leftImg8bit_pred.txt").write_text(lines)


def _rle(mask):
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def _loose_box(mask):
    """As a detector's box head gives it: not the mask's own."""
    ys, xs = np.nonzero(mask)
    if not xs.size:
        return [0.0, 0.0, 0.0, 0.0]
    width, height = float(xs.max() - xs.min()), float(ys.max() - ys.min())
    return [xs.min() - 0.5, ys.min() - 0.5, width * 1.3 + 1, height * 1.3 + 1]


def _annotation(truth, image_id, label, mask, crowd):
    ys, xs = np.nonzero(mask)
    x, y = int(xs.min()), int(ys.min())
    return {
        "id": len(truth["annotations"]) + 1,
        "image_id": image_id,
        "category_id": label,
        "segmentation": _rle(mask),
        "area": int(mask.sum()),
        "bbox": [x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y],
        "iscrowd": int(crowd),
    }
