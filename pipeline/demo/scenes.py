"""The scenes of `bpr demo`: photographs with outlines drawn by hand.

Both lie in `pipeline/demo/`; its README says where they come from and how far the outlines can
be trusted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from bpr.pipeline.formats.images import read_image
from bpr.pipeline.instance import BoolArray, Mask, Size, UInt8Array

Polygon = Sequence[tuple[float, float]]
"""(x, y) in pixels; the pixel (x, y) is the unit square around that point."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DemoScene:
    """One photograph, its objects as a hurried hand drew them, and as they really are."""

    name: str
    image: UInt8Array  # (H, W, 3) RGB
    names: tuple[str, ...]  # one per object, and so are coarse and truth
    coarse: tuple[Mask, ...]
    truth: tuple[Mask, ...]
    ignore: BoolArray  # (H, W); where no outline can be told, so that nothing is scored


def load_demo_scenes() -> list[DemoScene]:
    """Load every scene, in the order of the names.

    Reads files of this package; needs no network.

    Raises:
        ValueError: the photograph is not the one that was outlined.
    """
    folder = resources.files("bpr.pipeline") / "demo"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    return [_read_scene(json.loads(file.read_text("utf-8")), file.name) for file in files]


def _read_scene(scene: Mapping[str, Any], file_name: str) -> DemoScene:
    image = _read_photograph(scene["photograph"])
    size = (image.shape[0], image.shape[1])
    if list(size) != scene["size"]:
        raise ValueError(
            f"{file_name}: expected a photograph of {scene['size']} (height, width), got {size}"
        )
    objects = scene["objects"]
    ignore = np.zeros(size, np.bool_)
    for thing in objects:
        ignore |= rasterize(thing["ignore"], size)
    return DemoScene(
        name=scene["photograph"],
        image=image,
        names=tuple(thing["name"] for thing in objects),
        coarse=_read_masks(objects, "coarse", size),
        truth=_read_masks(objects, "truth", size),
        ignore=ignore,
    )


def _read_masks(objects: Sequence[Mapping[str, Any]], key: str, size: Size) -> tuple[Mask, ...]:
    """One kind of outline of every object, less the objects that stand before it."""
    arrays = {thing["name"]: rasterize(thing[key], size) for thing in objects}
    masks = []
    for thing in objects:
        visible = arrays[thing["name"]].copy()
        for other in thing["behind"]:
            visible &= ~arrays[other]
        masks.append(Mask.from_array(visible))
    return tuple(masks)


def _read_photograph(name: str) -> UInt8Array:
    folder = resources.files("bpr.pipeline") / "demo"
    (file,) = (f for f in folder.iterdir() if f.name in (f"{name}.png", f"{name}.jpg"))
    with resources.as_file(file) as path:
        return read_image(path).pixels


def rasterize(polygons: Sequence[Polygon], size: Size) -> BoolArray:
    """The pixels whose centres lie in any of the polygons.

    `cv2.fillPoly` would paint the outline as well and so grow every mask by half a pixel,
    which is as much as these outlines are off.

    Args:
        polygons: closed, of sub-pixel corners, by the even-odd rule where one crosses itself;
            what leaves the image is cut off. A centre on an outline counts on its left and
            upper side only.
        size: (height, width) of the image.

    Returns:
        (height, width) bool.
    """
    height, width = size
    rows = np.arange(height)[:, None]
    inside = np.zeros(size, np.bool_)
    for polygon in polygons:
        start = np.asarray(polygon, np.float64)
        (xa, ya), (xb, yb) = start.T, np.roll(start, -1, axis=0).T
        # Where edges cross the rows of pixel centres, the inside begins or ends.
        row, edge = np.nonzero((ya <= rows) != (yb <= rows))
        share = (row - ya[edge]) / (yb[edge] - ya[edge])
        x = xa[edge] + share * (xb[edge] - xa[edge])
        crossings = np.zeros((height, width + 1), np.int64)
        np.add.at(crossings, (row, np.ceil(x).clip(0, width).astype(np.int64)), 1)
        inside |= crossings.cumsum(axis=1)[:, :width] % 2 == 1
    return inside
