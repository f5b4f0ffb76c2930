"""Pictures of what was found in an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from bpr.pipeline.instance import Prediction, UInt8Array

_COLOURS = (  # told apart by most colour-blind people (Okabe and Ito, 2008)
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
)
_OPACITY = 0.45


def draw_instances(
    image: UInt8Array, prediction: Prediction, categories: Mapping[int, str]
) -> UInt8Array:
    """Lay the masks of an image over it, with category and score beside each.

    Args:
        image: (H, W, 3) RGB.
        prediction: of the image; the first instance is drawn last, above the others.
        categories: names by label.

    Returns:
        (H, W, 3) RGB.
    """
    drawn: UInt8Array = image.copy()
    numbered = list(enumerate(prediction.instances))
    for number, instance in reversed(numbered):
        colour = np.array(_COLOURS[number % len(_COLOURS)], np.float32)
        x0, y0, x1, y1 = instance.mask.window
        part = drawn[y0:y1, x0:x1]
        bitmap = instance.mask.bitmap
        part[bitmap] = (1 - _OPACITY) * part[bitmap] + _OPACITY * colour
        outlines, _ = cv2.findContours(
            bitmap.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(x0, y0)
        )
        cv2.drawContours(
            drawn, outlines, -1, colour.tolist(), max(1, round(max(image.shape) / 600))
        )
    scale = max(0.35, max(image.shape) / 1600)
    for number, instance in numbered:
        x0, y0, _, _ = instance.mask.window
        name = categories.get(instance.label, str(instance.label))
        where = (x0 + 2, y0 + round(24 * scale))
        text = f"{name} {instance.score:.2f}"
        for ink, width in (((0, 0, 0), 3), (_COLOURS[number % len(_COLOURS)], 1)):
            cv2.putText(drawn, text, where, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, width)
    return drawn


def tile(pictures: Sequence[UInt8Array], columns: int, side: int) -> UInt8Array:
    """Put pictures beside and below each other, each inside a square.

    Args:
        pictures: each (H, W, 3), at least one.
        columns: squares in a row.
        side: of a square in pixels.

    Returns:
        (rows * side, columns * side, 3), white where nothing lies.
    """
    rows = -(-len(pictures) // columns)
    whole = np.full((rows * side, columns * side, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        scale = side / max(height, width)
        size = max(1, int(width * scale)), max(1, int(height * scale))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        y, x = number // columns * side, number % columns * side
        whole[y : y + small.shape[0], x : x + small.shape[1]] = small
    return whole
