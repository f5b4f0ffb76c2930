"""Jsons whose masks are in a PNG per image: COCO panoptic, and releases of Segments.ai.

The colour of a pixel is the id of its segment: red + 256 green + 65536 blue.
Source: the panoptic API of COCO; export_dataset and load_label_bitmap_from_url of Segments.ai.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from bpr._paths import AnyPath
from bpr.pipeline.formats import json_text
from bpr.pipeline.formats.coco import id_text, parse_images
from bpr.pipeline.formats.label_maps import MapObjects, Values, connected_parts
from bpr.pipeline.formats.text import decode_text, encode_like, load_json, short
from bpr.pipeline.instance import Mask

_LABEL_SETS = ("ground-truth",)  # of Segments.ai; else the first one


@dataclass(frozen=True)
class Segment:
    """A segment that the json lists."""

    id: int
    is_thing: bool  # one object; else each connected region is one
    place: tuple[str | int, ...]  # of its entry in the json


@dataclass(frozen=True, kw_only=True)
class SegmentedImage:
    """What a json says about an image."""

    names: tuple[str, ...]  # what the image file may be called, in the order of preference
    png: str  # name of the file with its segments
    segments: tuple[Segment, ...]  # that are refined: crowds are not


@dataclass(frozen=True, eq=False, kw_only=True)
class SegmentsFile:
    """A parsed json."""

    path: AnyPath
    images: Mapping[str, SegmentedImage]  # by image id, or name of the sample
    zero_is_void: bool  # pixels of no segment stay; else they are background

    def part(self, key: str) -> SegmentsFile:
        """The same with one image."""
        return replace(self, images={key: self.images[key]})

    def objects(self, key: str, values: Values) -> tuple[MapObjects, list[Segment]]:
        """The objects in a map of segment ids, and the segment of each.

        Things are one object each, of stuff each connected region is one.

        Args:
            key: of the image.
            values: (H, W) segment ids.
        """
        found: list[tuple[int, Mask]] = []
        owners: list[Segment] = []
        listed = self.images[key].segments
        for segment in listed:
            bitmap = values == segment.id
            if not bitmap.any():
                continue
            parts = [Mask.from_array(bitmap)] if segment.is_thing else connected_parts(bitmap)
            found += [(segment.id, part) for part in parts]
            owners += [segment] * len(parts)
        known = [segment.id for segment in listed]
        is_void = ~np.isin(values, known if self.zero_is_void else [0, *known])
        background = None if self.zero_is_void else 0
        return MapObjects(values, tuple(found), is_void, background), owners

    def encode(self, changed: Sequence[tuple[Sequence[str | int], Mapping[str, Any]]]) -> bytes:
        """The json with other fields of some segments, every other byte as it was.

        Args:
            changed: the place of a segment's entry, and its new fields. Fields that the entry does
                not have are not added.
        """
        content = self.path.read_bytes()
        text = decode_text(content)
        changes = []
        for place, fields in changed:
            begin, _ = json_text.find(text, place)
            there = json_text.members(text, begin)
            new = {name: value for name, value in fields.items() if name in there}
            changes += json_text.changed_members(text, begin, new)
        return encode_like("".join(json_text.splice(text, sorted(changes))), content)


def is_panoptic(content: Any) -> bool:
    """Whether a json is COCO panoptic."""
    annotations = content.get("annotations") if isinstance(content, dict) else None
    return isinstance(annotations, list) and any(
        isinstance(item, dict) and "segments_info" in item for item in annotations
    )


def is_segments_ai(content: Any) -> bool:
    """Whether a json is a release of Segments.ai."""
    data_set = content.get("dataset") if isinstance(content, dict) else None
    return isinstance(data_set, dict) and isinstance(data_set.get("samples"), list)


def parse(path: AnyPath) -> SegmentsFile:
    """Read a json of one of the two.

    Raises:
        ValueError: neither of them, or an entry that cannot be read.
    """
    content = load_json(path)
    if is_panoptic(content):
        return _parse_panoptic(path, content)
    if is_segments_ai(content):
        return _parse_segments_ai(path, content)
    raise ValueError(
        f"{path}: expected COCO panoptic or a release of Segments.ai, got another json"
    )


def _parse_panoptic(path: AnyPath, content: Any) -> SegmentsFile:
    entries = parse_images(path, content) if "images" in content else {}
    categories = content.get("categories")
    stuff = {
        id_text(item.get("id"))
        for item in (categories if isinstance(categories, list) else [])
        if isinstance(item, dict) and item.get("isthing") == 0
    }
    images: dict[str, SegmentedImage] = {}
    for index, item in enumerate(content["annotations"]):
        where = f"{path}, annotations, entry {index}"
        image_id = id_text(item.get("image_id")) if isinstance(item, dict) else None
        png = item.get("file_name") if isinstance(item, dict) else None
        if image_id is None or not isinstance(png, str) or not png:
            raise ValueError(f"{where}: expected image_id and file_name, got {short(item)}")
        if image_id in images:
            raise ValueError(f"{where}: expected one entry for each image, got {image_id} twice")
        name = entries[image_id].file_name if image_id in entries else None
        images[image_id] = SegmentedImage(
            names=(name,) if name else (PurePosixPath(png).stem, image_id.zfill(12)),
            png=PurePosixPath(png.replace("\\", "/")).name,
            segments=_segments(
                item.get("segments_info"), ("annotations", index, "segments_info"), where, stuff
            ),
        )
    return SegmentsFile(path=path, images=images, zero_is_void=True)


def _parse_segments_ai(path: AnyPath, content: Any) -> SegmentsFile:
    images: dict[str, SegmentedImage] = {}
    for index, sample in enumerate(content["dataset"]["samples"]):
        where = f"{path}, samples, entry {index}"
        name = sample.get("name") if isinstance(sample, dict) else None
        labels = sample.get("labels") if isinstance(sample, dict) else None
        if not isinstance(name, str) or not name:
            raise ValueError(f"{where}: expected a sample with a name, got {short(sample)}")
        if name in images:
            raise ValueError(f"{where}: expected samples of different names, got {name} twice")
        labels = labels if isinstance(labels, dict) else {}
        label_sets = (*_LABEL_SETS, *labels)
        chosen = next((one for one in label_sets if isinstance(labels.get(one), dict)), None)
        if chosen is None:
            continue  # nobody has labelled it
        attributes = labels[chosen].get("attributes")
        if not isinstance(attributes, dict):
            continue
        bitmap = attributes.get("segmentation_bitmap")
        url = bitmap.get("url") if isinstance(bitmap, dict) else None
        stem = PurePosixPath(name).stem
        place = ("dataset", "samples", index, "labels", chosen, "attributes", "annotations")
        images[name] = SegmentedImage(
            names=(name, stem),
            png=PurePosixPath(urlsplit(str(url or "")).path).name or f"{stem}_label_{chosen}.png",
            segments=_segments(attributes.get("annotations"), place, where, frozenset()),
        )
    return SegmentsFile(path=path, images=images, zero_is_void=False)


def png_names(image: SegmentedImage) -> list[str]:
    """What the file with the segments may be called: a download has a name of its own."""
    stem = PurePosixPath(image.names[0]).stem
    return [image.png, f"{stem}_label_ground-truth.png", f"{stem}.png"]


def _segments(
    entries: Any, place: tuple[str | int, ...], where: str, stuff: Any
) -> tuple[Segment, ...]:
    if not isinstance(entries, list):
        raise ValueError(f"{where}: expected a list of segments, got {short(entries)}")
    found = []
    for number, entry in enumerate(entries):
        number_of = entry.get("id") if isinstance(entry, dict) else None
        if type(number_of) is not int or not 0 < number_of < 2**24:
            raise ValueError(f"{where}, segment {number}: expected an id in 1..{2**24 - 1}")
        if not entry.get("iscrowd"):
            is_thing = id_text(entry.get("category_id")) not in stuff
            found.append(Segment(number_of, is_thing, (*place, number)))
    return tuple(found)
