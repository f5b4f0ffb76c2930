"""Darwin, the json of V7: polygons of several paths, and masks in a raster layer, per image.

Paths run between the pixels; a pixel is inside where it lies in an odd number of them.
Source: the schema of Darwin JSON 2.0 and darwin-py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpr._paths import AnyPath
from bpr.pipeline.formats import json_text, polygons
from bpr.pipeline.formats.frame import Frame
from bpr.pipeline.formats.label_maps import MapObjects, Values
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.text import decode_text, encode_like, load_json, short
from bpr.pipeline.instance import Instance, Mask, Size


@dataclass(frozen=True, eq=False)
class DarwinFile:
    """A parsed json."""

    path: AnyPath
    original: bytes
    content: Mapping[str, Any]

    @property
    def image_name(self) -> str:
        """The name in the json; without one that of the json."""
        item, image = self.content.get("item"), self.content.get("image")
        for part, name in ((item, "name"), (image, "original_filename"), (image, "filename")):
            if isinstance(part, dict) and isinstance(part.get(name), str):
                return str(part[name])
        return self.path.stem

    @property
    def annotations(self) -> Sequence[Any]:
        """The list of the json."""
        found: Sequence[Any] = self.content["annotations"]
        return found


def is_darwin(content: Any) -> bool:
    """Whether a json is an annotation of V7."""
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        return False
    if isinstance(content.get("item"), dict):
        return True
    return isinstance(content.get("image"), dict) and "filename" in content["image"]


def parse(path: AnyPath) -> DarwinFile:
    """Read a json.

    Raises:
        ValueError: not one of V7.
    """
    content = load_json(path)
    if not is_darwin(content):
        raise ValueError(f"{path}: expected a Darwin json (item and 'annotations'), got another")
    return DarwinFile(path, path.read_bytes(), content)


def frame(file: DarwinFile) -> Frame:
    """The size that the json names."""
    item = file.content.get("item")
    slots = item.get("slots") if isinstance(item, dict) else None
    first = slots[0] if isinstance(slots, list) and slots else file.content.get("image")
    match first:
        case {"height": int(height), "width": int(width)}:
            return Frame(claimed=(height, width))
    return Frame()


def read_instances(
    file: DarwinFile, size: Size
) -> tuple[dict[int, Instance], Sequence[LeftObject]]:
    """Fill polygons and read the masks of raster layers; other annotations stay as they are.

    Args:
        file: parsed.
        size: (height, width) of the image.
    """
    instances: dict[int, Instance] = {}
    left: list[LeftObject] = []
    layers = _layers(file, size, left)
    in_layers = {index: mask for layer in layers for index, mask in layer.masks.items()}
    for index, item in enumerate(file.annotations):
        name = f"annotation {index}"
        if index in in_layers:
            instances[index] = Instance(mask=in_layers[index], label=0, score=1.0)
        elif isinstance(item, dict) and "polygon" in item:
            try:
                mask = polygons.fill_even_odd(_paths(item["polygon"], size), size)
            except ValueError as error:
                left.append(LeftObject(name, str(error)))
                continue
            instances[index] = Instance(mask=mask, label=0, score=1.0)
        elif not isinstance(item, dict) or "raster_layer" not in item:
            kind = "a mask that no raster layer has" if _is_mask(item) else "no polygon and no mask"
            left.append(LeftObject(name, kind, _is_mask(item)))
    return instances, left


def encode(
    file: DarwinFile, changed: Mapping[int, Mask], tolerance: float
) -> tuple[bytes, list[str]]:
    """The json with refined masks, every other byte as it was.

    Bounding boxes follow their polygons. Masks of which nothing is left stay.

    Args:
        file: parsed.
        changed: new masks by position.
        tolerance: how far in pixels a path may be from the mask's outline.
    """
    text = decode_text(file.original)
    root = json_text.root_of(text)
    spans = list(json_text.items(text, json_text.members(text, root)["annotations"][0]))
    changes = []
    new = {index: mask for index, mask in changed.items() if not mask.is_empty}
    for index, mask in new.items():
        item = file.annotations[index]
        own = json_text.members(text, spans[index][0])
        if "polygon" in item:
            paths = _written(item["polygon"], mask, tolerance)
            changes += json_text.changed_members(text, own["polygon"][0], paths)
        if isinstance(item.get("bounding_box"), dict):
            x0, y0, x1, y1 = mask.window
            box = {"h": y1 - y0, "w": x1 - x0, "x": x0, "y": y0}
            changes.append((own["bounding_box"], json_text.dump(box)))
    size = next(iter(new.values())).size if new else (0, 0)
    for layer in _layers(file, size, []) if new else ():
        if layer.masks.keys() & new.keys():
            own = json_text.members(text, spans[layer.index][0])
            content = {"dense_rle": layer.with_masks(new)}
            changes += json_text.changed_members(text, own["raster_layer"][0], content)
    if not changes:
        return file.original, []
    return encode_like("".join(json_text.splice(text, sorted(changes))), file.original), []


@dataclass(frozen=True, eq=False)
class _Layer:
    """A raster layer: a map of values, each of which is a mask annotation."""

    index: int  # of its annotation
    values: Values  # (H, W)
    numbers: Mapping[int, int]  # value in the map, by the position of the mask's annotation

    @property
    def masks(self) -> dict[int, Mask]:
        """By the position of their annotations."""
        return {
            index: Mask.from_array(self.values == value) for index, value in self.numbers.items()
        }

    def with_masks(self, new: Mapping[int, Mask]) -> list[int]:
        """The map's code with some other masks."""
        masks = self.masks
        objects = tuple((self.numbers[index], mask) for index, mask in masks.items())
        is_void = ~np.isin(self.values, [0, *self.numbers.values()])
        refined = [new.get(index, mask) for index, mask in masks.items()]
        flat = MapObjects(self.values, objects, is_void, 0).with_masks(refined).ravel()
        starts = np.flatnonzero(np.diff(flat, prepend=flat[0] + 1))
        lengths = np.diff(starts, append=len(flat))
        code: list[int] = np.column_stack([flat[starts], lengths]).ravel().tolist()
        return code


def _layers(file: DarwinFile, size: Size, left: list[LeftObject]) -> list[_Layer]:
    """The raster layers; what cannot be read goes to `left`."""
    positions = {
        item["id"]: index
        for index, item in enumerate(file.annotations)
        if _is_mask(item) and isinstance(item.get("id"), str)
    }
    found = []
    for index, item in enumerate(file.annotations):
        layer = item.get("raster_layer") if isinstance(item, dict) else None
        if layer is None:
            continue
        try:
            values = _decode(layer, size)
        except ValueError as error:
            left.append(LeftObject(f"annotation {index}", str(error)))
            continue
        numbers = {
            positions[name]: value
            for name, value in layer["mask_annotation_ids_mapping"].items()
            if name in positions and type(value) is int and value > 0
        }
        found.append(_Layer(index, values, numbers))
    return found


def _decode(layer: Any, size: Size) -> Values:
    """(H, W) of a run-length code: value, length, value, length ... along the rows."""
    match layer:
        case {"dense_rle": list(code), "mask_annotation_ids_mapping": dict()}:
            pass
        case _:
            raise ValueError(f"raster_layer: expected dense_rle and a mapping, got {short(layer)}")
    if not all(type(value) is int and 0 <= value < 2**31 for value in code):
        raise ValueError(f"raster_layer: expected dense_rle of ints, got {short(code)}")
    pairs = np.array(code[: len(code) // 2 * 2], np.int64).reshape(-1, 2)
    if len(code) % 2 or int(pairs[:, 1].sum()) != size[0] * size[1]:
        raise ValueError(
            f"raster_layer: expected a dense_rle of {size[0] * size[1]} pixels, got "
            f"{int(pairs[:, 1].sum())}"
        )
    return np.repeat(pairs[:, 0], pairs[:, 1]).reshape(size)


def _paths(polygon: Any, size: Size) -> list[polygons.Points]:
    """The outlines of a polygon; version 1 has one path and additional ones."""
    if not isinstance(polygon, dict):
        raise ValueError(f"polygon: expected paths, got {short(polygon)}")
    paths: Any = polygon.get("paths")
    if "path" in polygon:
        more = polygon.get("additional_paths") or []
        paths = [polygon["path"], *more] if isinstance(more, list) else None
    if not isinstance(paths, list) or not paths:
        raise ValueError(f"polygon: expected paths, got {short(paths)}")
    return [_path(path, size) for path in paths]


def _path(path: Any, size: Size) -> polygons.Points:
    points = isinstance(path, list) and all(isinstance(p, dict) for p in path)
    if not points:
        raise ValueError(f"polygon: expected a path of points x and y, got {short(path)}")
    found = polygons.as_points([p.get("x") for p in path], [p.get("y") for p in path])
    return polygons.check_near(found, size)


def _written(polygon: Mapping[str, Any], mask: Mask, tolerance: float) -> dict[str, Any]:
    outlines = polygons.trace_edges(mask, tolerance)
    paths = [
        [{"x": round(x, 2), "y": round(y, 2)} for x, y in points.tolist()]
        for points in (*outlines.parts, *outlines.holes)
    ]
    if "path" not in polygon:
        return {"paths": paths}
    return {"path": paths[0], "additional_paths": paths[1:]}


def _is_mask(item: Any) -> bool:
    return isinstance(item, dict) and "mask" in item
