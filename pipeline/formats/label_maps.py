"""Label maps: every pixel has a class; each connected region of a class is an object.

0 is background and is not refined. Of 8-bit maps, 255 is void: it stays where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bpr.pipeline.formats.images import IGNORE, InstanceMap
from bpr.pipeline.instance import Mask


def regions(values: InstanceMap) -> list[tuple[int, Mask]]:
    """The connected regions of a label map, with their values; pixels touch by their sides.

    Args:
        values: (H, W), from `read_instance_map`.
    """
    return _split(values)[0]


def with_regions(values: InstanceMap, refined: Sequence[Mask]) -> InstanceMap:
    """The map with other regions, without overlaps and without holes.

    Where regions overlap, the one that had the pixel before keeps it, else the first takes it. A
    pixel that no region has any more goes to the nearest region or background. Void stays void.

    Args:
        values: (H, W) as it was.
        refined: of `regions`, in their order.
    """
    found, numbered = _split(values)
    owner = np.zeros(values.shape, np.int32)
    for number, mask in enumerate(refined, start=1):
        x0, y0, x1, y1 = mask.window
        part, before = owner[y0:y1, x0:x1], numbered[y0:y1, x0:x1]
        part[mask.bitmap & ((part == 0) | (before == number))] = number
    of_number: npt.NDArray[Any] = np.array([0, *(value for value, _ in found)], values.dtype)
    new = of_number[owner]
    is_void = _is_void(values)
    is_settled = ((owner > 0) | (values == 0)) & ~is_void
    lost = ~is_settled & ~is_void
    if is_settled.any():
        new[lost] = _nearest(new, is_settled)[lost]
    else:
        new[lost] = values[lost]
    new[is_void] = values[is_void]
    return new


def _split(values: InstanceMap) -> tuple[list[tuple[int, Mask]], npt.NDArray[np.int32]]:
    """The regions with their values, and (H, W) the number of each pixel's region, from 1."""
    numbered = np.zeros(values.shape, np.int32)
    found: list[tuple[int, Mask]] = []
    size = (values.shape[0], values.shape[1])
    for value in np.unique(values[(values > 0) & ~_is_void(values)]).tolist():
        count, parts, stats, _ = cv2.connectedComponentsWithStats(
            (values == value).view(np.uint8), connectivity=4
        )
        numbered[parts > 0] = parts[parts > 0] + len(found)
        for number in range(1, count):
            x, y, width, height = (int(side) for side in stats[number, :4])
            bitmap = parts[y : y + height, x : x + width] == number
            found.append((value, Mask(bitmap, (x, y, x + width, y + height), size)))
    return found, numbered


def _nearest(values: npt.NDArray[Any], is_settled: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """(H, W): for each pixel the value of the nearest settled one."""
    _, numbers = cv2.distanceTransformWithLabels(
        (~is_settled).view(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_number: npt.NDArray[Any] = np.zeros(int(numbers.max()) + 1, values.dtype)
    of_number[numbers[is_settled]] = values[is_settled]
    return np.asarray(of_number[numbers])


def _is_void(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.asarray(values == IGNORE) & np.bool_(values.dtype == np.uint8)
