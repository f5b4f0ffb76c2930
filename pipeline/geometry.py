"""Boundary patches on arrays: where they lie, and how they go back into a mask.

Convention: pixels are (x, y), x to the right; boxes are x0, y0, x1, y1, end exclusive.
No model, file or device in here.

Source: Tang et al., CVPR 2021 (arXiv:2104.05239), section 3 and Fig. 2.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from bpr.pipeline.instance import (
    BoolArray,
    Box,
    Float32Array,
    Int64Array,
    Mask,
    Size,
    UInt8Array,
    grow,
)
from bpr.pipeline.settings import PatchSettings

AUTO_PATCH_SHARE = 0.16  # of the object's long side; LOG.md, 2026-11-21
AUTO_PATCH_SIZES = (24, 384)  # pixels, least and most


def patch_size_for(mask: Mask, settings: PatchSettings) -> int:
    """The patch size of one instance, in pixels.

    A fixed size is returned as it is. With `patch_size=None` it follows the object, because
    the errors of mask heads and of quick polygons grow with the object: AUTO_PATCH_SHARE
    of the long side of its window, even, within AUTO_PATCH_SIZES.
    """
    if isinstance(settings.patch_size, int):
        return settings.patch_size
    x0, y0, x1, y1 = mask.window
    wanted = 2 * round(AUTO_PATCH_SHARE * max(x1 - x0, y1 - y0) / 2)
    return min(max(wanted, AUTO_PATCH_SIZES[0]), AUTO_PATCH_SIZES[1])


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

    In the reference every boundary pixel is the centre of a candidate; greedy non-maximum
    suppression keeps the best (by score, ties in row-major order) and drops what overlaps it by
    `nms_iou` or more. What that ensures is ensured here too, with a third fewer patches: a patch
    centred on any pixel of the outline would overlap a chosen one by `nms_iou` or more, so that
    every stretch of it is seen well inside a patch. But the outline is followed, and each patch
    put as far on as that allows, evenly; the reference leaves where they end to the order of
    ties. docs/benchmarks.md has quality against patches for both.

    Boxes are moved into the image before they are compared, so that none coincide, up to and
    including the last row and column; then patches are added for boundary pixels that lie in
    none (the reference leaves them unrefined).

    Args:
        mask: coarse mask; may be empty or touch the image border.
        settings: patch_size, nms_iou and compat count. With compat boxes are chosen and
            moved as in the reference (its shift is off by one: the last row and column stay
            outside), and an image not larger than a patch gives none.

    Returns:
        (N, 4) int64 boxes of equal size, along the outlines; with compat best first. They lie
        inside the image, except that a box starts at 0 and reaches beyond a side that is shorter
        than a patch.
    """
    size = patch_size_for(mask, settings)
    half = size // 2
    height, width = mask.size
    xs, ys, score = find_boundary(mask, settings.compat)
    if xs.size == 0 or (settings.compat and min(height, width) <= size):
        return np.zeros((0, 4), np.int64)
    if settings.compat:
        order = np.argsort(-score.astype(np.int8), kind="stable")
        kept = order[suppress(xs[order], ys[order], size, settings.nms_iou)]
        return _reference_boxes(xs[kept] - half, ys[kept] - half, size, mask.size)

    def moved(x: Int64Array, y: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Centres of patches that lie in the image."""
        return (
            np.clip(x, half, max(half, width - half)),
            np.clip(y, half, max(half, height - half)),
        )

    outlines = [moved(*outline) for outline in _outlines(mask, xs, ys)]
    centre_x, centre_y = _follow(outlines, size, settings.nms_iou)
    candidate_x, candidate_y = moved(xs, ys)
    added = _uncovered(xs, ys, candidate_x, candidate_y, centre_x, centre_y, half)
    x0 = np.concatenate([centre_x, candidate_x[added]]) - half
    y0 = np.concatenate([centre_y, candidate_y[added]]) - half
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
    region, mean = average_patches(mask, boxes, probability)
    return Mask.from_array(mean > 0.5, region[:2], mask.size)


def average_patches(
    mask: Mask, boxes: Int64Array, probability: Float32Array
) -> tuple[Box, Float32Array]:
    """The mean probability of overlapping patches, and the coarse mask where there is none.

    Args:
        mask: as for `reassemble`.
        boxes: as for `reassemble`; at least one.
        probability: as for `reassemble`.

    Returns:
        The smallest box of the image around the mask and its patches, and (height, width) float32
        in [0, 1] of this box: 0 or 1 outside of the patches.
    """
    height, width = mask.size
    x0, y0, x1, y1 = mask.window
    region = (
        min(x0, max(int(boxes[:, 0].min()), 0)),
        min(y0, max(int(boxes[:, 1].min()), 0)),
        max(x1, min(int(boxes[:, 2].max()), width)),
        max(y1, min(int(boxes[:, 3].max()), height)),
    )
    left, top = region[:2]
    mean = mask.read(region).astype(np.float32)
    total = np.zeros(mean.shape, np.float32)
    count = np.zeros(mean.shape, np.int32)
    for (bx0, by0, bx1, by1), patch in zip(boxes.tolist(), probability, strict=True):
        inside = patch[: min(by1, height) - by0, : min(bx1, width) - bx0]
        rows = slice(by0 - top, by0 - top + inside.shape[0])
        columns = slice(bx0 - left, bx0 - left + inside.shape[1])
        total[rows, columns] += inside
        count[rows, columns] += 1
    np.divide(total, count, out=mean, where=count > 0)
    return region, mean


@lru_cache(maxsize=64)
def _suppression_stencil(size: int, nms_iou: float) -> BoolArray:
    """Offsets (dy, dx) at which two squares overlap by nms_iou or more, centre in the middle."""
    along = size - np.abs(np.arange(-size + 1, size))
    inter = np.multiply.outer(along, along).astype(np.float32)
    stencil = inter / (np.float32(2 * size * size) - inter) >= np.float32(nms_iou)
    reach = int(np.flatnonzero(stencil.any(axis=0))[-1]) - (size - 1)
    middle = slice(size - 1 - reach, size + reach)
    return np.asarray(stencil[middle, middle])


def _outlines(mask: Mask, xs: Int64Array, ys: Int64Array) -> list[tuple[Int64Array, Int64Array]]:
    """The object pixels of the boundary in the order of its outlines, holes included.

    Args:
        mask: not empty.
        xs, ys: its boundary: the outline runs along the image border too, where there is none.

    Returns:
        x and y of each outline's pixels, next to each other but where the image cuts it.
    """
    left, top = int(xs.min()), int(ys.min())
    region = (left, top, int(xs.max()) + 1, int(ys.max()) + 1)
    boundary = np.zeros((region[3] - top, region[2] - left), np.bool_)
    boundary[ys - top, xs - left] = True
    found, _ = cv2.findContours(
        mask.read(region).view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
    )
    outlines = []
    for points in found:
        x, y = points[:, 0].T.astype(np.int64)
        counts = boundary[y, x]
        if counts.any():
            outlines.append((x[counts] + left, y[counts] + top))
    return outlines


def _follow(
    outlines: list[tuple[Int64Array, Int64Array]], size: int, nms_iou: float
) -> tuple[Int64Array, Int64Array]:
    """Choose centres along outlines until every point has one near, see `select_patches`.

    Near is the stencil of `suppress`, cut so that the pixels beside a near point lie in the patch.

    Args:
        outlines: x and y of points in order.
        size: side of the squares in pixels.
        nms_iou: overlap in (0, 1] that squares of near points have.

    Returns:
        x and y, (N,) int64 each, points of the outlines.
    """
    nothing = np.zeros(0, np.int64)
    if not outlines:
        return nothing, nothing
    stencil = _suppression_stencil(size, nms_iou)
    reach = min(stencil.shape[0] // 2, max(size // 2 - 2, 0))
    inside = slice(stencil.shape[0] // 2 - reach, stencil.shape[0] // 2 + reach + 1)
    stencil = stencil[inside, inside]
    left = min(int(x.min()) for x, _ in outlines) - reach
    top = min(int(y.min()) for _, y in outlines) - reach
    columns = max(int(x.max()) for x, _ in outlines) + reach + 1 - left
    rows = max(int(y.max()) for _, y in outlines) + reach + 1 - top
    has_near = np.zeros((rows, columns), np.bool_)
    ahead = 4 * reach + 1  # points; an outline that winds more gets a patch more
    kept_x, kept_y = [], []
    for outline_x, outline_y in outlines:
        x, y = outline_x - left, outline_y - top
        left_over = ~has_near[y, x]
        x, y = x[left_over], y[left_over]
        count = len(x)
        # a straight line of n points takes this many patches; so far apart they are even
        step = -(-count // (2 * max(-(-count // (2 * reach + 1)), 1)))
        index = 0
        while index < count:
            done = has_near[y[index : index + ahead], x[index : index + ahead]]
            skipped = int(done.argmin())
            if done[skipped]:
                index += len(done)
                continue
            index += skipped
            dx = x[index : index + ahead] - x[index]
            dy = y[index : index + ahead] - y[index]
            near = (np.abs(dx) <= reach) & (np.abs(dy) <= reach)
            near[near] = stencil[dy[near] + reach, dx[near] + reach]
            run = len(near) if near.all() else int(near.argmin())
            centre = index + min(run - 1, step)
            cx, cy = int(x[centre]), int(y[centre])
            has_near[cy - reach : cy + reach + 1, cx - reach : cx + reach + 1] |= stencil
            kept_x.append(cx + left)
            kept_y.append(cy + top)
    return np.array(kept_x, np.int64), np.array(kept_y, np.int64)


def _uncovered(
    xs: Int64Array,
    ys: Int64Array,
    candidate_x: Int64Array,
    candidate_y: Int64Array,
    centre_x: Int64Array,
    centre_y: Int64Array,
    half: int,
) -> Int64Array:
    """Candidates to add until every boundary pixel lies in a patch, in row-major order."""
    left, top = int(xs.min()), int(ys.min())
    covered = np.zeros((int(ys.max()) - top + 1, int(xs.max()) - left + 1), np.bool_)

    def cover(x: int, y: int) -> None:
        column, row = x - left, y - top
        covered[max(row - half, 0) : row + half, max(column - half, 0) : column + half] = True

    for x, y in zip(centre_x.tolist(), centre_y.tolist(), strict=True):
        cover(x, y)
    added = []
    for index in np.flatnonzero(~covered[ys - top, xs - left]).tolist():
        if not covered[ys[index] - top, xs[index] - left]:
            added.append(index)
            cover(int(candidate_x[index]), int(candidate_y[index]))
    return np.array(added, np.int64)


def _reference_boxes(x0: Int64Array, y0: Int64Array, size: int, image: Size) -> Int64Array:
    """The reference's shift into the image (tools/split_patches.py:_force_move_back)."""
    height, width = image
    x0, y0 = np.maximum(x0, 0), np.maximum(y0, 0)
    # off by one there: x1 is exclusive, yet kept below width
    x0 = np.where(x0 + size >= width, width - 1 - size, x0)
    y0 = np.where(y0 + size >= height, height - 1 - size, y0)
    return np.stack([x0, y0, x0 + size, y0 + size], axis=1)
