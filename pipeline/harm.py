"""Do no harm: when a coarse mask is better left alone."""

from __future__ import annotations

from bpr.pipeline.instance import Mask, differing_pixels
from bpr.pipeline.metrics import outline

# An accurate mask that is refined moves by about half a pixel, because a network sees the outline
# no finer; the errors of mask heads and of quick polygons are larger, the more so the larger the
# object. LOG.md, 2026-11-21, has what other bounds give.
LEAST_MOVE = 0.4  # pixels
LEAST_MOVE_SHARE = 0.001  # of the object's long side, added


def without_harm(coarse: Mask, refined: Mask) -> Mask:
    """Return the refined mask, or the coarse one if refinement probably made it worse.

    A very small change is probably noise, so the coarse mask is kept. It is also kept if nothing
    would be left of the object. The average move
    is the number of changed pixels by that of the coarse outline's pixels.
    """
    if refined.is_empty or coarse.is_empty:
        return coarse
    x0, y0, x1, y1 = coarse.window
    least = LEAST_MOVE + LEAST_MOVE_SHARE * max(x1 - x0, y1 - y0)
    moved = differing_pixels(coarse, refined) / max(outline(coarse).area, 1)
    return refined if moved > least else coarse
