"""The fast functions again, plainly and over whole images: slow, and easy to see right."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from bpr.pipeline.instance import BoolArray, Float32Array, Int64Array

BoundaryPixel = tuple[int, int, int]
"""x, y, score."""


def boundary(mask: BoolArray, compat: bool = False) -> list[BoundaryPixel]:
    """Boundary pixels in row-major order; compat takes the outside of the image as background."""
    height, width = mask.shape
    found = []
    for y in range(height):
        for x in range(width):
            count = 0
            for ny in (y - 1, y, y + 1):
                for nx in (x - 1, x, x + 1):
                    if compat:
                        inside = 0 <= ny < height and 0 <= nx < width
                        count += bool(inside and mask[ny, nx])
                    else:  # the mask continues as at its edge
                        edge_y, edge_x = min(max(ny, 0), height - 1), min(max(nx, 0), width - 1)
                        count += bool(mask[edge_y, edge_x])
            if 0 < count < 9:
                found.append((x, y, min(count, 9 - count)))
    return found


def suppress(xs: Int64Array, ys: Int64Array, size: int, nms_iou: float) -> list[int]:
    """Greedy suppression of equal squares, best first, every square against every taken one."""
    taken: list[int] = []
    for index, (x, y) in enumerate(zip(xs.tolist(), ys.tolist(), strict=True)):
        for other in taken:
            along_x = max(size - abs(x - int(xs[other])), 0)
            along_y = max(size - abs(y - int(ys[other])), 0)
            intersection = np.float32(along_x * along_y)
            union = np.float32(2 * size * size) - intersection
            if intersection / union >= np.float32(nms_iou):
                break
        else:
            taken.append(index)
    return taken


def reassemble(mask: BoolArray, boxes: Int64Array, probability: Float32Array) -> BoolArray:
    """Average the patches pixel by pixel; what no patch covers keeps the coarse mask."""
    refined = mask.copy()
    corners = boxes.tolist()
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            total, count = np.float32(0), 0
            for (x0, y0, x1, y1), patch in zip(corners, probability, strict=True):
                if x0 <= x < x1 and y0 <= y < y1:
                    total += patch[y - y0, x - x0]
                    count += 1
            if count:
                refined[y, x] = total / np.float32(count) > 0.5
    return refined


def covered(shape: tuple[int, int], boxes: Int64Array) -> BoolArray:
    """Pixels that lie in some box."""
    out = np.zeros(shape, np.bool_)
    for x0, y0, x1, y1 in boxes.tolist():
        out[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return out


def boundary_iou(
    mask: BoolArray, gt: BoolArray, dilation_ratio: float, ignore: BoolArray | None = None
) -> float:
    """Boundary IoU of Cheng et al., on whole images."""
    counted = np.ones_like(gt) if ignore is None else ~ignore
    height, width = gt.shape
    distance = max(round(dilation_ratio * np.sqrt(height**2 + width**2)), 1)
    square = np.ones((3, 3))
    first, second = (
        m & ~ndimage.binary_erosion(m, square, iterations=distance, border_value=0) & counted
        for m in (mask, gt)
    )
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


def boundary_f(
    mask: BoolArray, gt: BoolArray, tolerance: int, ignore: BoolArray | None = None
) -> float:
    """F-measure of outlines (object pixels with background beside them), on whole images."""
    counted = np.ones_like(gt) if ignore is None else ~ignore
    cross = ndimage.generate_binary_structure(2, 1)
    first, second = (m & ~ndimage.binary_erosion(m, cross, border_value=1) for m in (mask, gt))
    if not (first & counted).any() and not (second & counted).any():
        return 1.0
    shares = []
    for line, other in ((first & counted, second), (second & counted, first)):
        if not line.any() or not other.any():
            return 0.0
        shares.append(np.mean(ndimage.distance_transform_edt(~other)[line] <= tolerance))
    precision, recall = shares
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
