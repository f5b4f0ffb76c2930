"""A folder with everything that the documentation's commands name, all of one photograph."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from bpr.detector.checkpoints import find_detector
from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.formats import polygons, rle
from bpr.pipeline.formats.images import encode_mask
from bpr.pipeline.instance import Mask

TOP, LEFT, SIZE = 100, 150, (200, 250)  # the part of the photograph, (height, width)


class World:
    """The coffee of the demo: a cup and a spoon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (scene,) = (scene for scene in load_demo_scenes() if scene.name == "coffee")
        rows, columns = slice(TOP, TOP + SIZE[0]), slice(LEFT, LEFT + SIZE[1])
        self.image = np.ascontiguousarray(scene.image[rows, columns])
        self.coarse = [mask.to_array()[rows, columns] for mask in scene.coarse[:2]]
        self.truth = [mask.to_array()[rows, columns] for mask in scene.truth[:2]]
        self._write_images()
        self._write_predictions()
        self._write_truth()
        self._write_coco()
        self._write_labels()
        shutil.copyfile(find_detector("lite")[0], root / "bpr.detector.safetensors")

    def _write_images(self) -> None:
        photograph = Image.fromarray(self.image)
        for folder in ("photos", "leftImg8bit/val", "leftImg8bit/train", "val2017", "labelme"):
            (self.root / folder).mkdir(parents=True)
            photograph.save(self.root / folder / "coffee.png")
        photograph.save(self.root / "photo.jpg", quality=95)
        photograph.save(self.root / "photo.png")
        for names in (("cup.png", "spoon.png"), ("a.png", "b.png")):
            for name, mask in zip(names, self.coarse, strict=True):
                (self.root / name).write_bytes(encode_mask(Mask.from_array(mask)))

    def _write_predictions(self) -> None:
        folder = self.root / "predictions"
        folder.mkdir()
        lines = ""
        for index, mask in enumerate(self.coarse):
            name = f"coffee_{index}.png"
            (folder / name).write_bytes(encode_mask(Mask.from_array(mask)))
            lines += f"{name} {24 + index} 0.9\n"
        (folder / "coffee_pred.txt").write_text(lines)

    def _write_truth(self) -> None:
        instances, categories = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.int32)
        for index, mask in enumerate(self.truth):
            instances[mask] = index + 1
            categories[mask] = (24 + index) * 1000
        for folder in ("truth", "maps"):
            (self.root / folder).mkdir()
            Image.fromarray(instances).save(self.root / folder / "coffee.png")
        for split in ("val", "train"):
            folder = self.root / "gtFine" / split
            folder.mkdir(parents=True)
            values = categories.astype(np.uint16)
            Image.fromarray(values).save(folder / "coffee_gtFine_instanceIds.png")

    def _write_coco(self) -> None:
        height, width = SIZE
        image = {"id": 1, "file_name": "coffee.png", "height": height, "width": width}
        records = [
            {
                "image_id": 1,
                "category_id": index + 1,
                "score": 0.9,
                "segmentation": rle.encode(Mask.from_array(mask)),
            }
            for index, mask in enumerate(self.coarse)
        ]
        categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "spoon"}]
        annotations = [{"id": 7 + i, "iscrowd": 0, **record} for i, record in enumerate(records)]
        labels = {"images": [image], "annotations": annotations, "categories": categories}
        for name in ("labels.json", "instances_val2017.json"):
            (self.root / name).write_text(json.dumps(labels))
        (self.root / "results.json").write_text(json.dumps(records))

    def _write_labels(self) -> None:
        height, width = SIZE
        masks = [Mask.from_array(mask) for mask in self.coarse]
        outlines = [polygons.trace_pixels(mask, 1).parts[0] for mask in masks]
        rows = [
            " ".join([str(index), *(f"{v:.6f}" for v in ((p + 0.5) / (width, height)).ravel())])
            for index, p in enumerate(outlines)
        ]
        (self.root / "yolo-labels").mkdir()
        (self.root / "yolo-labels/coffee.txt").write_text("\n".join(rows))
        shapes = [{"label": "x", "shape_type": "polygon", "points": p.tolist()} for p in outlines]
        content = {"shapes": shapes, "imagePath": "coffee.png", "imageData": None}
        (self.root / "labelme/coffee.json").write_text(json.dumps(content))
