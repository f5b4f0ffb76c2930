"""Supervisely: `<image name>.json` per image with bitmaps and polygons.

Source: Bitmap.base64_2_data, Bitmap.data_2_base64 and Polygon of the Supervisely SDK.
"""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from bpr._paths import AnyPath
from bpr.pipeline.formats import json_text, polygons
from bpr.pipeline.formats.frame import Frame
from bpr.pipeline.formats.images import NamedFile, read_mask
from bpr.pipeline.formats.label_maps import connected_parts
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.text import decode_text, encode_like, load_json, short
from bpr.pipeline.instance import Instance, Mask, Size, grow

_LARGEST = 2**28  # bytes of a bitmap's PNG


@dataclass(frozen=True, eq=False)
class SuperviselyFile:
    """A parsed json."""

    path: AnyPath
    original: bytes
    objects: Sequence[Any]
    size: Size | None  # (height, width), where the json says so

    @property
    def image_name(self) -> str:
        """The json is called as its image, with a further ending."""
        return self.path.stem


def is_supervisely(content: Any) -> bool:
    """Whether a json is an annotation of Supervisely."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("objects"), list)
        and isinstance(content.get("size"), dict)
    )


def parse(path: AnyPath) -> SuperviselyFile:
    """Read a json.

    Raises:
        ValueError: not one of Supervisely.
    """
    content = load_json(path)
    if not is_supervisely(content):
        raise ValueError(
            f"{path}: expected a Supervisely annotation (size and a list 'objects'), got another"
        )
    height, width = content["size"].get("height"), content["size"].get("width")
    size = (height, width) if type(height) is int and type(width) is int else None
    return SuperviselyFile(path, path.read_bytes(), content["objects"], size)


def frame(file: SuperviselyFile) -> Frame:
    """The size that the json names."""
    return Frame(claimed=file.size)


def read_instances(
    file: SuperviselyFile, size: Size
) -> tuple[dict[int, Instance], Sequence[LeftObject]]:
    """Decode bitmaps and fill polygons; other objects stay as they are.

    Args:
        file: parsed.
        size: (height, width) of the image.
    """
    instances, left = {}, []
    for index, item in enumerate(file.objects):
        kind = item.get("geometryType") if isinstance(item, dict) else None
        if kind not in ("bitmap", "polygon"):
            left.append(LeftObject(f"object {index}", f"a {short(kind)}, not a mask", False))
            continue
        try:
            mask = _read_bitmap(item, size) if kind == "bitmap" else _read_polygon(item, size)
        except ValueError as error:
            left.append(LeftObject(f"object {index}", str(error)))
            continue
        instances[index] = Instance(mask=mask, label=0, score=1.0)
    return instances, left


def encode(
    file: SuperviselyFile, changed: Mapping[int, Mask], tolerance: float
) -> tuple[bytes, list[str]]:
    """The json with refined objects, every other byte as it was, and what polygons cannot hold.

    Args:
        file: parsed.
        changed: new masks by the position of their object; those of which nothing is left stay.
        tolerance: how far in pixels a polygon may be from the mask's outline.
    """
    text = decode_text(file.original)
    root = json_text.root_of(text)
    spans = list(json_text.items(text, json_text.members(text, root)["objects"][0]))
    changes, joined = [], 0
    for index, mask in changed.items():
        if mask.is_empty:
            continue
        own = json_text.members(text, spans[index][0])
        if file.objects[index]["geometryType"] == "bitmap":
            changes += json_text.changed_members(text, own["bitmap"][0], _bitmap(mask))
        else:
            points, parts = _points(mask, tolerance)
            joined += parts > 1
            changes += json_text.changed_members(text, own["points"][0], points)
    if not changes:
        return file.original, []
    new = "".join(json_text.splice(text, sorted(changes)))
    return encode_like(new, file.original), polygons.describe_loss(0, joined)


def _read_bitmap(item: Mapping[str, Any], size: Size) -> Mask:
    bitmap = item.get("bitmap")
    data = bitmap.get("data") if isinstance(bitmap, dict) else None
    origin = bitmap.get("origin") if isinstance(bitmap, dict) else None
    match origin:
        case [int(x), int(y)]:
            pass
        case _:
            raise ValueError(f"bitmap: expected an origin [x, y], got {short(origin)}")
    try:
        packed = base64.b64decode(data if isinstance(data, str) else "", validate=True)
        unpacker = zlib.decompressobj()
        png = unpacker.decompress(packed, _LARGEST)
    except (binascii.Error, zlib.error, ValueError):
        raise ValueError("bitmap: expected data as a packed PNG in base64, got another") from None
    pixels = read_mask(NamedFile(png, "bitmap"), may_fill=True)
    height, width = size
    if x < 0 or y < 0 or x + pixels.shape[1] > width or y + pixels.shape[0] > height:
        raise ValueError(
            f"bitmap: expected one inside the image, {width} x {height}, got "
            f"{pixels.shape[1]} x {pixels.shape[0]} at {x}, {y}"
        )
    return Mask.from_array(pixels, (x, y), size)


def _bitmap(mask: Mask) -> dict[str, Any]:
    tight = Mask.from_array(mask.bitmap, mask.window[:2], mask.size)
    picture = Image.fromarray(tight.bitmap.view(np.uint8))
    picture.putpalette([0, 0, 0, 255, 255, 255])
    buffer = io.BytesIO()
    picture.save(buffer, "png", transparency=0)
    data = base64.b64encode(zlib.compress(buffer.getvalue())).decode("ascii")
    return {"data": data, "origin": list(tight.window[:2])}


def _read_polygon(item: Mapping[str, Any], size: Size) -> Mask:
    points = item.get("points")
    if not isinstance(points, dict):
        raise ValueError(f"points: expected exterior and interior, got {short(points)}")
    mask = polygons.fill(_outline(points.get("exterior"), size), size)
    interior = points.get("interior") or []
    if not isinstance(interior, list):
        raise ValueError(f"interior: expected a list of outlines, got {short(interior)}")
    bitmap = np.array(mask.bitmap)
    for hole in interior:
        bitmap &= ~polygons.fill(_outline(hole, size), size).read(mask.window)
    return Mask.from_array(bitmap, mask.window[:2], size)


def _outline(points: Any, size: Size) -> polygons.Points:
    pairs = isinstance(points, list) and all(isinstance(p, list) and len(p) == 2 for p in points)
    if not pairs:
        raise ValueError(f"expected an outline [[x, y], ...], got {short(points)}")
    found = polygons.as_points([x for x, _ in points], [y for _, y in points])
    return polygons.check_near(found, size)


def _points(mask: Mask, tolerance: float) -> tuple[dict[str, Any], int]:
    """Exterior and interior, and how many parts the exterior joins."""
    parts = polygons.trace_pixels(mask, tolerance).parts
    exterior = polygons.join(parts)
    box = grow(mask.window, 1, mask.size)
    filled = polygons.fill(exterior, mask.size).read(box)
    holes = connected_parts(filled & ~mask.read(box), box[:2], mask.size)
    interior = [_listed(polygons.trace_pixels(hole, tolerance).parts[0]) for hole in holes]
    return {"exterior": _listed(exterior), "interior": interior}, len(parts)


def _listed(points: polygons.Points) -> list[list[int]]:
    listed: list[list[int]] = points.round().astype(int).tolist()
    return listed
