"""What an object's colours say: is a pixel more like the inside or like the outside of a mask?

A network that sees one patch cannot know the colours of the whole object. This is the evidence
that GrabCut has (Rother et al., SIGGRAPH 2004), without its cut: two smoothed histograms, of the
pixels surely inside and of those surely outside, and the logarithm of their ratio.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from bpr.pipeline.instance import BoolArray, Float32Array, Mask, UInt8Array, grow

OBJECT_BINS = 32  # cells of each colour channel for the whole object
PATCH_BINS = 16  # and for one patch, which has fewer pixels
NO_EVIDENCE = 128  # as likely inside as outside

_STEPS_PER_NAT = 32.0  # log ratios of -4..4 use the range of uint8
_NARROW, _BROAD, _BROAD_SHARE = 1.0, 3.0, 0.25  # smoothing in cells of 32; weight of the broad one
_FLOOR = 0.1  # of a uniform histogram: colours never seen say little
_UNSURE_SHARE = 0.02  # of the object's long side, to each side of the outline: neither in nor out
_SURROUNDINGS = 0.3  # of the long side: how far outside colours are taken from
_PIXELS = 160  # along the long side are enough to know the colours
_LEAST_PIXELS = 20  # on either side

_ALL, _RANGES = [0, 1, 2], [0, 256] * 3  # channels of a histogram


def object_colours(image: UInt8Array, mask: Mask) -> Float32Array:
    """The evidence of each colour for one object.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: of the object, coarse or half refined.

    Returns:
        (B, B, B) float32 table for `look_up` with B = OBJECT_BINS, whole numbers in 0..255: above
        NO_EVIDENCE where the colour is more frequent inside; NO_EVIDENCE everywhere where one
        side has too few pixels.
    """
    x0, y0, x1, y1 = mask.window
    long_side = max(x1 - x0, y1 - y0)
    box = grow(mask.window, max(round(_SURROUNDINGS * long_side), 4), mask.size)
    step = -(-long_side // _PIXELS)
    inside = np.ascontiguousarray(mask.read(box)[::step, ::step])
    pixels = np.ascontiguousarray(image[box[1] : box[3] : step, box[0] : box[2] : step])
    reach = max(round(_UNSURE_SHARE * long_side / step), 1)
    return _table(pixels, inside, reach, OBJECT_BINS)


def patch_evidence(pixels: UInt8Array, inside: BoolArray) -> UInt8Array:
    """The evidence of each pixel of a patch from this patch alone.

    Args:
        pixels: (S, S, 3) uint8 RGB.
        inside: (S, S) bool.

    Returns:
        (S, S) uint8 as from `look_up`.
    """
    table = _table(pixels, inside, max(len(pixels) // 16, 1), PATCH_BINS)
    return look_up(table, pixels)


def look_up(table: Float32Array, pixels: UInt8Array) -> UInt8Array:
    """(H, W, 3) uint8 RGB -> (H, W) uint8 evidence from a table of `object_colours`."""
    # as a cv2.Mat, because OpenCV takes the last axis of a plain array for channels
    return np.asarray(cv2.calcBackProject([pixels], _ALL, cv2.Mat(table), _RANGES, 1), np.uint8)


def _table(pixels: UInt8Array, inside: BoolArray, reach: int, bins: int) -> Float32Array:
    bitmap = inside.view(np.uint8)
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    core = cv2.erode(bitmap, kernel, borderType=cv2.BORDER_REPLICATE)
    far = cv2.dilate(bitmap, kernel, borderType=cv2.BORDER_REPLICATE) ^ 1
    if cv2.countNonZero(core) < _LEAST_PIXELS:
        core = bitmap
    if cv2.countNonZero(far) < _LEAST_PIXELS:
        far = bitmap ^ 1
    totals = [cv2.countNonZero(core), cv2.countNonZero(far)]
    if min(totals) < _LEAST_PIXELS:
        return np.full((bins, bins, bins), NO_EVIDENCE, np.float32)
    density = np.stack(
        [
            cv2.calcHist([pixels], _ALL, side, [bins] * 3, _RANGES) / np.float32(total)
            for side, total in zip((core, far), totals, strict=True)
        ]
    )
    density = _smooth(density) + np.float32(_FLOOR / bins**3)
    levels = np.rint(NO_EVIDENCE + _STEPS_PER_NAT * np.log(density[0] / density[1]))
    return np.asarray(np.clip(levels, 0, 255), np.float32)


def _smooth(histograms: Float32Array) -> Float32Array:
    """(2, B, B, B) histograms, each smoothed narrowly and broadly."""
    bins = histograms.shape[1]
    out = np.zeros_like(histograms)
    for sigma, share in ((_NARROW, 1 - _BROAD_SHARE), (_BROAD, _BROAD_SHARE)):
        kernel = _kernel(bins, sigma * bins / OBJECT_BINS)
        smooth = histograms
        for _ in range(3):  # blur the last axis, then turn it to the front of the three
            # as a stack of small products, for which BLAS starts no threads: they would wait
            # for each other wherever the processors are busy
            turned = (smooth.reshape(-1, bins, bins) @ kernel).reshape(2, -1, bins)
            smooth = np.ascontiguousarray(turned.transpose(0, 2, 1))
        out += np.float32(share) * smooth.reshape(out.shape)
    return out


@lru_cache(maxsize=8)
def _kernel(bins: int, sigma: float) -> Float32Array:
    """(B, B) matrix that blurs a histogram; what would fall off its ends stays in."""
    offsets = np.subtract.outer(np.arange(bins), np.arange(bins))
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    return np.asarray(kernel / kernel.sum(axis=1, keepdims=True), np.float32)
