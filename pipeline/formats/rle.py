"""COCO segmentations: run-length codes (compressed or not) and polygons.

pycocotools writes the codes and draws the polygons. Reading is ours, because pycocotools
trusts a code's size: counts that do not add up to it leave memory unset or written past its end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from bpr.pipeline.formats.text import short
from bpr.pipeline.instance import Int64Array, Mask, Size

_LONGEST_OUTLINE = 1000  # times (height + width); no object comes near it


def encode(mask: Mask) -> dict[str, Any]:
    """Write a mask as compressed RLE.

    Returns:
        {"size": [height, width], "counts": str}, ready for json.
    """
    height, width = mask.size
    code = coco_mask.frPyObjects({"size": [height, width], "counts": runs(mask)}, height, width)
    return {"size": list(mask.size), "counts": code["counts"].decode("ascii")}


def runs(mask: Mask) -> list[int]:
    """Write a mask as the counts of an uncompressed RLE: down the columns, background first."""
    height, width = mask.size
    x0, y0, x1, y1 = mask.window
    # down the columns of the window; where a column ends, the next one begins after a gap
    columns = np.zeros((x1 - x0, y1 - y0 + 2), np.int8)
    columns[:, 1:-1] = mask.bitmap.T
    column, row = np.nonzero(np.diff(columns, axis=1))
    edges = (column + x0) * height + row + y0
    again = np.flatnonzero(np.diff(edges) == 0)  # an object that continues in the next column
    edges = np.delete(edges, np.concatenate([again, again + 1]))
    edges = edges[edges < height * width]
    found: list[int] = np.diff(edges, prepend=0, append=height * width).tolist()
    return found


def decode(segmentation: Any, size: Size) -> Mask:
    """Read a COCO segmentation of an image of known size.

    Args:
        segmentation: RLE with counts as text or as a list, or a list of polygons
            [x0, y0, x1, y1, ...] in pixels. Beside others, polygons of fewer than three points
            are left out: they have no area. COCO's own labels have some; detectron2 does so too.
        size: (height, width) of the image.

    Raises:
        ValueError: not a segmentation, or one of another size than the image.
    """
    if isinstance(segmentation, dict):
        return _decode_rle(segmentation, size)
    if isinstance(segmentation, list):
        return _decode_polygons(segmentation, size)
    raise ValueError(f"segmentation: expected RLE or a list of polygons, got {short(segmentation)}")


def _decode_rle(code: dict[str, Any], size: Size) -> Mask:
    claimed, counts = code.get("size"), code.get("counts")
    height, width = size
    num_pixels = height * width
    if claimed != [height, width]:
        raise ValueError(f"segmentation: expected RLE size {list(size)}, got {short(claimed)}")
    if isinstance(counts, str):
        runs = _parse_counts(counts)
    elif isinstance(counts, list) and all(type(run) is int for run in counts):
        runs = np.array([min(max(run, -1), num_pixels + 1) for run in counts], np.int64)
    else:
        raise ValueError(f"segmentation: expected RLE counts (text or ints), got {short(counts)}")
    if (runs < 0).any():
        raise ValueError("segmentation: expected RLE counts >= 0, got a negative one")
    # a sum of larger ones could wrap around and look right
    if (runs > num_pixels).any() or int(runs.sum()) != num_pixels:
        got = "more in one" if (runs > num_pixels).any() else f"{int(runs.sum())}"
        raise ValueError(
            f"segmentation: expected RLE counts that add up to {height} x {width} = "
            f"{num_pixels} pixels, got {got}"
        )
    ends = np.cumsum(runs)
    if len(runs) % 2:
        ends = ends[:-1]
    if len(ends) == 0 or not runs[1::2].any():
        return Mask.from_array(np.zeros((0, 0), np.bool_), size=size)
    # The code runs down the columns: expand only those that the object touches.
    first = int(ends[0]) // height
    last = -(-int(ends[-1]) // height)
    edges = np.clip(np.concatenate([[0], ends, [last * height]]), first * height, last * height)
    values = np.arange(len(edges) - 1) % 2 == 1
    columns = np.repeat(values, np.diff(edges)).reshape(last - first, height)
    return Mask.from_array(np.ascontiguousarray(columns.T), (first, 0), size)


def _parse_counts(text: str) -> Int64Array:
    """Expand a compressed code into its runs.

    Each run is written in groups of 5 bits, least first, as ASCII from 48 on: bit 5 of a
    character says that more follow, bit 4 of the last one is the sign. From the fourth run on
    the difference to the run two before it is written.
    """
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if (
        not text.isascii()
        or codes.size == 0
        or codes.min() < 0
        or codes.max() > 63
        or codes[-1] & 32
    ):
        raise ValueError(f"segmentation: expected a compressed RLE, got {short(text)}")
    is_last = (codes & 32) == 0
    starts = np.concatenate([[0], np.flatnonzero(is_last)[:-1] + 1])
    lengths = np.diff(np.append(starts, codes.size))
    if lengths.max() > 8:  # 40 bits: no image is that large, and shifts stay inside int64
        raise ValueError(f"segmentation: expected a compressed RLE, got {short(text)}")
    position = np.arange(codes.size) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 31) << (5 * position), starts)
    values -= (codes[is_last] & 16 != 0) * (np.int64(1) << (5 * lengths))
    runs: Int64Array = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs


def with_area(polygons: list[Any]) -> list[Any]:
    """The polygons of at least three points, or all of them where none has three."""
    found = [part for part in polygons if not (isinstance(part, list) and len(part) < 6)]
    return found or polygons


def _decode_polygons(polygons: list[Any], size: Size) -> Mask:
    height, width = size
    rings, length = [], 0.0
    for polygon in with_area(polygons):
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(
                "segmentation: expected polygons as lists of at least 3 points "
                f"[x0, y0, x1, y1, ...], got {short(polygon)}"
            )
        try:
            is_numbers = all(type(value) in (int, float) for value in polygon)
            ring = np.array(polygon if is_numbers else [np.nan], np.float64)
        except OverflowError:  # an int of hundreds of digits
            ring = np.array([np.nan])
        if not np.isfinite(ring).all() or np.abs(ring).max() > 10 * (height + width):
            raise ValueError(
                f"segmentation: expected polygon points near the image, got {short(polygon)}"
            )
        points = ring.reshape(-1, 2)
        length += float(np.abs(points - np.roll(points, 1, axis=0)).sum())
        # pycocotools walks along the outline and keeps every step
        if length > _LONGEST_OUTLINE * (height + width):
            raise ValueError(
                f"segmentation: expected polygons with outlines of at most "
                f"{_LONGEST_OUTLINE * (height + width)} pixels together, got more"
            )
        rings.append(ring.tolist())
    if not rings:
        return Mask.from_array(np.zeros((0, 0), np.bool_), size=size)
    merged = coco_mask.merge(coco_mask.frPyObjects(rings, height, width))
    return _decode_rle({"size": list(size), "counts": merged["counts"].decode("ascii")}, size)
