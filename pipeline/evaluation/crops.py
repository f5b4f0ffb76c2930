"""Crops of photographs for the pages: as few and as small as fit into one file."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from bpr.pipeline.evaluation.outlines import UNITS, Outlined, drawing_size
from bpr.pipeline.instance import Box, UInt8Array
from bpr.pipeline.threads import map_ahead

MOST_VIEWS = 4000  # objects with a picture; their outlines alone are about 3 MB
MOST_BYTES = 6_000_000  # of pictures inside a page; above that they lie beside it
SIDES = (640, 384, 256, 192, 128)  # px, from the best to the smallest that is tried inside the page
BYTES_PER_PIXEL = 0.12  # of WebP at this quality, as base64; measured on photographs
QUALITY = 75
FOLDER = "pictures"
READERS, AHEAD = 2, 4

Json = dict[str, Any]
ReadImage = Callable[[str], UInt8Array | None]
"""The image of a key, (H, W, 3) uint8 RGB; None if it cannot be read."""


@dataclass(frozen=True)
class View:
    """An object to draw, and the row of the table that it belongs to."""

    row: int
    image: str
    outlined: Outlined


@dataclass(frozen=True)
class Views:
    """What the page needs to draw objects."""

    json: Mapping[int, Json]  # by row: w, h, paths, and src where there is an image
    files: Mapping[str, bytes]  # pictures that lie beside the page, by relative path


def draw_views(views: Sequence[View], read_image: ReadImage | None) -> Views:
    """Crop the images.

    Args:
        views: at most `MOST_VIEWS`.
        read_image: each image is read once; None: outlines alone.
    """
    content: dict[int, Json] = {}
    for view in views:
        height, width = drawing_size(view.outlined.box)
        content[view.row] = {
            "w": UNITS * width, "h": UNITS * height, "paths": view.outlined.paths
        }  # fmt: skip
    files: dict[str, bytes] = {}
    if read_image is None:
        return Views(content, files)
    side = _side_that_fits(views)
    crops = _crops(views, read_image, side or SIDES[0])
    # the guess fails for photographs that compress badly
    fits = side is not None and 4 / 3 * sum(len(crop) for _, crop in crops) <= MOST_BYTES
    for row, crop in crops:
        if fits:
            content[row]["src"] = "data:image/webp;base64," + base64.b64encode(crop).decode("ascii")
        else:
            name = f"{FOLDER}/{row:06d}.webp"
            content[row]["src"] = name
            files[name] = crop
    return Views(content, files)


def _side_that_fits(views: Sequence[View]) -> int | None:
    """The largest side at which all crops fit into the page; None: no side."""
    for side in SIDES:
        sizes = [_crop_size(view.outlined.box, side) for view in views]
        if sum(height * width for height, width in sizes) * BYTES_PER_PIXEL <= MOST_BYTES:
            return side
    return None


def _crop_size(box: Box, side: int) -> tuple[int, int]:
    scale = min(side / max(box[2] - box[0], box[3] - box[1]), 1)
    return max(round((box[3] - box[1]) * scale), 1), max(round((box[2] - box[0]) * scale), 1)


def _crops(views: Sequence[View], read_image: ReadImage, side: int) -> Sequence[tuple[int, bytes]]:
    by_image: dict[str, list[View]] = {}
    for view in views:
        by_image.setdefault(view.image, []).append(view)

    def cut(key: str) -> list[tuple[int, bytes]]:
        image = read_image(key)
        if image is None:
            return []
        return [(view.row, _encode(image, view.outlined.box, side)) for view in by_image[key]]

    return [pair for pairs in map_ahead(cut, list(by_image), READERS, AHEAD) for pair in pairs]


def _encode(image: UInt8Array, box: Box, side: int) -> bytes:
    x0, y0, x1, y1 = box
    height, width = _crop_size(box, side)
    crop = cv2.resize(
        np.ascontiguousarray(image[y0:y1, x0:x1]), (width, height), interpolation=cv2.INTER_AREA
    )
    done, encoded = cv2.imencode(
        ".webp", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, QUALITY]
    )
    assert done
    return bytes(encoded.tobytes())
