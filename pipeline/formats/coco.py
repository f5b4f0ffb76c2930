"""COCO results: one json list of instances, each with image_id and segmentation."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpr.pipeline.formats import polygons, rle
from bpr.pipeline.instance import Instance, Mask, Prediction, Size

ImageId = int | str


@dataclass(frozen=True, eq=False)
class CocoResults:
    """A results file: its records as they came, grouped by image.

    Segmentations stay compressed until an image is read.
    """

    path: Path
    records: Mapping[int, Mapping[str, Any]]  # by position in the file
    by_image: Mapping[ImageId, tuple[int, ...]]  # image id -> positions in records
    strays: Mapping[int, str]  # position of an entry without an image -> what is wrong with it
    data_set: Mapping[str, Any] | None = None
    """Of a data set's own labels, everything but the annotations; None of results."""

    def part(self, image_ids: Iterable[ImageId]) -> CocoResults:
        """The results of these images alone; records keep their positions."""
        by_image = {image_id: self.by_image[image_id] for image_id in image_ids}
        positions = [index for found in by_image.values() for index in found]
        records = {index: self.records[index] for index in positions}
        return CocoResults(self.path, records, by_image, {})


def load_results(path: Path) -> CocoResults:
    """Read a results json; masks are decoded later, image by image.

    Raises:
        ValueError: not a json list.
    """
    return _group_results(path, load_json(path))


def load_results_or_labels(path: Path) -> CocoResults:
    """Read a results json, or the labels of a data set: an object with annotations and images.

    Annotations of crowds, and those without a mask, belong to no image: they are only kept.

    Raises:
        ValueError: neither of the two.
    """
    content = load_json(path)
    if not isinstance(content, dict):
        return _group_results(path, content)
    annotations = content.get("annotations")
    if not isinstance(annotations, list) or not isinstance(content.get("images"), list):
        raise ValueError(
            f"{path}: expected COCO results (a json list of instances), or a data set's labels "
            "(an object with lists 'images' and 'annotations'), got another object"
        )
    refinable = {index: record for index, record in enumerate(annotations) if not _is_kept(record)}
    grouped = _group_results(path, list(refinable.values()))
    positions = list(refinable)
    return CocoResults(
        path,
        dict(enumerate(annotations)),
        {key: tuple(positions[i] for i in found) for key, found in grouped.by_image.items()},
        {positions[i]: reason for i, reason in grouped.strays.items()},
        {name: value for name, value in content.items() if name != "annotations"},
    )


def _is_kept(annotation: Any) -> bool:
    return isinstance(annotation, dict) and bool(
        annotation.get("iscrowd") or not annotation.get("segmentation")
    )


def _group_results(path: Path, content: Any) -> CocoResults:
    if not isinstance(content, list):
        raise ValueError(
            f"{path}: expected COCO results (a json list of instances), got a json {_kind(content)}"
        )
    by_image: dict[ImageId, list[int]] = {}
    strays = {}
    for index, record in enumerate(content):
        image_id = record.get("image_id") if isinstance(record, dict) else None
        if isinstance(image_id, float) and image_id.is_integer():
            image_id = int(image_id)  # what pandas makes of ids
        if not isinstance(image_id, (int, str)) or isinstance(image_id, bool):
            strays[index] = (
                f"{path}, entry {index}: expected an object with an image_id (int or text), "
                f"got {_kind(record) if not isinstance(record, dict) else repr(image_id)}"
            )
        else:
            by_image.setdefault(image_id, []).append(index)
    positions = {key: tuple(value) for key, value in by_image.items()}
    return CocoResults(path, dict(enumerate(content)), positions, strays)


@dataclass(frozen=True)
class ImageEntry:
    """What a COCO json says about an image file."""

    file_name: str
    size: Size | None  # (height, width), where it says so


def load_images(path: Path) -> dict[ImageId, ImageEntry]:
    """The file of each image id, from any COCO json with `images`.

    Raises:
        ValueError: the json has no list `images` of objects with id and file_name.
    """
    return parse_images(path, load_json(path))


def parse_images(path: Path, content: Any) -> dict[ImageId, ImageEntry]:
    """As `load_images`, of a json that is read already."""
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise ValueError(f"{path}: expected a COCO json with a list 'images', found none")
    entries: dict[ImageId, ImageEntry] = {}
    for index, image in enumerate(images):
        try:
            size = (image.get("height"), image.get("width"))
            known = isinstance(size[0], int) and isinstance(size[1], int)
            entries[image["id"]] = ImageEntry(str(image["file_name"]), size if known else None)
        except (TypeError, KeyError, AttributeError):
            raise ValueError(
                f"{path}, images, entry {index}: expected an object with id and file_name"
            ) from None
    return entries


def read_prediction(results: CocoResults, image_id: ImageId, size: Size) -> Prediction:
    """Decode the instances of one image.

    Args:
        results: from `load_results`.
        image_id: one of its images.
        size: (height, width) of the image file.

    Raises:
        ValueError: an entry has no segmentation, one of another size, or a score or
            category_id that is no number.
    """
    instances = []
    for index in results.by_image[image_id]:
        record = results.records[index]
        try:
            mask = rle.decode(record.get("segmentation"), size)
            label = int(_number(record, "category_id", 0))
            score = _number(record, "score", 1.0)
        except ValueError as error:
            raise ValueError(f"{results.path}, entry {index}: {error}") from None
        instances.append(Instance(mask, label, score, record))
    return Prediction(size, tuple(instances))


def refined_record(
    record: Mapping[str, Any], mask: Mask, polygon_tolerance: float | None = None
) -> dict[str, Any]:
    """A record with another mask: segmentation as compressed RLE; bbox and area where it has them.

    All other fields stay, in their order.

    Args:
        record: of COCO results or labels.
        mask: its new one.
        polygon_tolerance: where the record has polygons, write polygons that are at most so many
            pixels from the outline of the mask; they lose holes.
    """
    x0, y0, x1, y1 = mask.window
    segmentation: Any = rle.encode(mask)
    has_polygons = isinstance(record.get("segmentation"), list) and not mask.is_empty
    if polygon_tolerance is not None and has_polygons:
        outlines = polygons.trace_edges(mask, polygon_tolerance)
        segmentation = [points.ravel().tolist() for points in outlines.parts]
    new: dict[str, Any] = {"segmentation": segmentation}
    if "bbox" in record:
        new["bbox"] = [x0, y0, x1 - x0, y1 - y0]
    if "area" in record:
        new["area"] = mask.area
    return {**record, **new}


def detected_record(image_id: ImageId, instance: Instance) -> dict[str, Any]:
    """An entry of a results json for a new instance.

    It has no bbox: pycocotools would take the area of the instance from it, not from the mask.
    """
    return {
        "image_id": image_id,
        "category_id": instance.label,
        "segmentation": rle.encode(instance.mask),
        "score": round(instance.score, 7),
        **{name: instance.record[name] for name in ("keypoints",) if name in instance.record},
    }


def encode_results(
    records: Iterable[Mapping[str, Any]], data_set: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """The text of a results json, a record at a time, or that of a data set with its labels."""
    opening, closing = "[", "\n]\n"
    if data_set is not None:
        opening = f'{json.dumps(dict(data_set))[:-1]}, "annotations": ['
        closing = "\n]}\n"
    yield opening
    for index, record in enumerate(records):
        yield ("\n" if index == 0 else ",\n") + json.dumps(record)
    yield closing


def load_json(path: Path) -> Any:
    """Read a json file.

    Raises:
        ValueError: missing or not json; the message names file and line.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise ValueError(f"{path}: expected a readable json file, got: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not json, not UTF-8, endless numbers
        raise ValueError(f"{path}: expected json, got: {error}") from None


def _number(record: Mapping[str, Any], name: str, default: float) -> float:
    value = record.get(name, default)
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:  # an int of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a number, got {rle.short(value)}")
    return number


def _kind(value: Any) -> str:
    return {dict: "object", list: "list", str: "text", type(None): "null"}.get(
        type(value), "number"
    )
