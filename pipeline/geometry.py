"""Boundary patches on arrays: where they lie, and how they go back into a mask.

Convention: pixels are (x, y), x to the right; boxes are x0, y0, x1, y1, end exclusive.
No model, file or device in here.

Source: Tang et al., CVPR 2021 (arXiv:2104.05239), section 3 and Fig. 2.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from pipeline.instance import BoolArray, Float32Array, Int64Array, Mask, Size, UInt8Array, grow
from pipeline.settings import PatchSettings

AUTO_PATCH_SIZES = (32, 48, 64, 96, 128, 192, 256)
AUTO_PATCH_SHARE = 0.16  # of the object's long side; LOG.md, 2026-11-21


def patch_size_for(mask: Mask, settings: PatchSettings) -> int:
    """The patch size of one instance, in pixels.

    A fixed size is returned as it is. With `patch_size=None` it follows the object, because
    the errors of mask heads and of quick polygons grow with the object: AUTO_PATCH_SHARE
    of the long side of its window, to the nearest of `AUTO_PATCH_SIZES` (by ratio).
    """
    if settings.patch_size is not None:
        return settings.patch_size
    x0, y0, x1, y1 = mask.window
    wanted = max(AUTO_PATCH_SHARE * max(x1 - x0, y1 - y0), 1.0)
    return min(AUTO_PATCH_SIZES, key=lambda size: abs(np.log(size / wanted)))


def find_boundary(mask: Mask, compat: bool = False) -> tuple[Int64Array, Int64Array, UInt8Array]:
    """Find the band two pixels wide (one inside, one outside) along a mask's outline.

    With n the number of object pixels among the 9 of a pixel's 3 x 3 neighbourhood, a pixel
    belongs to the band if 0 < n < 9, and its score is min(n, 9 - n). Holes, further components
    and single pixels count. Only the window is searched.

    Outside the image the mask continues as at its edge: where the image cuts an object there is
    no outline to refine. With `compat` the outside is background, as in the reference, and the
    cut counts as boundary.

    Returns:
        x and y, (N,) int64 in row-major order, and the score, (N,) uint8 in 1..4 (the
        reference's score times 4.5).
    """
    if mask.is_empty:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, np.zeros(0, np.uint8)
    x0, y0, x1, y1 = grow(mask.window, 1, mask.size)
    bitmap = mask.read((x0, y0, x1, y1)).view(np.uint8)
    # Inside the image the ring around the window is background, so repeating the edge of the
    # grown window differs from zeros only at the image border.
    border = cv2.BORDER_CONSTANT if compat else cv2.BORDER_REPLICATE
    count = cv2.boxFilter(bitmap, cv2.CV_8U, (3, 3), normalize=False, borderType=border)
    score = np.minimum(count, 9 - count)
    ys, xs = np.nonzero(score)
    return xs + x0, ys + y0, score[ys, xs]


def select_patches(mask: Mask, settings: PatchSettings) -> Int64Array:
    """Choose square boxes that cover the boundary of a mask.

    Every boundary pixel is the centre of a candidate; greedy non-maximum suppression keeps the
    best (ties in row-major order) and drops what overlaps it by `nms_iou` or more. Here boxes
    are moved into the image before the suppression, so that none coincide, up to and including
    the last row and column; then patches are added for boundary pixels that lie in none (the
    reference leaves them unrefined).

    Args:
        mask: coarse mask; may be empty or touch the image border.
        settings: patch_size, nms_iou and compat count. With compat boxes are chosen and
            moved as in the reference (its shift is off by one: the last row and column stay
            outside), and an image not larger than a patch gives none.

    Returns:
        (N, 4) int64 boxes of equal size, best first. They lie inside the image, except that
        a box starts at 0 and reaches beyond a side that is shorter than a patch.
    """
    size = patch_size_for(mask, settings)
    half = size // 2
    height, width = mask.size
    xs, ys, score = find_boundary(mask, settings.compat)
    if xs.size == 0 or (settings.compat and min(height, width) <= size):
        return np.zeros((0, 4), np.int64)
    order = np.argsort(-score.astype(np.int8), kind="stable")
    if settings.compat:
        kept = order[suppress(xs[order], ys[order], size, settings.nms_iou)]
        return _reference_boxes(xs[kept] - half, ys[kept] - half, size, mask.size)
    centre_x = np.clip(xs, half, max(half, width - half))
    centre_y = np.clip(ys, half, max(half, height - half))
    kept = order[suppress(centre_x[order], centre_y[order], size, settings.nms_iou)]
    kept = np.concatenate([kept, _uncovered(xs, ys, centre_x, centre_y, kept, order, half)])
    x0, y0 = centre_x[kept] - half, centre_y[kept] - half
    return np.stack([x0, y0, x0 + size, y0 + size], axis=1)


def suppress(xs: Int64Array, ys: Int64Array, size: int, nms_iou: float) -> Int64Array:
    """Greedy non-maximum suppression of equal squares, exact and linear.

    Whether two equal squares suppress each other depends on the offset of their centres alone,
    so a kept square stamps one fixed stencil of offsets into a bitmap. IoU is compared in
    float32 with >=, as in mmcv 1.1.6.

    Args:
        xs, ys: (N,) centres in pixels, best first.
        size: side of the squares in pixels.
        nms_iou: overlap in (0, 1] from which on the later square is dropped.

    Returns:
        (M,) int64 ascending indices of the kept squares.
    """
    if xs.size == 0:
        return np.zeros(0, np.int64)
    stencil = _suppression_stencil(size, nms_iou)
    reach = stencil.shape[0] // 2
    left, top = int(xs.min()), int(ys.min())
    columns = int(xs.max()) - left + 1 + 2 * reach
    rows = int(ys.max()) - top + 1 + 2 * reach
    dropped = np.zeros((rows, columns), np.bool_)
    # Reading single pixels through a memoryview costs a third of numpy indexing.
    flat = dropped.reshape(-1).view(np.uint8).data
    x, y = xs - left, ys - top
    kept = []
    for index, position in enumerate(((y + reach) * columns + x + reach).tolist()):
        if not flat[position]:
            kept.append(index)
            column, row = int(x[index]), int(y[index])
            dropped[row : row + 2 * reach + 1, column : column + 2 * reach + 1] |= stencil
    return np.array(kept, np.int64)


def reassemble(mask: Mask, boxes: Int64Array, probability: Float32Array) -> Mask:
    """Average overlapping patches and put them into a mask.

    Pixels in some patch belong to the object if their mean probability is > 0.5; all others
    keep the coarse mask. Sums are float32 in the order of the boxes.

    Args:
        mask: coarse mask.
        boxes: (N, 4) int64 as from `select_patches`; parts outside the image are left out.
        probability: (N, P, P) float32 in [0, 1], of the boxes' size.

    Returns:
        The refined mask in its own tight window.
    """
    if len(boxes) == 0:
        return mask
    height, width = mask.size
    x0, y0, x1, y1 = mask.window
    region = (
        min(x0, max(int(boxes[:, 0].min()), 0)),
        min(y0, max(int(boxes[:, 1].min()), 0)),
        max(x1, min(int(boxes[:, 2].max()), width)),
        max(y1, min(int(boxes[:, 3].max()), height)),
    )
    left, top = region[:2]
    refined = mask.read(region)
    total = np.zeros(refined.shape, np.float32)
    count = np.zeros(refined.shape, np.int32)
    for (bx0, by0, bx1, by1), patch in zip(boxes.tolist(), probability, strict=True):
        inside = patch[: min(by1, height) - by0, : min(bx1, width) - bx0]
        rows = slice(by0 - top, by0 - top + inside.shape[0])
        columns = slice(bx0 - left, bx0 - left + inside.shape[1])
        total[rows, columns] += inside
        count[rows, columns] += 1
    np.divide(total, count, out=total, where=count > 0)
    np.copyto(refined, total > 0.5, where=count > 0)
    return Mask.from_array(refined, (left, top), mask.size)


@lru_cache(maxsize=64)
def _suppression_stencil(size: int, nms_iou: float) -> BoolArray:
    """Offsets (dy, dx) at which two squares overlap by nms_iou or more, centre in the middle."""
    along = size - np.abs(np.arange(-size + 1, size))
    inter = np.multiply.outer(along, along).astype(np.float32)
    stencil = inter / (np.float32(2 * size * size) - inter) >= np.float32(nms_iou)
    reach = int(np.flatnonzero(stencil.any(axis=0))[-1]) - (size - 1)
    middle = slice(size - 1 - reach, size + reach)
    return np.asarray(stencil[middle, middle])


def _uncovered(
    xs: Int64Array,
    ys: Int64Array,
    centre_x: Int64Array,
    centre_y: Int64Array,
    kept: Int64Array,
    order: Int64Array,
    half: int,
) -> Int64Array:
    """Candidates to add until every boundary pixel lies in a patch, best first."""
    left, top = int(xs.min()), int(ys.min())
    covered = np.zeros((int(ys.max()) - top + 1, int(xs.max()) - left + 1), np.bool_)

    def cover(index: int) -> None:
        column, row = int(centre_x[index]) - left, int(centre_y[index]) - top
        covered[max(row - half, 0) : row + half, max(column - half, 0) : column + half] = True

    for index in kept:
        cover(index)
    added = []
    remaining = order[~covered[ys[order] - top, xs[order] - left]]
    for index in remaining.tolist():
        if not covered[ys[index] - top, xs[index] - left]:
            added.append(index)
            cover(index)
    return np.array(added, np.int64)


def _reference_boxes(x0: Int64Array, y0: Int64Array, size: int, image: Size) -> Int64Array:
    """The reference's shift into the image (tools/split_patches.py:_force_move_back)."""
    height, width = image
    x0, y0 = np.maximum(x0, 0), np.maximum(y0, 0)
    # off by one there: x1 is exclusive, yet kept below width
    x0 = np.where(x0 + size >= width, width - 1 - size, x0)
    y0 = np.where(y0 + size >= height, height - 1 - size, y0)
    return np.stack([x0, y0, x0 + size, y0 + size], axis=1)
