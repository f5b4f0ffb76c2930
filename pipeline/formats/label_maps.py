"""Maps in which every pixel has a value: what its objects are, and how they are written back.

In a label map each connected region of a class is an object. In an instance map each value is
one, except for void and stuff.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bpr.pipeline.formats.mask_values import IGNORED, values_of_map
from bpr.pipeline.instance import BoolArray, Mask, Size

_MOST_CLASSES = 151  # of a label map without background: ADE20K has 150

Values = npt.NDArray[Any]
"""(H, W) integers."""


@dataclass(frozen=True)
class LabelScheme:
    """What the values of label maps mean."""

    void: frozenset[int]  # pixels that nobody labelled: they stay
    background: int | None  # not refined, but regions may take its pixels; None: there is none


CITYSCAPES_IDS = LabelScheme(frozenset({*range(7), IGNORED}), None)
CITYSCAPES_TRAIN_IDS = LabelScheme(frozenset({IGNORED}), None)  # 0 is road


def scheme_of(file_name: str, values: Values) -> LabelScheme:
    """The scheme of a label map: by the names of Cityscapes, else 0 is background and 255 void.

    In maps of more than 8 bits, 255 is a class like others.
    """
    stem = file_name.rpartition(".")[0].lower()
    if stem.endswith("labelids"):
        return CITYSCAPES_IDS
    if stem.endswith("trainids"):
        return CITYSCAPES_TRAIN_IDS
    return LabelScheme(frozenset({IGNORED} if values.dtype == np.uint8 else ()), 0)


@dataclass(frozen=True, eq=False)
class MapObjects:
    """A map and the objects in it."""

    values: Values  # (H, W) as it was
    objects: tuple[tuple[int, Mask], ...]  # value and mask
    is_void: BoolArray  # (H, W), what stays
    background: int | None
    """What pixels become that no object has any more; None: what is nearest to them."""

    def with_masks(self, refined: Sequence[Mask]) -> Values:
        """The map with other masks, without overlaps.

        Where masks overlap, the object that had the pixel before keeps it, else the first takes
        it. Void stays void. An object of which no pixel would be left stays as it was.

        Args:
            refined: of the objects, in their order.
        """
        owner = np.zeros(self.values.shape, np.int32)
        before = np.zeros(self.values.shape, np.int32)
        for number, (_, mask) in enumerate(self.objects, start=1):
            x0, y0, x1, y1 = mask.window
            before[y0:y1, x0:x1][mask.bitmap] = number
        for number, mask in enumerate(refined, start=1):
            x0, y0, x1, y1 = mask.window
            part = owner[y0:y1, x0:x1]
            part[mask.bitmap & ((part == 0) | (before[y0:y1, x0:x1] == number))] = number
        owner[self.is_void] = 0
        numbers = set(np.unique(before[~self.is_void]).tolist()) - {0}
        while vanished := numbers.difference(np.unique(owner).tolist()):
            owner = np.where(np.isin(before, list(vanished)), before, owner)
        of_number = np.array([0, *(value for value, _ in self.objects)], self.values.dtype)
        new = np.where(owner > 0, of_number[owner], self.values)
        lost = (before > 0) & (owner == 0)
        if not lost.any():
            return new
        settled = ~lost & ~self.is_void
        if self.background is not None:
            new[lost] = self.background
        elif settled.any():
            new[lost] = _nearest(new, settled)[lost]
        return new


def regions_of(values: Values, scheme: LabelScheme) -> MapObjects:
    """The connected regions of a label map; pixels touch by their sides.

    Args:
        values: (H, W), from `read_instance_map`.
        scheme: what they mean.
    """
    is_void = np.isin(values, list(scheme.void))
    is_object = ~is_void if scheme.background is None else ~is_void & (values != scheme.background)
    found = [
        (value, part)
        for value in np.unique(values[is_object]).tolist()
        for part in connected_parts(values == value)
    ]
    return MapObjects(values, tuple(found), is_void, None)


def connected_parts(
    bitmap: BoolArray, offset: tuple[int, int] = (0, 0), size: Size | None = None
) -> list[Mask]:
    """The parts of a bitmap, (h, w), that are connected by the sides of their pixels.

    Args:
        bitmap: of an image or of a part of it.
        offset: (x, y) of its first pixel in the image.
        size: of the image; the bitmap's own where it is the whole image.
    """
    count, parts, stats, _ = cv2.connectedComponentsWithStats(bitmap.view(np.uint8), connectivity=4)
    masks = []
    for number in range(1, count):
        x, y, width, height = (int(side) for side in stats[number, :4])
        own = parts[y : y + height, x : x + width] == number
        dx, dy = offset
        window = (x + dx, y + dy, x + dx + width, y + dy + height)
        masks.append(Mask(own, window, size or (bitmap.shape[0], bitmap.shape[1])))
    return masks


def instances_of(values: Values) -> MapObjects:
    """The instances of what is known to be an instance map: of 8 bits, 255 is void.

    Args:
        values: (H, W), from `read_instance_map`.
    """
    found = np.unique(values).tolist()
    meaning = values_of_map(found, values.dtype == np.uint8, True)
    objects = set(meaning.objects)
    masks = tuple((value, mask) for value, mask in split_instances(values) if value in objects)
    is_void = np.isin(values, list(meaning.void))
    return MapObjects(values, masks, is_void, None if meaning.stuff else 0)


def split_instances(values: Values) -> list[tuple[int, Mask]]:
    """Each value of a map but 0, in order, with the mask of its pixels.

    The time follows the map and the instances' windows, not their product.
    """
    if values.size == 0:
        return []
    ys, xs = np.nonzero(values)
    found = values[ys, xs].astype(np.int64)
    order = np.argsort(found, kind="stable")
    found, ys, xs = found[order], ys[order], xs[order]
    starts = np.flatnonzero(np.diff(found, prepend=found[:1] - 1))
    if starts.size == 0:
        return []
    size = (values.shape[0], values.shape[1])
    x0s, x1s = np.minimum.reduceat(xs, starts), np.maximum.reduceat(xs, starts) + 1
    ends = np.append(starts[1:], len(ys)) - 1
    instances = []
    # rows come in order, columns do not
    for value, x0, y0, x1, y1 in zip(
        found[starts].tolist(), x0s.tolist(), ys[starts].tolist(), x1s.tolist(),
        (ys[ends] + 1).tolist(), strict=True,
    ):  # fmt: skip
        bitmap = values[y0:y1, x0:x1] == value
        instances.append((value, Mask(bitmap, (x0, y0, x1, y1), size)))
    return instances


def looks_like_label_map(values: Values, is_palette: bool) -> bool:
    """Whether a map tells classes and not instances.

    Instances are counted from 1 over a background of 0. A palette map that leaves numbers out
    names classes, and so does one of 8 bits without any 0.
    """
    if values.dtype != np.uint8:
        return False
    found = [value for value in np.unique(values).tolist() if value != IGNORED]
    numbers = [value for value in found if value != 0]
    if is_palette and numbers != list(range(1, len(numbers) + 1)):
        return True
    return 0 not in found and len(numbers) > 1 and numbers[-1] < _MOST_CLASSES


def _nearest(values: Values, is_settled: BoolArray) -> Values:
    """(H, W): for each pixel the value of the nearest settled one."""
    _, numbers = cv2.distanceTransformWithLabels(
        (~is_settled).view(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_number: Values = np.zeros(int(numbers.max()) + 1, values.dtype)
    of_number[numbers[is_settled]] = values[is_settled]
    return np.asarray(of_number[numbers])
