"""One training sample: a patch of the image, of the coarse and of the accurate mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from bpr.pipeline.crops import crop_patches
from bpr.pipeline.extraction.pairing import Pair
from bpr.pipeline.extraction.source import PairedImage
from bpr.pipeline.formats.images import IGNORE
from bpr.pipeline.geometry import select_patches
from bpr.pipeline.instance import Box, Int64Array, UInt8Array
from bpr.pipeline.settings import PatchSettings

# Level 1 of zlib: on patches half the time of 3 for the same size.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)


@dataclass(frozen=True, eq=False)
class Sample:
    """A patch as large as it is in the image, padding included; nothing is resized."""

    pixels: UInt8Array  # (Q, Q, 3) RGB, Q = patch size + 2 * padding
    coarse: UInt8Array  # (Q, Q), 0 or 1
    gt: UInt8Array  # (Q, Q), 0, 1, or 255 where nobody knows
    box: Box  # of the patch in the image, without the padding


@dataclass(frozen=True, eq=False)
class PatchedInstance:
    """An instance that is kept, with its patches."""

    index: int  # among the instances of its image
    pair: Pair
    boxes: Int64Array  # (N, 4), as from `select_patches`


def patched_instances(
    image: PairedImage, settings: PatchSettings, min_iou: float | None
) -> Iterator[PatchedInstance]:
    """The instances of an image whose IoU is above `min_iou`, with at least one patch each."""
    for index, pair in enumerate(image.pairs):
        if min_iou is not None and not pair.iou > min_iou:
            continue
        boxes = select_patches(pair.instance.mask, settings)
        if len(boxes):
            yield PatchedInstance(index, pair, boxes)


def cut_samples(
    image: PairedImage, instance: PatchedInstance, settings: PatchSettings
) -> Iterator[Sample]:
    """Cut the patches of one instance, best first, with the rule that refinement cuts by.

    Beyond the image the truth is unknown; with compat it is background, as in the reference.
    """
    boxes = instance.boxes
    side = int(boxes[0, 2] - boxes[0, 0]) + 2 * settings.padding
    patches = crop_patches(image.pixels, instance.pair.instance.mask, boxes, side, settings)
    for patch, box in zip(patches, boxes.tolist(), strict=True):
        gt = _target(image, instance.pair, box, settings)
        yield Sample(patch[..., :3], patch[..., 3], gt, (box[0], box[1], box[2], box[3]))


def encode_pixels(pixels: UInt8Array) -> bytes:
    """(Q, Q, 3) RGB as a PNG file."""
    return _encode(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))


def encode_values(values: UInt8Array) -> bytes:
    """(Q, Q) uint8 as a PNG file."""
    return _encode(values)


def _encode(array: npt.NDArray[np.uint8]) -> bytes:
    done, code = cv2.imencode(".png", np.ascontiguousarray(array), _PNG)
    assert done
    content: bytes = code.tobytes()
    return content


def _target(image: PairedImage, pair: Pair, box: list[int], settings: PatchSettings) -> UInt8Array:
    pad = settings.padding
    x0, y0, x1, y1 = box[0] - pad, box[1] - pad, box[2] + pad, box[3] + pad
    gt = pair.gt.read((x0, y0, x1, y1)).view(np.uint8)
    if settings.compat:
        return gt
    height, width = pair.gt.size
    rows = slice(max(-y0, 0), min(y1, height) - y0)
    columns = slice(max(-x0, 0), min(x1, width) - x0)
    known = np.zeros(gt.shape, np.bool_)
    if image.ignore is None:
        known[rows, columns] = True
    else:
        np.logical_not(
            image.ignore[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)],
            out=known[rows, columns],
        )
    # what the object's own mask says is known, also where others are not
    gt[~known & (gt == 0)] = IGNORE
    return gt
