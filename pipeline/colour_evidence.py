"""What an object's colours say: is a pixel more like the inside or like the outside of a mask?

A network that sees one patch cannot know the colours of the whole object. This is the evidence
that GrabCut has (Rother et al., SIGGRAPH 2004), without its cut: two smoothed histograms, of the
pixels surely inside and of those surely outside, and the logarithm of their ratio.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

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


def object_colours(image: UInt8Array, mask: Mask) -> UInt8Array:
    """The evidence of each colour for one object.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: of the object, coarse or half refined.

    Returns:
        (OBJECT_BINS ** 3,) uint8 table for `look_up`: above NO_EVIDENCE where the colour is more
        frequent inside; NO_EVIDENCE everywhere where one side has too few pixels.
    """
    x0, y0, x1, y1 = mask.window
    long_side = max(x1 - x0, y1 - y0)
    box = grow(mask.window, max(round(_SURROUNDINGS * long_side), 4), mask.size)
    step = -(-long_side // _PIXELS)
    inside = np.ascontiguousarray(mask.read(box)[::step, ::step])
    pixels = image[box[1] : box[3] : step, box[0] : box[2] : step]
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


def look_up(table: UInt8Array, pixels: UInt8Array) -> UInt8Array:
    """(..., 3) uint8 RGB -> (...) uint8 evidence from a table of `object_colours`."""
    bins = OBJECT_BINS if len(table) == OBJECT_BINS**3 else PATCH_BINS
    return np.asarray(table[_cells(pixels, bins)], np.uint8)


def _table(pixels: UInt8Array, inside: BoolArray, reach: int, bins: int) -> UInt8Array:
    bitmap = inside.view(np.uint8)
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    core = cv2.erode(bitmap, kernel, borderType=cv2.BORDER_REPLICATE)
    far = cv2.dilate(bitmap, kernel, borderType=cv2.BORDER_REPLICATE) == 0
    if np.count_nonzero(core) < _LEAST_PIXELS:
        core = bitmap
    if np.count_nonzero(far) < _LEAST_PIXELS:
        far = bitmap == 0
    cells = _cells(pixels, bins)
    counts = np.stack(
        [
            np.bincount(cells[core != 0], minlength=bins**3),
            np.bincount(cells[far], minlength=bins**3),
        ]
    ).astype(np.float32)
    totals = counts.sum(axis=1, keepdims=True)
    if totals.min() < _LEAST_PIXELS:
        return np.full(bins**3, NO_EVIDENCE, np.uint8)
    density = _smooth((counts / totals).reshape(2, bins, bins, bins)).reshape(2, -1)
    density += np.float32(_FLOOR / bins**3)
    ratio = np.log(density[0] / density[1])
    levels = np.rint(NO_EVIDENCE + _STEPS_PER_NAT * ratio)
    return np.asarray(np.clip(levels, 0, 255), np.uint8)


def _cells(pixels: UInt8Array, bins: int) -> npt.NDArray[np.int32]:
    """The number of the histogram's cell of each colour."""
    shift = 8 - (bins.bit_length() - 1)
    small = (pixels >> shift).astype(np.int32)
    return np.asarray((small[..., 0] * bins + small[..., 1]) * bins + small[..., 2])


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
