"""Patches as a batch for the network, and its answer as probabilities of patch size."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bpr.pipeline.instance import Float32Array, Int64Array, Mask, UInt8Array
from bpr.pipeline.settings import PatchSettings


def crop_patches(
    image: UInt8Array, mask: Mask, boxes: Int64Array, input_size: int, settings: PatchSettings
) -> UInt8Array:
    """Cut the image and the coarse mask at boxes and resize both to the network's input.

    The image is resized bilinearly on uint8 (INTER_AREA where it shrinks, so that large patches
    do not alias; with compat bilinear always, as in the reference), the mask by its nearest
    pixel. Beyond the image border both continue as at the edge; with compat they are zero.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: coarse mask of the same image.
        boxes: (N, 4) int64 as from `select_patches`, without the padding.
        input_size: S, the side that the network sees, in pixels.
        settings: padding and compat count.

    Returns:
        (N, S, S, 4) uint8: red, green, blue in 0..255, coarse mask 0 or 1.
    """
    batch = np.empty((len(boxes), input_size, input_size, 4), np.uint8)
    border = cv2.BORDER_CONSTANT if settings.compat else cv2.BORDER_REPLICATE
    height, width = image.shape[:2]
    side = (input_size, input_size)
    for index, (bx0, by0, bx1, by1) in enumerate(boxes.tolist()):
        x0, y0 = bx0 - settings.padding, by0 - settings.padding
        x1, y1 = bx1 + settings.padding, by1 + settings.padding
        ix0, iy0, ix1, iy1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        pixels: npt.NDArray[Any] = image[iy0:iy1, ix0:ix1]
        object_pixels: npt.NDArray[Any] = mask.read((ix0, iy0, ix1, iy1)).view(np.uint8)
        if (ix0, iy0, ix1, iy1) != (x0, y0, x1, y1):
            beyond = (iy0 - y0, y1 - iy1, ix0 - x0, x1 - ix1)
            pixels = cv2.copyMakeBorder(pixels, *beyond, border)
            object_pixels = cv2.copyMakeBorder(object_pixels, *beyond, border)
        shrinks = x1 - x0 > input_size and not settings.compat
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        # written in place: numpy takes three times as long to interleave four channels
        patch = batch[index]
        cv2.cvtColor(cv2.resize(pixels, side, interpolation=how), cv2.COLOR_RGB2RGBA, dst=patch)
        object_pixels = cv2.resize(object_pixels, side, interpolation=cv2.INTER_NEAREST)
        cv2.insertChannel(object_pixels, patch, 3)
    return batch


def patch_probabilities(logits: Float32Array, patch_size: int, padding: int) -> Float32Array:
    """Resize logits to the patch, cut the padding off, and make them probabilities.

    Args:
        logits: (N, S, S) float32, object minus background.
        patch_size: P in pixels.
        padding: pixels around the patch that the network saw besides.

    Returns:
        (N, P, P) float32 in [0, 1].

    Source: bilinear without antialiasing, then the softmax, in this order: encode_decode and
    inference of mmseg/models/segmentors/encoder_decoder.py.
    """
    side = patch_size + 2 * padding
    inner = slice(padding, padding + patch_size)
    out = np.empty((len(logits), patch_size, patch_size), np.float32)
    for index, patch in enumerate(logits):
        if patch.shape[0] != side:
            patch = cv2.resize(patch, (side, side), interpolation=cv2.INTER_LINEAR)
        out[index] = patch[inner, inner]
    # the logistic function by tanh: no overflow for large logits
    np.multiply(out, 0.5, out=out)
    np.tanh(out, out=out)
    out += 1
    out *= 0.5
    return out
