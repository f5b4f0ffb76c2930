"""LabelMe: a json per image with shapes; polygons and masks are instances, other shapes are not.

Polygons of one label and one group_id are parts of one instance.
Source: shape_to_mask and LabelFile of labelme.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from bpr.pipeline.formats import polygons
from bpr.pipeline.formats.coco import load_json
from bpr.pipeline.formats.images import NamedFile, encode_mask, read_mask
from bpr.pipeline.instance import BoolArray, Instance, Mask, Prediction, Size, differing_pixels

_FAR = 10  # times the image's size; no shape comes near it


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelMeFile:
    """A parsed json."""

    path: Path
    content: Mapping[str, Any]
    image_name: str  # as the json has it, with slashes
    size: Size | None  # (height, width), where the json says so
    groups: tuple[tuple[int, ...], ...]  # positions in shapes of the parts of each instance


def parse(path: Path) -> LabelMeFile:
    """Read a json.

    Raises:
        ValueError: not LabelMe's, or a polygon or mask without label and points.
    """
    content = load_json(path)
    if not is_label_file(content):
        raise ValueError(f"{path}: expected a LabelMe json with a list 'shapes', got another")
    if not isinstance(content.get("imagePath"), str):
        raise ValueError(f"{path}: expected 'imagePath', the name of the image, got none")
    groups: dict[Any, list[int]] = {}
    for index, shape in enumerate(content["shapes"]):
        where = f"{path}, shape {index}"
        if not isinstance(shape, dict):
            raise ValueError(f"{where}: expected an object, got {type(shape).__name__}")
        kind = shape.get("shape_type", "polygon")
        if kind not in ("polygon", "mask"):
            continue
        _check_points(shape.get("points"), 3 if kind == "polygon" else 2, where)
        group = shape.get("group_id")
        is_part = kind == "polygon" and group is not None
        key = (str(shape.get("label")), group) if is_part else index
        groups.setdefault(key, []).append(index)
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    name = PureWindowsPath(content["imagePath"]).as_posix()
    return LabelMeFile(
        path=path,
        content=content,
        image_name=name,
        size=size,
        groups=tuple(map(tuple, groups.values())),
    )


def is_label_file(content: Any) -> bool:
    """Whether a json is one of LabelMe."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def read_instances(file: LabelMeFile, size: Size) -> tuple[Instance, ...]:
    """Draw the shapes.

    Args:
        file: parsed.
        size: (height, width) of the image.

    Raises:
        ValueError: a mask is broken or leaves the image, or the json tells another size.
    """
    if file.size not in (None, size):
        raise ValueError(
            f"{file.path}: expected imageHeight and imageWidth of the image, {size}, got "
            f"{file.size}"
        )
    shapes = file.content["shapes"]
    instances = []
    for group in file.groups:
        canvas = np.zeros(size, np.bool_)
        for index in group:
            where = f"{file.path}, shape {index}"
            if shapes[index].get("shape_type") == "mask":
                _draw_mask(shapes[index], canvas, where)
            else:
                _draw_polygon(shapes[index], canvas, where)
        instances.append(Instance(Mask.from_array(canvas), 0, 1.0))
    return tuple(instances)


def encode(
    file: LabelMeFile, before: Sequence[Mask], refined: Prediction, tolerance: float
) -> tuple[bytes, list[str]]:
    """The json with refined shapes, and what polygons could not hold.

    A mask stays a mask. A polygon becomes one polygon for each part of its mask; where these are
    several, they share a group_id. Shapes of masks that have not changed or of which nothing is
    left stay as they are.

    Args:
        file: parsed.
        before: the masks of its groups.
        refined: of the same order.
        tolerance: how far in pixels a polygon may be from the mask's outline.
    """
    shapes = file.content["shapes"]
    known = [s.get("group_id") for s in shapes if isinstance(s.get("group_id"), int)]
    next_group = max(known, default=-1) + 1
    new: dict[int, list[Mapping[str, Any]]] = {}  # position -> what takes its place
    holes = 0
    for group, old, instance in zip(file.groups, before, refined.instances, strict=True):
        mask = instance.mask
        if mask.is_empty or differing_pixels(old, mask) == 0:
            continue
        first = shapes[group[0]]
        if first.get("shape_type") == "mask":
            new[group[0]] = [{**first, **_mask_fields(mask)}]
            continue
        outlines = polygons.trace_pixels(mask, tolerance)
        holes += outlines.num_holes
        parts: list[Mapping[str, Any]] = [
            {**first, "points": points.tolist()} for points in outlines.parts
        ]
        if len(parts) > 1 and first.get("group_id") is None:
            parts = [{**part, "group_id": next_group} for part in parts]
            next_group += 1
        new[group[0]] = parts
        new.update({index: [] for index in group[1:]})
    written = [part for index, shape in enumerate(shapes) for part in new.get(index, [shape])]
    text = json.dumps({**file.content, "shapes": written}, ensure_ascii=False, indent=2)
    return text.encode("utf-8", "surrogatepass"), polygons.describe_loss(holes)


def _check_points(points: Any, least: int, where: str) -> None:
    is_list = isinstance(points, list) and all(
        isinstance(point, list)
        and len(point) == 2
        and all(type(value) in (int, float) and abs(value) < 1e9 for value in point)
        for point in points
    )
    if not is_list or len(points) < least:
        raise ValueError(
            f"{where}: expected at least {least} points [x, y], got {str(points)[:60]}"
        )


def _draw_polygon(shape: Mapping[str, Any], canvas: BoolArray, where: str) -> None:
    height, width = canvas.shape
    points = np.array(shape["points"], np.float64)
    if np.abs(points).max() > _FAR * max(height, width):
        raise ValueError(f"{where}: expected points near the image, got {points.max():g}")
    picture = Image.new("1", (width, height))
    ImageDraw.Draw(picture).polygon([(x, y) for x, y in points.tolist()], fill=1, outline=1)
    canvas |= np.asarray(picture)


def _draw_mask(shape: Mapping[str, Any], canvas: BoolArray, where: str) -> None:
    (x0, y0), (x1, y1) = np.array(shape["points"][:2], np.float64).astype(np.int64).tolist()
    try:
        png = base64.b64decode(shape.get("mask") or "", validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ValueError(f"{where}: expected 'mask' as a PNG in base64, got another") from None
    bitmap = read_mask(NamedFile(png, f"{where}, mask"))
    height, width = canvas.shape
    box = (y1 - y0 + 1, x1 - x0 + 1)  # the second point is the last pixel
    if bitmap.shape != box or not (min(x0, y0) >= 0 and x1 < width and y1 < height):
        raise ValueError(
            f"{where}: expected a mask of the size of its points' box inside the image, "
            f"{box} (height, width), got {bitmap.shape}"
        )
    canvas[y0 : y1 + 1, x0 : x1 + 1] |= bitmap


def _mask_fields(mask: Mask) -> dict[str, Any]:
    x0, y0, x1, y1 = mask.window
    cut = Mask.from_array(mask.bitmap)
    return {
        "points": [[float(x0), float(y0)], [float(x1 - 1), float(y1 - 1)]],
        "mask": base64.b64encode(encode_mask(cut)).decode("ascii"),
    }
