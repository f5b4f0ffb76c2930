"""VGG Image Annotator (VIA 1 and 2): a json with the polygons of many images.

Polygons run through pixel indices. Other regions (boxes, circles, points) are no masks.
Source: the project files of via.html and its "Export Annotations (as json)".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.formats import json_text, polygons
from bpr.pipeline.formats.frame import Frame
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.text import decode_text, encode_like, kind_of, load_json, short
from bpr.pipeline.instance import Instance, Mask, Size

_METADATA = "_via_img_metadata"


@dataclass(frozen=True)
class Region:
    """One region of an image."""

    key: str  # of the image in the json
    number: int | str  # in its list, or, of VIA 1, its name
    content: Any  # of the json


@dataclass(frozen=True, eq=False, kw_only=True)
class ViaFile:
    """A parsed json."""

    path: AnyPath
    regions: Mapping[int, Region]  # by position in the file
    by_image: Mapping[str, tuple[int, ...]]  # file name -> positions in regions

    def images(self) -> Sequence[str]:
        """File names, in order; of those with a region."""
        return list(self.by_image)

    def part(self, image: str) -> ViaFile:
        """The same with one image."""
        own = self.by_image[image]
        regions = {index: self.regions[index] for index in own}
        return replace(self, regions=regions, by_image={image: own})

    def objects(self, image: str) -> Any:
        """What the file says about the objects of an image, json-ready."""
        return [self.regions[index].content for index in self.by_image[image]]

    def frame(self, image: str) -> Frame:
        """What the regions say about the size of their image."""
        found = [points for _, points, _ in self._read(image) if points is not None]
        if not found:
            return Frame()
        xs, ys = (max(float(points[:, axis].max()) for points in found) for axis in (0, 1))
        return Frame(reach=(xs, ys))

    def read_instances(
        self, image: str, size: Size
    ) -> tuple[dict[int, Instance], list[LeftObject]]:
        """Fill the polygons; regions that are none stay as they are."""
        instances, left = {}, []
        for index, points, reason in self._read(image):
            if points is None:
                left.append(reason)
                continue
            try:
                mask = polygons.fill(polygons.check_near(points, size), size)
            except ValueError as error:
                left.append(LeftObject(self._name(index), str(error)))
                continue
            instances[index] = Instance(mask=mask, label=0, score=1.0)
        return instances, left

    def refined(self, mask: Mask, tolerance: float) -> tuple[Any, list[str]]:
        """What takes the place of a region's points, json-ready, and what it cannot hold."""
        outlines = polygons.trace_pixels(mask, tolerance)
        points = polygons.join(outlines.parts).round().astype(int)
        notes = polygons.describe_loss(outlines.num_holes, int(len(outlines.parts) > 1))
        new = {"all_points_x": points[:, 0].tolist(), "all_points_y": points[:, 1].tolist()}
        return new, notes

    def encode(self, changed: Mapping[int, Any]) -> bytes:
        """The file with other points, by position."""
        content = self.path.read_bytes()
        text = decode_text(content)
        root = json_text.root_of(text)
        images = json_text.members(text, root)
        if _METADATA in images:
            images = json_text.members(text, images[_METADATA][0])
        changes = []
        for index, new in changed.items():
            region = self.regions[index]
            own = json_text.members(text, images[region.key][0])["regions"][0]
            if isinstance(region.number, str):
                start = json_text.members(text, own)[region.number][0]
            else:
                start = list(json_text.items(text, own))[region.number][0]
            shape = json_text.members(text, start)["shape_attributes"][0]
            changes += json_text.changed_members(text, shape, new)
        return encode_like("".join(json_text.splice(text, sorted(changes))), content)

    def _read(self, image: str) -> Iterator[tuple[int, polygons.Points | None, LeftObject]]:
        for index in self.by_image[image]:
            content = self.regions[index].content
            shape = content.get("shape_attributes") if isinstance(content, dict) else None
            if not isinstance(shape, dict):
                got = f"expected a region with shape_attributes, got {short(content)}"
                yield index, None, LeftObject(self._name(index), got)
                continue
            if shape.get("name") != "polygon":
                got = f"a {short(shape.get('name'))}, not an outline"
                yield index, None, LeftObject(self._name(index), got, False)
                continue
            try:
                points = polygons.as_points(shape.get("all_points_x"), shape.get("all_points_y"))
                yield index, points, LeftObject("", "")
            except ValueError as error:
                yield index, None, LeftObject(self._name(index), str(error))

    def _name(self, index: int) -> str:
        return f"region {self.regions[index].number}"


def is_via(content: Any) -> bool:
    """Whether a json is a project or an export of VIA."""
    images = _images(content)
    return bool(images) and all(
        isinstance(value, dict) and "filename" in value and "regions" in value
        for value in images.values()
    )


def parse(path: AnyPath) -> ViaFile:
    """Read a json.

    Raises:
        ValueError: not one of VIA.
    """
    content = load_json(path)
    if not is_via(content):
        raise ValueError(
            f"{path}: expected a json of VGG Image Annotator (images with filename and regions), "
            f"got another json {kind_of(content)}"
        )
    regions: list[Region] = []
    by_image: dict[str, list[int]] = {}
    for key, image in _images(content).items():
        found = image["regions"]
        numbered: Any = []
        if isinstance(found, dict):
            numbered = found.items()
        elif isinstance(found, list):
            numbered = enumerate(found)
        for number, region in numbered:
            by_image.setdefault(str(image["filename"]), []).append(len(regions))
            regions.append(Region(key, number, region))
    return ViaFile(
        path=path,
        regions=dict(enumerate(regions)),
        by_image={name: tuple(own) for name, own in by_image.items()},
    )


def _images(content: Any) -> dict[str, Any]:
    if isinstance(content, dict) and _METADATA in content:
        content = content[_METADATA]
    return content if isinstance(content, dict) else {}
