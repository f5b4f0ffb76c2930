"""How well a mask's boundary fits: one number per instance, from a pair of masks.

Everything is computed in the windows of the masks, so the cost follows the object and not the
image; only distances that are shares of the image's diagonal look at its size.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from bpr.pipeline.instance import BoolArray, Box, Mask


def boundary_iou(
    mask: Mask, gt: Mask, dilation_ratio: float = 0.02, ignore: BoolArray | None = None
) -> float:
    """Intersection over union of the two boundary regions.

    A boundary region holds the object pixels at most d from the outside of the object, d being
    `dilation_ratio` of the image's diagonal, rounded, at least 1, in chessboard distance. The
    outside of the image is outside of the object. So for an object thinner than 2 d this is the
    IoU of the masks, and cutting an image down changes the figure.

    Args:
        mask: predicted mask.
        gt: accurate mask of the same image.
        dilation_ratio: 0.02 for COCO and by default, 0.005 for Cityscapes.
        ignore: (height, width) of the image, True where nothing counts; outlines are drawn
            first and pixels left out afterwards, so that it does not cut new outlines.

    Returns:
        In [0, 1]; 1 where neither region has a pixel that counts.

    Source: Cheng et al., CVPR 2021 (arXiv:2103.16562); `mask_to_boundary` of
    bowenc0221/boundary-iou-api gives the same regions.
    """
    _check(mask, gt, ignore)
    if not dilation_ratio > 0:
        raise ValueError(f"dilation_ratio: expected a number > 0, got {dilation_ratio}")
    distance = max(round(dilation_ratio * math.hypot(*mask.size)), 1)
    region = _without(boundary_region(mask, distance), ignore)
    gt_region = _without(boundary_region(gt, distance), ignore)
    common = np.count_nonzero(region.bitmap & gt_region.read(region.window))
    union = region.area + gt_region.area - common
    return common / union if union else 1.0


def boundary_f(mask: Mask, gt: Mask, tolerance: int, ignore: BoolArray | None = None) -> float:
    """F-measure of the outline: harmonic mean of its precision and its recall.

    The outline is what `outline` returns. Precision is the share of the mask's outline pixels
    with an outline pixel of the ground truth at most `tolerance` away (Euclidean); recall the
    same with the roles exchanged.

    Args:
        mask: predicted mask.
        gt: accurate mask of the same image.
        tolerance: in pixels, >= 0. DAVIS takes 0.8 % of the diagonal, 19 px in an image of
            1024 x 2048, at which refinement does not show: 1, 2 and 3 do.
        ignore: (height, width) of the image, True where outline pixels are not counted; they
            may still be what a counted pixel is near to.

    Returns:
        In [0, 1]; where neither has an outline pixel that counts 1, where only one has, 0.

    Source: Perazzi et al., CVPR 2016 (`db_eval_boundary`). There the outline is a difference to
    the right and lower neighbours, so half of it lies outside the object; here all is inside.
    """
    _check(mask, gt, ignore)
    if tolerance < 0:
        raise ValueError(f"tolerance: expected an int >= 0, got {tolerance}")
    line, gt_line = outline(mask), outline(gt)
    precision = _share_near(_without(line, ignore), gt_line, tolerance)
    recall = _share_near(_without(gt_line, ignore), line, tolerance)
    if precision is None or recall is None:
        return 1.0 if precision is None and recall is None else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary_region(mask: Mask, distance: int) -> Mask:
    """The object pixels at most `distance` from a pixel that is not (chessboard distance).

    That is the mask without its erosion by a 3 x 3 square, iterated `distance` times. The
    outside of the image is background here, as in the published code.
    """
    if mask.is_empty:
        return mask
    # Around the window lies background or the outside of the image: zeros either way.
    eroded = cv2.erode(
        mask.bitmap.view(np.uint8),
        np.ones((3, 3), np.uint8),
        iterations=distance,
        borderType=cv2.BORDER_CONSTANT,
        borderValue=(0,),
    )
    return Mask(mask.bitmap & (eroded == 0), mask.window, mask.size)


def outline(mask: Mask) -> Mask:
    """The object pixels with background above, below, left or right of them.

    The outside of the image is no background: where the image cuts an object, there is none.
    """
    if mask.is_empty:
        return mask
    x0, y0, x1, y1 = mask.window
    around = mask.read((x0 - 1, y0 - 1, x1 + 1, y1 + 1))
    height, width = mask.size
    # the mask continues as at the image's edge
    if x0 == 0:
        around[:, 0] = around[:, 1]
    if y0 == 0:
        around[0] = around[1]
    if x1 == width:
        around[:, -1] = around[:, -2]
    if y1 == height:
        around[-1] = around[-2]
    enclosed = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return Mask(mask.bitmap & ~enclosed, mask.window, mask.size)


def _share_near(line: Mask, other: Mask, tolerance: int) -> float | None:
    """The share of a line's pixels at most `tolerance` from another's; None without pixels."""
    if line.is_empty:
        return None
    x0, y0, x1, y1 = line.window
    t = tolerance
    surroundings = other.read((x0 - t, y0 - t, x1 + t, y1 + t)).view(np.uint8)
    offsets = np.arange(-t, t + 1) ** 2
    disk = (np.add.outer(offsets, offsets) <= t * t).view(np.uint8)
    near = cv2.dilate(surroundings, disk)[t : t + y1 - y0, t : t + x1 - x0]
    return np.count_nonzero(line.bitmap & (near != 0)) / line.area


def _without(mask: Mask, ignore: BoolArray | None) -> Mask:
    if ignore is None:
        return mask
    x0, y0, x1, y1 = mask.window
    return Mask(mask.bitmap & ~ignore[y0:y1, x0:x1], mask.window, mask.size)


def mask_iou(mask: Mask, gt: Mask, ignore: BoolArray | None = None) -> float:
    """Intersection over union outside of ignored pixels; 0 where both are empty."""
    if not overlaps(mask.window, gt.window):
        return 0.0
    common = intersection(mask, gt, ignore)
    if common == 0:
        return 0.0
    return common / (area(mask, ignore) + area(gt, ignore) - common)


def intersection(mask: Mask, gt: Mask, ignore: BoolArray | None = None) -> int:
    """Number of common pixels that are not ignored."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = mask.window, gt.window
    x0, y0, x1, y1 = max(ax0, bx0), max(ay0, by0), min(ax1, bx1), min(ay1, by1)
    if x0 >= x1 or y0 >= y1:
        return 0
    common = (
        mask.bitmap[y0 - ay0 : y1 - ay0, x0 - ax0 : x1 - ax0]
        & gt.bitmap[y0 - by0 : y1 - by0, x0 - bx0 : x1 - bx0]
    )
    if ignore is not None:
        common &= ~ignore[y0:y1, x0:x1]
    return int(np.count_nonzero(common))


def area(mask: Mask, ignore: BoolArray | None = None) -> int:
    """Number of pixels that are not ignored."""
    if ignore is None:
        return mask.area
    x0, y0, x1, y1 = mask.window
    return int(np.count_nonzero(mask.bitmap & ~ignore[y0:y1, x0:x1]))


def overlaps(one: Box, other: Box) -> bool:
    """Two boxes have a pixel in common."""
    return max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(
        one[3], other[3]
    )


def _check(mask: Mask, gt: Mask, ignore: BoolArray | None) -> None:
    if mask.size != gt.size:
        raise ValueError(
            f"mask: expected the size of its ground truth, {gt.size} (height, width), "
            f"got {mask.size}"
        )
    if ignore is not None and (ignore.dtype != np.bool_ or ignore.shape != gt.size):
        raise ValueError(
            f"ignore: expected bool of shape {gt.size}, got {ignore.dtype} of shape {ignore.shape}"
        )
