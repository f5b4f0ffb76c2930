"""What the object in a mask is, told by its values: one function decides, for every command.

The rules, in the order in which they are tried:

1. Where alpha varies and the colours do not, alpha is the mask; else alpha says nothing.
2. Floats are probabilities: above 0.5, or above half of the range where it is larger than 1.
3. Two values, one of them zero (black): what is not zero is the object.
4. No zero at all: nobody can tell the object from the background, so the mask is refused. Only
   255 everywhere is an object that fills the image.
5. Several values of solid regions (instance or class map, palette, colours): an instance each.
6. Many values (noise of compression, smooth edges): above half of the range.

Rules 1 (alpha), 2, 5 and 6 leave a note: they are guesses, if good ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bpr.pipeline.instance import BoolArray, UInt8Array

IGNORED = 255
"""In 8-bit instance maps: pixels that nobody could label."""

_SOLID = 0.2  # share of the pixels of a value whose neighbours have it too, from which it is solid
_GRADED = 0.6  # share of steps of 1 or 2 among all steps, from which values are grades
_FEW_VALUES = 8  # that a map has at least before it can be graded
_FEW_LEVELS = 64  # the largest value of a map that cannot be graded
_TRIMAP = range(120, 136)  # its middle value
_LARGEST_BELOW_IGNORED = 128  # instance numbers end below it where 255 means "ignored"
_CITYSCAPES_INSTANCE = 1000  # values from here on are label * 1000 + number
_CITYSCAPES_THINGS = range(24, 34)  # labels that have instances
_CITYSCAPES_LABELS = range(34)
_CITYSCAPES_VOID = frozenset(range(7))
_MOST_INSTANCES = 4096  # of a map; more are noise

Objects = list[tuple[BoolArray, int | None]]
"""(H, W) of each object, and its value where a map tells objects by values (of colours
0xRRGGBB); None: the only object."""


def objects_of_colours(bands: UInt8Array) -> tuple[Objects, list[str]]:
    """The objects of a mask in colours.

    Args:
        bands: (H, W, 3) RGB or (H, W, 4) with alpha.

    Returns:
        The objects, and what was guessed, in words.

    Raises:
        ValueError: rule 4, or a trimap.
    """
    colours, alpha = bands[..., :3], bands[..., 3:]
    if alpha.size and _is_constant(colours) and not _is_constant(alpha):
        objects, notes = objects_of_values(np.ascontiguousarray(alpha[..., 0]))
        return objects, ["the mask is in the alpha channel: the colours do not vary", *notes]
    if (colours[..., :1] == colours).all():
        return objects_of_values(np.ascontiguousarray(colours[..., 0]))
    packed = colours.astype(np.int64) @ np.array([2**16, 2**8, 1], np.int64)
    return _objects(packed, strength=colours.max(axis=-1))


def objects_of_values(
    values: npt.NDArray[Any], is_palette: bool = False, may_fill: bool = False
) -> tuple[Objects, list[str]]:
    """The objects of a mask of one channel.

    Args:
        values: (H, W) integers or bool: grey or palette indices.
        is_palette: whether they are indices, which are never shades, and of which 255 is a
            border that nobody labelled.
        may_fill: whether one value everywhere is an object that fills the mask.

    Returns:
        The objects, and what was guessed, in words.

    Raises:
        ValueError: rule 4, or a trimap.
    """
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if may_fill and bool((values == values[:1, :1]).all()):
        return [(values != 0, None)], []
    return _objects(values, is_palette)


def objects_of_floats(values: npt.NDArray[Any]) -> tuple[Objects, list[str]]:
    """The objects of a mask of floats, (H, W). As `objects_of_values`."""
    if not np.isfinite(values).all():
        raise ValueError("expected finite values in a mask, got some that are not")
    low, high = float(values.min()), float(values.max())
    if low == 0 and ((values == 0) | (values == high)).all():
        return [(values != 0, None)], []
    half = 0.5 if high <= 1 else high / 2
    note = f"floating-point values from {low:g} to {high:g}: above {half:g} is the object"
    return [(values > half, None)], [note]


def distinct(values: npt.NDArray[Any]) -> list[int]:
    """The values that occur, in order. Counting is many times as fast as sorting."""
    if values.dtype == np.uint8:
        counts = cv2.calcHist([values], [0], None, [256], [0, 256])
        return [int(value) for value in np.flatnonzero(counts)]
    if values.dtype == np.uint16:
        return [int(value) for value in np.flatnonzero(np.bincount(values.ravel()))]
    return [int(value) for value in np.unique(values)]


def listed(values: Sequence[int], is_colour: bool = False) -> str:
    """Values as a message shows them."""
    names = [f"#{value:06x}" if is_colour else str(value) for value in values]
    if len(names) > 6:
        names = [*names[:5], f"... {names[-1]}"]
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def _objects(
    values: npt.NDArray[Any], is_palette: bool = False, strength: UInt8Array | None = None
) -> tuple[Objects, list[str]]:
    """Rules 3 to 6. Colours are 0xRRGGBB; their strength is the largest channel."""
    found = distinct(values)
    if len(found) <= 2 and 0 in found:
        return [(values != 0, None)], []
    shades = values if strength is None else strength
    if found == [IGNORED] and not is_palette:
        return [(values != 0, None)], ["all values are 255: the object fills the image"]
    if 0 not in found:
        has_noise = len(found) > 2 and int(shades.min()) <= 0.05 * int(shades.max())
        if not has_noise:
            raise ValueError(
                "expected a mask with zero for the background, got the values "
                f"{listed(found, strength is not None)}"
            )
    if is_palette or _is_map(values, found, shades):
        return _objects_of_map(values, found, is_palette, strength is not None)
    half = (int(shades.min()) + int(shades.max())) / 2
    note = (
        f"{len(found)} values from {int(shades.min())} to {int(shades.max())}: above half of the "
        f"range, {half:g}, is the object"
    )
    return [(np.asarray(shades > half), None)], [note]


def _objects_of_map(
    values: npt.NDArray[Any], found: Sequence[int], is_palette: bool, is_colour: bool
) -> tuple[Objects, list[str]]:
    numbers: Sequence[int] = [value for value in found if value != 0]
    note = ""
    if not is_colour:
        if [*found[:1], *found[2:]] == [0, IGNORED] and found[1] in _TRIMAP and not is_palette:
            raise ValueError(
                f"expected a mask, got the values 0, {found[1]} and 255: a trimap does not say "
                "whether its middle value is the object"
            )
        meaning = values_of_map(found, values.dtype == np.uint8, is_palette)
        numbers = meaning.objects
        if IGNORED in meaning.void:
            note = f"; {IGNORED} is not labelled"
        elif meaning.stuff:
            note = f"; {listed(meaning.stuff)} are stuff of Cityscapes"
    text = (
        f"an instance map, not a mask of one object: {len(numbers)} instances "
        f"({listed(numbers, is_colour)}{note})"
    )
    return [(np.asarray(values == number), number) for number in numbers], [text]


@dataclass(frozen=True)
class MapValues:
    """What the values of an instance map mean."""

    objects: tuple[int, ...]
    void: frozenset[int]  # pixels that nobody labelled: they stay
    stuff: tuple[int, ...] = ()  # regions that are no objects; objects may take their pixels


def values_of_map(found: Sequence[int], is_8_bit: bool, is_palette: bool = False) -> MapValues:
    """Tell the objects of an instance map from void and stuff.

    0 is background. Of 8 bits, 255 is void where the other values end far below it. Values of
    Cityscapes (label x 1000 + number, beside label ids below 1000) have stuff, and void labels.

    Args:
        found: the values that occur, in order.
        is_8_bit: whether the map has 8 bits.
        is_palette: whether values are palette indices.
    """
    numbers = [value for value in found if value != 0]
    has_ignored = is_8_bit and len(numbers) > 1 and numbers[-1] == IGNORED
    if has_ignored and (is_palette or numbers[-2] < _LARGEST_BELOW_IGNORED):
        return MapValues(tuple(numbers[:-1]), frozenset({IGNORED}))
    labels = [value for value in numbers if value < _CITYSCAPES_INSTANCE]
    objects = [value for value in numbers if value >= _CITYSCAPES_INSTANCE]
    is_cityscapes = objects and all(
        value // _CITYSCAPES_INSTANCE in _CITYSCAPES_THINGS for value in objects
    )
    if not is_8_bit and is_cityscapes and all(label in _CITYSCAPES_LABELS for label in labels):
        stuff = tuple(label for label in labels if label not in _CITYSCAPES_VOID)
        return MapValues(tuple(objects), _CITYSCAPES_VOID, stuff)
    return MapValues(tuple(numbers), frozenset())


def _is_map(values: npt.NDArray[Any], found: Sequence[int], shades: npt.NDArray[Any]) -> bool:
    """Whether values are names of regions (rule 5) and not shades (rule 6)."""
    if len(found) > _MOST_INSTANCES or (len(found) > _FEW_VALUES and _is_graded(shades)):
        return False
    if values.dtype.itemsize > 1 and shades is values:  # more than 8 bits are seldom shades
        return True
    positions = np.searchsorted(found, values)
    padded = np.pad(positions, 1, mode="edge")
    inside = np.ones(positions.shape, np.bool_)
    for rows, columns in (((0, -2), (1, -1)), ((2, None), (1, -1)),
                          ((1, -1), (0, -2)), ((1, -1), (2, None))):  # fmt: skip
        inside &= padded[slice(*rows), slice(*columns)] == positions
    areas = np.bincount(positions.ravel(), minlength=len(found))
    inner = np.bincount(positions.ravel(), weights=inside.ravel(), minlength=len(found))
    is_object = np.array([value != 0 for value in found])
    is_solid = is_object & (inner >= _SOLID * areas)
    num_solid, num_loose = int(is_solid.sum()), int((is_object & ~is_solid).sum())
    return num_solid >= 2 and num_loose <= num_solid


def _is_graded(values: npt.NDArray[Any]) -> bool:
    """Whether neighbours that differ mostly differ by one or two: shades, not names."""
    if int(values.max()) < _FEW_LEVELS:
        return False
    wide = values.astype(np.int64)
    steps = np.concatenate(
        [np.abs(np.diff(wide, axis=0)).ravel(), np.abs(np.diff(wide, axis=1)).ravel()]
    )
    steps = steps[steps > 0]
    return bool(steps.size) and float(np.mean(steps <= 2)) >= _GRADED


def _is_constant(values: npt.NDArray[Any]) -> bool:
    return bool((values == values[:1, :1]).all())
