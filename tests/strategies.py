"""What the property tests draw: masks of every awkward shape, and patch settings."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from bpr.pipeline.instance import BoolArray, Mask, Size
from bpr.pipeline.settings import PatchSettings

# A busy machine is no failure; the counts keep the whole folder within seconds.
thorough = settings(deadline=None, max_examples=300)
quick = settings(deadline=None, max_examples=100)


@st.composite
def bitmaps(
    draw: st.DrawFn, min_side: int = 1, max_side: int = 80, size: Size | None = None
) -> BoolArray:
    """A mask over a whole image, seldom square: empty, full, or shapes added and cut out.

    Shapes may leave the image, so objects touch every border; cutting out makes holes, and
    several shapes make several components. Single pixels are set and cleared at the end.

    Args:
        draw: given by hypothesis.
        min_side, max_side: of the image, drawn in between.
        size: (height, width) to use instead.
    """
    sides = st.integers(min_side, max_side)
    height, width = size if size is not None else draw(st.tuples(sides, sides))
    kind = draw(st.sampled_from(["shapes"] * 8 + ["empty", "full"]))
    if kind == "empty":
        return np.zeros((height, width), np.bool_)
    canvas = np.full((height, width), kind == "full", np.uint8)
    near = st.tuples(st.integers(-5, width + 4), st.integers(-5, height + 4))
    for _ in range(draw(st.integers(0 if kind == "full" else 1, 4))):
        centre, value = draw(near), draw(st.sampled_from([1, 1, 0]))
        axes = draw(st.tuples(st.integers(0, 30), st.integers(0, 30)))
        if draw(st.booleans()):
            cv2.ellipse(canvas, centre, axes, draw(st.integers(0, 179)), 0, 360, value, -1)
        else:
            (x, y), (dx, dy) = centre, axes
            cv2.rectangle(canvas, (x - dx, y - dy), (x + dx, y + dy), value, -1)
    for _ in range(draw(st.integers(0, 3))):
        x, y = draw(st.tuples(st.integers(0, width - 1), st.integers(0, height - 1)))
        canvas[y, x] ^= 1
    return canvas.astype(np.bool_)


@st.composite
def masks(draw: st.DrawFn, min_side: int = 1, max_side: int = 80, size: Size | None = None) -> Mask:
    """As `bitmaps`, with a tight window or one that has some background around the object."""
    array = draw(bitmaps(min_side, max_side, size))
    mask = Mask.from_array(array)
    if mask.is_empty or draw(st.booleans()):
        return mask
    x0, y0, x1, y1 = mask.window
    loose = st.integers(0, 3)
    window = (
        max(x0 - draw(loose), 0),
        max(y0 - draw(loose), 0),
        min(x1 + draw(loose), array.shape[1]),
        min(y1 + draw(loose), array.shape[0]),
    )
    return Mask(mask.read(window), window, mask.size)


@st.composite
def patch_settings(draw: st.DrawFn, compat: bool = False) -> PatchSettings:
    """Small patches, so that small images hold several; IoU thresholds of both extremes."""
    sizes = [2, 4, 8, 16, 24, 32, 64] if compat else [2, 4, 8, 16, 24, 32, 64, None]
    return PatchSettings(
        patch_size=draw(st.sampled_from(sizes)),
        padding=draw(st.sampled_from([0, 0, 3, 8])),
        nms_iou=draw(st.sampled_from([0.05, 0.15, 0.25, 0.5, 0.55, 0.6, 0.8, 1.0])),
        compat=compat,
    )
