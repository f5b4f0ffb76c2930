"""LabelMe: a json per image with shapes; polygons and masks are instances, other shapes are not.

Polygons of one label and one group_id are parts of one instance.
Source: shape_to_mask and LabelFile of labelme.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from bpr._paths import AnyPath
from bpr.pipeline.formats import json_text, polygons
from bpr.pipeline.formats.frame import Frame
from bpr.pipeline.formats.images import NamedFile, encode_mask, read_mask
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.text import decode_text, encode_like, kind_of, load_json, short
from bpr.pipeline.instance import BoolArray, Instance, Mask, Size

_FAR = 10  # times the image's size; no shape comes near it


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelMeFile:
    """A parsed json."""

    path: AnyPath
    original: bytes
    content: Mapping[str, Any]
    image_name: str | None  # as the json has it, with slashes
    size: Size | None  # (height, width), where the json says so
    groups: tuple[tuple[int, ...], ...]  # positions in shapes of the parts of each instance
    left: tuple[LeftObject, ...]  # shapes that are nothing to refine, or cannot be read

    @property
    def frame(self) -> Frame:
        """What the shapes say about the size of the image."""
        points = [
            point
            for group in self.groups
            for index in group
            for point in self.content["shapes"][index]["points"]
        ]
        reach = None
        if points:
            reach = (max(float(x) for x, _ in points), max(float(y) for _, y in points))
        return Frame(reach=reach, claimed=self.size)

    def embedded_image(self) -> NamedFile | None:
        """The photograph that the json holds itself; None where it holds none."""
        data = self.content.get("imageData")
        if not isinstance(data, str) or not data:
            return None
        try:
            return NamedFile(base64.b64decode(data), f"{self.path}, imageData")
        except (binascii.Error, ValueError):
            raise ValueError(f"{self.path}: expected imageData in base64, got another") from None


def parse(path: AnyPath) -> LabelMeFile:
    """Read a json.

    Raises:
        ValueError: not LabelMe's.
    """
    content = load_json(path)
    if not is_label_file(content):
        raise ValueError(f"{path}: expected a LabelMe json with a list 'shapes', got another")
    groups: dict[Any, list[int]] = {}
    left = []
    for index, shape in enumerate(content["shapes"]):
        name = f"shape {index}"
        if not isinstance(shape, dict):
            left.append(LeftObject(name, f"expected an object, got {kind_of(shape)}"))
            continue
        kind = shape_type(shape)
        if kind not in ("polygon", "mask"):
            left.append(LeftObject(name, f"a {short(kind)}, not an outline", False))
            continue
        if reason := _wrong_points(shape.get("points"), 3 if kind == "polygon" else 2):
            left.append(LeftObject(name, reason, not _is_short(shape.get("points"))))
            continue
        group = shape.get("group_id")
        is_part = kind == "polygon" and group is not None
        key = (str(shape.get("label")), str(group)) if is_part else index
        groups.setdefault(key, []).append(index)
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (height, width) if type(height) is int and type(width) is int else None
    name = content.get("imagePath")
    image_name = PureWindowsPath(name).as_posix() if isinstance(name, str) and name else None
    return LabelMeFile(
        path=path,
        original=path.read_bytes(),
        content=content,
        image_name=image_name,
        size=size,
        groups=tuple(map(tuple, groups.values())),
        left=tuple(left),
    )


def shape_type(shape: Mapping[str, Any]) -> Any:
    """The type of a shape; null and nothing mean polygon, as in shape_to_mask of labelme."""
    return shape.get("shape_type") or "polygon"


def is_label_file(content: Any) -> bool:
    """Whether a json is one of LabelMe."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def read_instances(
    file: LabelMeFile, size: Size
) -> tuple[dict[int, Instance], Sequence[LeftObject]]:
    """Draw the shapes.

    Args:
        file: parsed.
        size: (height, width) of the image.

    Returns:
        The instances by the position of their group, and the shapes that stay as they are.
    """
    shapes = file.content["shapes"]
    instances, left = {}, list(file.left)
    for number, group in enumerate(file.groups):
        canvas = np.zeros(size, np.bool_)
        try:
            for index in group:
                where = f"{file.path}, shape {index}"
                if shape_type(shapes[index]) == "mask":
                    _draw_mask(shapes[index], canvas, where)
                else:
                    _draw_polygon(shapes[index], canvas)
        except ValueError as error:
            left.append(LeftObject(f"shape {index}", str(error)))
            continue
        instances[number] = Instance(mask=Mask.from_array(canvas), label=0, score=1.0)
    return instances, left


def encode(
    file: LabelMeFile, changed: Mapping[int, Mask], tolerance: float
) -> tuple[bytes, list[str]]:
    """The json with refined shapes, and what polygons could not hold.

    A mask stays a mask. A polygon becomes one polygon for each part of its mask; where these are
    several, they share a group_id. All other shapes stay as they are, and so do those of which
    nothing is left.

    Args:
        file: parsed.
        changed: new masks by the position of their group.
        tolerance: how far in pixels a polygon may be from the mask's outline.
    """
    shapes = file.content["shapes"]
    known = [s.get("group_id") for s in shapes if isinstance(s, dict)]
    next_group = max((group for group in known if type(group) is int), default=-1) + 1
    new: dict[int, list[dict[str, Any]]] = {}  # position -> the fields of what takes its place
    holes = 0
    for number, mask in changed.items():
        group = file.groups[number]
        if mask.is_empty:
            continue
        first = shapes[group[0]]
        if shape_type(first) == "mask":
            new[group[0]] = [_mask_fields(mask)]
            continue
        outlines = polygons.trace_pixels(mask, tolerance)
        holes += outlines.num_holes
        parts: list[dict[str, Any]] = [{"points": points.tolist()} for points in outlines.parts]
        if len(parts) > 1 and first.get("group_id") is None:
            parts = [{**part, "group_id": next_group} for part in parts]
            next_group += 1
        new[group[0]] = parts
        new.update({index: [] for index in group[1:]})
    if not new:
        return file.original, []
    text = _with_shapes(decode_text(file.original), new)
    return encode_like(text, file.original), polygons.describe_loss(holes)


def _with_shapes(text: str, new: Mapping[int, Sequence[dict[str, Any]]]) -> str:
    """A json in which some shapes have other fields, or are several, or gone."""
    start = json_text.members(text, json_text.root_of(text))["shapes"][0]
    spans = list(json_text.items(text, start))

    def shape(index: int, fields: dict[str, Any]) -> str:
        begin, end = spans[index]
        own = text[begin:end]
        return "".join(json_text.splice(own, json_text.changed_members(own, 0, fields)))

    written = [
        part
        for index, (begin, end) in enumerate(spans)
        for part in ([shape(index, f) for f in new[index]] if index in new else [text[begin:end]])
    ]
    between = text[spans[0][1] : spans[1][0]] if len(spans) > 1 else ", "
    if all(len(parts) == 1 for parts in new.values()):  # each gap as it was
        changes = [(spans[index], shape(index, parts[0])) for index, parts in new.items()]
        return "".join(json_text.splice(text, sorted(changes)))
    return text[: spans[0][0]] + between.join(written) + text[spans[-1][1] :]


def _wrong_points(points: Any, least: int) -> str:
    """What is wrong with the points of a shape; nothing where they are fine."""
    is_list = isinstance(points, list) and all(
        isinstance(point, list)
        and len(point) == 2
        and all(type(value) in (int, float) and abs(value) < 1e9 for value in point)
        for point in points
    )
    if is_list and len(points) >= least:
        return ""
    return f"expected at least {least} points [x, y], got {short(points)}"


def _is_short(points: Any) -> bool:
    return not points or (isinstance(points, list) and len(points) < 3)


def _draw_polygon(shape: Mapping[str, Any], canvas: BoolArray) -> None:
    height, width = canvas.shape
    points = np.array(shape["points"], np.float64)
    if np.abs(points).max() > _FAR * max(height, width):
        raise ValueError(f"expected points near the image, got {np.abs(points).max():g}")
    picture = Image.new("1", (width, height))
    ImageDraw.Draw(picture).polygon([(x, y) for x, y in points.tolist()], fill=1, outline=1)
    canvas |= np.asarray(picture)


def _draw_mask(shape: Mapping[str, Any], canvas: BoolArray, where: str) -> None:
    (x0, y0), (x1, y1) = np.array(shape["points"][:2], np.float64).astype(np.int64).tolist()
    try:
        png = base64.b64decode(shape.get("mask") or "", validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ValueError(f"{where}: expected 'mask' as a PNG in base64, got another") from None
    bitmap = read_mask(NamedFile(png, f"{where}, mask"), may_fill=True)
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
