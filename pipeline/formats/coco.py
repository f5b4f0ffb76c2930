"""COCO results: one json list of instances, each with image_id and segmentation."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from bpr._paths import AnyPath
from bpr.pipeline.formats import json_text, polygons, rle
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.text import decode_text, encode_pieces_like, kind_of, load_json, short
from bpr.pipeline.instance import Instance, Mask, Prediction, Size

ImageId = str
"""An id as text: ids of any type are names, and 1, 1.0 and "1" are one name."""

CROWD = "a crowd (iscrowd): --include-crowds refines it"
_OF_MASKS = ("segmentation", "bbox", "area")  # fields of a record that follow its mask
NO_MASK = "without a mask"


@dataclass(frozen=True, eq=False, kw_only=True)
class CocoResults:
    """A results file: its records as they came, grouped by image.

    Segmentations stay compressed until an image is read.
    """

    path: AnyPath
    records: Mapping[int, Mapping[str, Any]]  # by position in the file
    by_image: Mapping[ImageId, tuple[int, ...]]  # image id -> positions in records
    strays: Mapping[int, str]  # position of an entry without an image -> what is wrong with it
    data_set: Mapping[str, Any] | None = None
    """Of a data set's own labels, everything but the annotations; None of results."""
    kept: Mapping[int, str] = field(default_factory=dict)
    """Position of an entry that is nothing to refine -> why."""

    def part(self, image_ids: Iterable[ImageId]) -> CocoResults:
        """The results of these images alone; records keep their positions."""
        by_image = {image_id: self.by_image[image_id] for image_id in image_ids}
        positions = [index for found in by_image.values() for index in found]
        records = {index: self.records[index] for index in positions}
        return CocoResults(path=self.path, records=records, by_image=by_image, strays={})

    def segmentations(self, image_id: ImageId) -> Iterator[Any]:
        """The segmentations of an image, as the json has them."""
        return (self.records[index].get("segmentation") for index in self.by_image[image_id])


def load_results(path: AnyPath) -> CocoResults:
    """Read a results json; masks are decoded later, image by image.

    Raises:
        ValueError: not a json list.
    """
    return _group_results(path, load_json(path))


def load_results_or_labels(path: AnyPath, include_crowds: bool = False) -> CocoResults:
    """Read a results json, or the labels of a data set: an object with annotations and images.

    Annotations of crowds, and those without a mask, belong to no image: they are `kept`.

    Args:
        path: of the json.
        include_crowds: whether crowds are objects like others: CVAT marks its masks so.

    Raises:
        ValueError: neither of the two.
    """
    content = load_json(path)
    if isinstance(content, list):
        annotations, data_set = content, None
    else:
        annotations, data_set = _labels(path, content)
    kept = {}
    for index, record in enumerate(annotations):
        if isinstance(record, dict) and id_text(record.get("image_id")) is not None:
            if record.get("iscrowd") and not include_crowds:
                kept[index] = CROWD
            elif not record.get("segmentation"):
                kept[index] = NO_MASK
    return replace(_group_results(path, annotations, kept), data_set=data_set)


def _labels(path: AnyPath, content: Any) -> tuple[list[Any], dict[str, Any]]:
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list) or not isinstance(content.get("images"), list):
        raise ValueError(
            f"{path}: expected COCO results (a json list of instances), or a data set's labels "
            f"(an object with lists 'images' and 'annotations'), got another json "
            f"{kind_of(content)}"
        )
    if any(isinstance(item, dict) and "segments_info" in item for item in annotations):
        raise ValueError(
            f"{path}: this is COCO panoptic, whose masks are in PNGs: name the folder of the PNGs "
            "as PRED; each colour is refined, and stays the colour of its segment"
        )
    return annotations, {name: value for name, value in content.items() if name != "annotations"}


def id_text(value: Any) -> ImageId | None:
    """An id as a name; None for what cannot be an id."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # what pandas makes of ids
    if isinstance(value, float) and not math.isfinite(value):
        return None
    try:
        return str(value) if isinstance(value, (int, float, str)) else None
    except ValueError:  # an int of thousands of digits
        return None


def _group_results(
    path: AnyPath, content: Any, kept: Mapping[int, str] | None = None
) -> CocoResults:
    if not isinstance(content, list):
        raise ValueError(
            f"{path}: expected COCO results (a json list of instances), got a json "
            f"{kind_of(content)}"
        )
    by_image: dict[ImageId, list[int]] = {}
    strays = {}
    for index, record in enumerate(content):
        if kept is not None and index in kept:
            continue
        raw = record.get("image_id") if isinstance(record, dict) else record
        image_id = id_text(raw) if isinstance(record, dict) else None
        if image_id is None:
            strays[index] = (
                f"{path}, entry {index}: expected an object with an image_id (int or text), "
                f"got {short(raw) if isinstance(record, dict) else kind_of(record)}"
            )
        else:
            by_image.setdefault(image_id, []).append(index)
    positions = {key: tuple(value) for key, value in by_image.items()}
    return CocoResults(
        path=path,
        records=dict(enumerate(content)),
        by_image=positions,
        strays=strays,
        kept=kept or {},
    )


@dataclass(frozen=True)
class ImageEntry:
    """What a COCO json says about an image file."""

    raw_id: Any  # as the json has it
    file_name: str | None  # else the last part of coco_url or flickr_url; None without any
    size: Size | None  # (height, width), where it says so

    def __str__(self) -> str:
        return self.file_name or "an image without file_name"


def load_images(path: AnyPath) -> dict[ImageId, ImageEntry]:
    """The file of each image id, from any COCO json with `images`.

    Raises:
        ValueError: the json has no list `images` of objects with an id, or one id with two files.
    """
    return parse_images(path, load_json(path))


def parse_images(path: AnyPath, content: Any) -> dict[ImageId, ImageEntry]:
    """As `load_images`, of a json that is read already."""
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise ValueError(f"{path}: expected a COCO json with a list 'images', found none")
    entries: dict[ImageId, ImageEntry] = {}
    for index, image in enumerate(images):
        raw_id = image.get("id") if isinstance(image, dict) else None
        image_id = id_text(raw_id)
        if image_id is None:
            raise ValueError(
                f"{path}, images, entry {index}: expected an object with an id (int or text), got "
                f"{short(raw_id) if isinstance(image, dict) else kind_of(image)}"
            )
        sides = (_side(image.get("height")), _side(image.get("width")))
        size = None if sides[0] is None or sides[1] is None else (sides[0], sides[1])
        entry = ImageEntry(raw_id, _file_name(image), size)
        known = entries.setdefault(image_id, entry)
        if (known.file_name, known.size) != (entry.file_name, entry.size):
            raise ValueError(
                f"{path}: expected one file for each image id, but id {image_id} belongs to "
                f"{known} and to {entry}"
            )
    return entries


def _file_name(image: Mapping[str, Any]) -> str | None:
    if name := image.get("file_name"):
        return str(name)
    for field_name in ("coco_url", "flickr_url"):
        if url := image.get(field_name):
            return PurePosixPath(urlsplit(str(url)).path).name or None
    return None


def _side(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def read_instances(
    results: CocoResults, image_id: ImageId, size: Size
) -> tuple[dict[int, Instance], list[LeftObject]]:
    """Decode the instances of one image that can be decoded.

    Refining needs no category and no score: what is no number counts as label 0 and score 1, and
    stays in the record as it is.

    Args:
        results: from `load_results`.
        image_id: one of its images.
        size: (height, width) of the image file.

    Returns:
        The instances by their position in the file, and the entries that cannot be decoded.
    """
    instances, left = {}, []
    for index in results.by_image[image_id]:
        record = results.records[index]
        try:
            mask = rle.decode(record.get("segmentation"), size)
        except ValueError as error:
            left.append(LeftObject(f"entry {index}", str(error)))
            continue
        label = id_text(record.get("category_id"))
        number = int(label) if label is not None and re.fullmatch(r"-?[0-9]{1,18}", label) else 0
        try:
            score = _number(record, "score", 1.0)
        except ValueError:
            score = 1.0
        instances[index] = Instance(mask=mask, label=number, score=score, record=record)
    return instances, left


def read_prediction(
    results: CocoResults,
    image_id: ImageId,
    size: Size,
    labels: Mapping[str, int] | None = None,
) -> Prediction:
    """Decode all instances of one image, with their categories and scores.

    Args:
        results: from `load_results`.
        image_id: one of its images.
        size: (height, width) of the image file.
        labels: number of each category id, as text, where ids are not all ints.

    Raises:
        ValueError: an entry has no segmentation, one of another size, a score that is no number,
            or a category_id that is none.
    """
    instances = []
    for index in results.by_image[image_id]:
        record = results.records[index]
        try:
            mask = rle.decode(record.get("segmentation"), size)
            label = _label(record, labels or {})
            score = _number(record, "score", 1.0)
        except ValueError as error:
            raise ValueError(f"{results.path}, entry {index}: {error}") from None
        instances.append(Instance(mask=mask, label=label, score=score, record=record))
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


def detected_record(image_id: Any, instance: Instance) -> dict[str, Any]:
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


def encode_results(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The text of a results json, a record at a time."""
    yield "["
    for index, record in enumerate(records):
        yield ("\n" if index == 0 else ",\n") + json.dumps(record)
    yield "\n]\n"


def encode_refined(
    path: AnyPath, refined: Iterable[Mapping[str, Any] | None], is_data_set: bool
) -> Iterator[bytes]:
    """A json with other masks, every other byte as it was.

    Args:
        path: of the json, results or labels.
        refined: for each entry, in order, what `refined_record` gave; None where it stays.
        is_data_set: whether the json is a data set with labels.
    """
    content = path.read_bytes()
    text = decode_text(content)
    start = json_text.root_of(text)
    if is_data_set:
        start = json_text.members(text, start)["annotations"][0]

    def changes() -> Iterator[tuple[json_text.Span, str]]:
        for (begin, end), record in zip(json_text.items(text, start), refined, strict=True):
            if record is not None:
                before = json.loads(text[begin:end])
                new = {k: record[k] for k in _OF_MASKS if k in record and record[k] != before[k]}
                yield from json_text.changed_members(text, begin, new)

    return encode_pieces_like(json_text.splice(text, changes()), content)


def _label(record: Mapping[str, Any], labels: Mapping[str, int]) -> int:
    name = id_text(record.get("category_id", 0))
    if name is not None and name in labels:
        return labels[name]
    if name is None or not re.fullmatch(r"-?[0-9]{1,18}", name):
        raise ValueError(f"category_id: expected a number, got {short(record.get('category_id'))}")
    return int(name)


def _number(record: Mapping[str, Any], name: str, default: float) -> float:
    value = record.get(name, default)
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:  # an int of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a number, got {short(value)}")
    return number
