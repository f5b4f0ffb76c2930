"""Ground truth as a COCO or LVIS json."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from bpr._paths import AnyPath
from bpr.pipeline.datasets.coco_images import image_keys
from bpr.pipeline.datasets.ground_truth import AnnotatedImage, Annotation
from bpr.pipeline.datasets.lvis_categories import with_coco_categories
from bpr.pipeline.datasets.precision_rules import COCO, LVIS, PrecisionRules
from bpr.pipeline.formats import rle
from bpr.pipeline.formats.coco import ImageId, id_text, parse_images
from bpr.pipeline.formats.frame import frame_of
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.text import load_json, short
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

    def __init__(self, path: AnyPath, coco_categories: bool = False) -> None:
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
        self.labels, self.categories = _read_categories(content["categories"], path)
        self._entries = parse_images(path, content)
        self._images: dict[ImageId, Mapping[str, Any]] = {
            str(id_text(image["id"])): image for image in content["images"]
        }
        self._ids = {key: image_id for image_id, key in image_keys(self._entries).items()}
        self._annotations: dict[ImageId, list[int]] = {}
        for index, item in enumerate(content["annotations"]):
            where = f"{path}, annotations, entry {index}"
            image_id = _id(item, "image_id", where)
            if image_id not in self._entries:
                raise ValueError(
                    f"{path}: expected annotations of the images that it lists, got image_id "
                    f"{short(item['image_id'])}"
                )
            category = _id(item, "category_id", where)
            if category not in self.labels and not _is_number(category):
                raise ValueError(
                    f"{where}: expected a category_id that the json lists, got "
                    f"{short(item['category_id'])}"
                )
            self._annotations.setdefault(image_id, []).append(index)

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
        """Stems of the images' file names; see `image_keys`."""
        return list(self._ids)

    def image_id(self, key: str) -> ImageId:
        """The `id` of the image, as text."""
        return self._ids[key]

    def rank(self, key: str) -> tuple[int, str]:
        """Orders images by their ids: numbers, then texts."""
        image_id = self._ids[key]
        return (int(image_id), "") if _is_number(image_id) else (sys.maxsize, image_id)

    def file_name(self, key: str) -> str | None:
        """The file of an image; None where the json names none."""
        return self._entries[self._ids[key]].file_name

    def entry(self, key: str) -> Mapping[str, Any]:
        """What the json says about an image."""
        return self._images[self._ids[key]]

    def key_of_ids(self) -> dict[ImageId, str]:
        """Which of `keys` an image id is: predictions are joined by it."""
        return {image_id: key for key, image_id in self._ids.items()}

    def files(self, key: str) -> Sequence[AnyPath]:  # noqa: ARG002
        """The json."""
        return [self.path]

    def part(self, keys: Collection[str]) -> CocoTruth:
        """The same with these images alone; annotations keep their numbers."""
        part = copy(self)
        part._ids = {key: self._ids[key] for key in keys}
        ids = list(part._ids.values())
        part._images = {image_id: self._images[image_id] for image_id in ids}
        part._entries = {image_id: self._entries[image_id] for image_id in ids}
        part._annotations = {i: self._annotations[i] for i in ids if i in self._annotations}
        annotations = self.content["annotations"]
        part.content = {
            "annotations": {
                n: annotations[n] for found in part._annotations.values() for n in found
            }
        }
        return part

    def read(self, key: str) -> AnnotatedImage:
        """The annotations of the image in their order; `iscrowd` ones are regions.

        Annotations without a mask, or with one that cannot be read, are `left`.
        """
        image_id = self._ids[key]
        items = {index: self.content["annotations"][index] for index in self._of(image_id)}
        size = self._size(image_id, items.values())
        annotations, left = [], []
        for index, item in items.items():
            segmentation = item.get("segmentation")
            if not segmentation:
                left.append(LeftObject(f"annotations, entry {index}", "without a mask", False))
                continue
            try:
                mask = rle.decode(segmentation, size)
            except ValueError as error:
                left.append(LeftObject(f"annotations, entry {index}", str(error)))
                continue
            category = str(id_text(item["category_id"]))
            label = self.labels[category] if category in self.labels else int(category)
            number = item["id"] if type(item.get("id")) is int else index
            outlined = rle.with_area(segmentation) if isinstance(segmentation, list) else []
            polygons = tuple(np.array(part, np.float64) for part in outlined)
            annotations.append(
                Annotation(
                    mask=mask,
                    label=label,
                    id=number,
                    is_crowd=bool(item.get("iscrowd", 0)),
                    polygons=polygons,
                    index=index,
                )
            )
        return AnnotatedImage(size, tuple(annotations), left=tuple(left))

    def _of(self, image_id: ImageId) -> Sequence[int]:
        return self._annotations.get(image_id, [])

    def _size(self, image_id: ImageId, items: Iterable[Mapping[str, Any]]) -> Size:
        """What the json names, turned where the outlines leave that and fit the turned image."""
        claimed = self._entries[image_id].size
        if claimed is None:
            raise ValueError(f"{self.path}, image {image_id}: expected height and width as ints")
        frame = frame_of(item.get("segmentation") for item in items)
        turned = (claimed[1], claimed[0])
        if frame.bitmaps is None and frame.clearly_leaves(claimed) and frame.is_inside(turned):
            return turned
        return claimed


def _read_categories(
    categories: Sequence[Any], path: AnyPath
) -> tuple[dict[str, int], dict[int, str]]:
    """The number of each category id, which is the id where all are numbers, and the names."""
    names: dict[str, str] = {}
    for index, item in enumerate(categories):
        category = _id(item, "id", f"{path}, categories, entry {index}")
        name = str(item.get("name", item["id"]))
        if names.setdefault(category, name) != name:
            raise ValueError(
                f"{path}: expected one name for each category id, but {category} is "
                f"{names[category]} and {name}"
            )
    numbered = {name: int(name) for name in names if _is_number(name)}
    texts = [name for name in names if name not in numbered]
    first = max([0, *numbered.values()]) + 1
    labels = {**numbered, **{name: first + n for n, name in enumerate(texts)}}
    return labels, {labels[category]: name for category, name in names.items()}


def _id(item: Any, name: str, where: str) -> ImageId:
    value = item.get(name) if isinstance(item, dict) else None
    text = id_text(value)
    if text is None:
        raise ValueError(f"{where}: expected {name} as an int or text, got {short(value)}")
    return text


def _is_number(name: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,18}", name) is not None
