"""Ground truth as a COCO or LVIS json."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from bpr.pipeline.datasets.ground_truth import AnnotatedImage, Annotation, image_key, unique_keys
from bpr.pipeline.datasets.lvis_categories import with_coco_categories
from bpr.pipeline.datasets.precision_rules import COCO, LVIS, PrecisionRules
from bpr.pipeline.formats import rle
from bpr.pipeline.formats.coco import ImageId, load_json
from bpr.pipeline.instance import Size


class CocoTruth:
    """`images`, `annotations` and `categories` of a json; masks are decoded image by image.

    Args:
        path: of the json.
        coco_categories: keep COCO's 80 categories of an LVIS json, under COCO's ids.

    Raises:
        ValueError: it is no such json.
    """

    boundary_ratio = 0.02

    def __init__(self, path: Path, coco_categories: bool = False) -> None:
        self.path = path
        content = load_json(path)
        if not isinstance(content, dict):
            raise ValueError(f"{path}: expected a COCO json (an object), got something else")
        for name in ("images", "annotations", "categories"):
            if not isinstance(content.get(name), list):
                raise ValueError(f"{path}: expected a COCO json with a list {name!r}, found none")
        if coco_categories:
            content = with_coco_categories(content, str(path))
        self.content: dict[str, Any] = content
        self.categories: Mapping[int, str] = {
            _field(item, "id", int, f"{path}, categories, entry {index}"): str(
                item.get("name", item["id"])
            )
            for index, item in enumerate(content["categories"])
        }
        named = []
        for index, image in enumerate(content["images"]):
            _field(image, "id", (int, str), f"{path}, images, entry {index}")
            name = image.get("file_name") or image.get("coco_url") or str(image["id"])
            named.append((image_key(str(name)), str(name)))
        keys = unique_keys(named, str(path))
        self._images = dict(zip(keys, content["images"], strict=True))
        self._annotations: dict[ImageId, list[int]] = {}
        for index, item in enumerate(content["annotations"]):
            where = f"{path}, annotations, entry {index}"
            image_id = _field(item, "image_id", (int, str), where)
            _field(item, "category_id", int, where)
            self._annotations.setdefault(image_id, []).append(index)
        ids = [item["id"] for item in content["annotations"] if "id" in item]
        if len(ids) not in (0, len(content["annotations"])) or len(set(ids)) != len(ids):
            raise ValueError(f"{path}: expected annotations with different ids, or none with one")
        unknown = self._annotations.keys() - {image["id"] for image in content["images"]}
        if unknown:
            raise ValueError(
                f"{path}: expected annotations of the images that it lists, got image_id "
                f"{sorted(unknown, key=str)[0]!r}"
            )

    @property
    def is_lvis(self) -> bool:
        """Images say which categories were looked for: only those are scored there."""
        images = self.content["images"]
        return bool(images) and "neg_category_ids" in images[0]

    @property
    def kind(self) -> str:
        """COCO or LVIS."""
        return "LVIS json" if self.is_lvis else "COCO json"

    @property
    def rules(self) -> PrecisionRules:
        """COCO's or LVIS's."""
        return LVIS if self.is_lvis else COCO

    def keys(self) -> Sequence[str]:
        """Stems of the images' file names."""
        return list(self._images)

    def image_id(self, key: str) -> ImageId:
        """The `id` of the image."""
        image_id: ImageId = self._images[key]["id"]
        return image_id

    def file_names(self) -> dict[ImageId, str]:
        """File name by image id."""
        return {
            image["id"]: str(image.get("file_name") or image.get("coco_url") or image["id"])
            for image in self._images.values()
        }

    def files(self, key: str) -> Sequence[Path]:  # noqa: ARG002
        """The json."""
        return [self.path]

    def part(self, keys: Collection[str]) -> CocoTruth:
        """The same with these images alone; annotations keep their numbers."""
        part = copy(self)
        part._images = {key: self._images[key] for key in keys}
        ids = [image["id"] for image in part._images.values()]
        part._annotations = {i: self._annotations[i] for i in ids if i in self._annotations}
        annotations = self.content["annotations"]
        part.content = {
            "annotations": {
                n: annotations[n] for found in part._annotations.values() for n in found
            }
        }
        return part

    def read(self, key: str) -> AnnotatedImage:
        """The annotations of the image in their order; `iscrowd` ones are regions."""
        image = self._images[key]
        where = f"{self.path}, image {image['id']}"
        size: Size = (_field(image, "height", int, where), _field(image, "width", int, where))
        annotations = []
        for index in self._annotations.get(image["id"], []):
            item = self.content["annotations"][index]
            segmentation = _without_lines(item.get("segmentation"))
            try:
                mask = rle.decode(segmentation, size)
            except ValueError as error:
                raise ValueError(f"{self.path}, annotations, entry {index}: {error}") from None
            label, crowd = item["category_id"], bool(item.get("iscrowd", 0))
            number = item["id"] if isinstance(item.get("id"), int) else index
            outlined = segmentation if isinstance(segmentation, list) else []
            polygons = tuple(np.array(part, np.float64) for part in outlined)
            annotations.append(
                Annotation(mask=mask, label=label, id=number, is_crowd=crowd, polygons=polygons)
            )
        return AnnotatedImage(size, tuple(annotations))


def _without_lines(segmentation: Any) -> Any:
    """Polygons of fewer than three points have no area: beside others they are left out.

    As detectron2 does; COCO's own labels have some.
    """
    if not isinstance(segmentation, list):
        return segmentation
    areas = [part for part in segmentation if not (isinstance(part, list) and len(part) < 6)]
    return areas or segmentation


def _field(item: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    value = item.get(name) if isinstance(item, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        words = "an int" if kind is int else "an int or text"
        raise ValueError(f"{where}: expected {name} as {words}, got {value!r}")
    return value
