"""Every recorded scene follows from the written algorithm, recomputed with numpy alone.

This shows that README.md describes the data completely. It uses no code of the product.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
SCENES = sorted(json.loads((HERE / "scenes.json").read_text()))


def ring_count(mask):
    """Number of object pixels in the 3x3 window of each pixel; outside the image counts as 0."""
    padded = np.pad(mask.astype(np.int32), 1)
    height, width = mask.shape
    return sum(padded[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3))


def candidates(mask):
    n = ring_count(mask)
    score = np.minimum(n, 9 - n).astype(np.float32) / np.float32(4.5)
    ys, xs = np.nonzero(score)
    return xs, ys, score[ys, xs]


def suppress(xs, ys, score, size, threshold):
    """Greedy suppression of equal squares; ties keep raster order."""
    order = np.argsort(-score, kind="stable")
    x, y = xs[order].astype(np.int64), ys[order].astype(np.int64)
    alive, keep = np.ones(len(order), bool), []
    for i in range(len(order)):
        if not alive[i]:
            continue
        keep.append(order[i])
        inter = np.maximum(size - np.abs(x - x[i]), 0) * np.maximum(size - np.abs(y - y[i]), 0)
        inter = inter.astype(np.float32)
        iou = inter / (np.float32(2 * size * size) - inter)
        alive &= ~(iou >= np.float32(threshold))
    return np.array(keep, np.int64)


def shift_inside(x0, y0, size, height, width):
    """Left and top first, then right and bottom; the last column and row stay outside."""
    x0 = np.where(x0 < 0, 0, x0)
    y0 = np.where(y0 < 0, 0, y0)
    x0 = np.where(x0 + size >= width, width - 1 - size, x0)
    y0 = np.where(y0 + size >= height, height - 1 - size, y0)
    return np.stack([x0, y0, x0 + size, y0 + size], 1)


def crop(array, box, padding):
    x0, y0, x1, y1 = (int(v) for v in box)
    widths = ((padding, padding), (padding, padding)) + ((0, 0),) * (array.ndim - 2)
    grown = np.pad(array, widths)[y0 : y1 + 2 * padding, x0 : x1 + 2 * padding]
    return np.ascontiguousarray(grown)


def synthetic_probability(bgr, mask, padding):
    """What stands in for the network, less the padding."""
    b, g, r = np.moveaxis(bgr.astype(np.int64), -1, 0)
    v, u = np.mgrid[: mask.shape[0], : mask.shape[1]]
    value = b + 2 * g + 3 * r + 97 * mask.astype(np.int64) + 17 * u + 31 * v
    inside = np.s_[padding : mask.shape[0] - padding, padding : mask.shape[1] - padding]
    return ((value % 256) / 256.0).astype(np.float32)[inside]


def merge(mask, boxes, probabilities):
    total, count = np.zeros(mask.shape, np.float32), np.zeros(mask.shape, np.float32)
    for (x0, y0, x1, y1), probability in zip(boxes, probabilities, strict=True):
        total[y0:y1, x0:x1] += probability
        count[y0:y1, x0:x1] += 1
    out = mask.copy()
    seen = count > 0
    out[seen] = total[seen] / count[seen] > 0.5
    return out


@pytest.mark.parametrize("scene", SCENES)
def test_candidates_are_the_boundary_pixels_and_their_scores(scene):
    with np.load(HERE / f"scene_{scene}.npz") as data:
        width = data["image_bgr"].shape[1]
        for k, mask in enumerate(np.unpackbits(data["masks"], axis=-1)[..., :width]):
            xs, ys, score = candidates(mask)
            assert np.array_equal(data[f"cand_xy_{k}"], np.stack([xs, ys], 1))
            assert np.array_equal(data[f"cand_score_{k}"], score)


@pytest.mark.parametrize("scene", SCENES)
def test_patches_and_merged_masks_follow_from_the_candidates(scene):
    with np.load(HERE / f"scene_{scene}.npz") as data:
        recorded = [name.removeprefix("boxes_") for name in data.files if name.startswith("boxes_")]
        assert recorded
        image, masks = data["image_bgr"], data["masks"]
        height, width = image.shape[:2]
        for name in recorded:
            *words, k = name.split("_")
            size, padding, percent = (int(word.lstrip("padt")) for word in words)
            mask = np.unpackbits(masks[int(k)], axis=-1)[..., :width]
            xs, ys, score = candidates(mask)
            keep = suppress(xs, ys, score, size, percent / 100)
            assert np.array_equal(data[f"keep_{name}"], keep)
            boxes = shift_inside(xs[keep] - size // 2, ys[keep] - size // 2, size, height, width)
            assert np.array_equal(data[f"boxes_{name}"], boxes)
            patches = [(crop(image, box, padding), crop(mask, box, padding)) for box in boxes]
            sums = [(zlib.crc32(bgr), zlib.crc32(coarse)) for bgr, coarse in patches]
            expected = np.array(sums, np.uint32).reshape(-1, 2)
            assert np.array_equal(data[f"patch_crc_{name}"], expected)
            merged = np.unpackbits(data[f"merged_{name}"], axis=-1)[..., :width]
            drawn = [synthetic_probability(bgr, coarse, padding) for bgr, coarse in patches]
            assert np.array_equal(merged, merge(mask, boxes, drawn))
