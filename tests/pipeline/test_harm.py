"""Do no harm: good masks stay, pixel for pixel; bad ones are still refined."""

import cv2
import numpy as np
import pytest

from bpr.pipeline.harm import LEAST_MOVE, LEAST_MOVE_SHARE, without_harm
from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Instance, Mask, Prediction
from bpr.pipeline.predictor import KeepCoarse
from bpr.pipeline.refine import refine
from bpr.pipeline.settings import PatchSettings

SIZE = (200, 240)


def disc(radius: float) -> Mask:
    ys, xs = np.mgrid[: SIZE[0], : SIZE[1]]
    return Mask.from_array(np.hypot(xs - 120.5, ys - 100.5) < radius)


class Moves(KeepCoarse):
    """Moves every outline by a few pixels, outwards (> 0) or inwards, in the whole patch."""

    def __init__(self, pixels: int) -> None:
        super().__init__(64)
        self.pixels = pixels

    def __call__(self, patches):
        reach = abs(self.pixels)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        change = cv2.dilate if self.pixels > 0 else cv2.erode
        moved = np.stack([change(np.ascontiguousarray(p[..., 3]), kernel) for p in patches])
        return np.where(moved > 0, 20, -20).astype(np.float32)


SETTINGS = PatchSettings(patch_size=64)


def refined(coarse: Mask, predictor, settings=SETTINGS) -> Mask:
    image = np.zeros((*SIZE, 3), np.uint8)
    prediction = Prediction(SIZE, (Instance(mask=coarse, label=0, score=1.0),))
    return refine(image, prediction, HostRunner(predictor), settings).instances[0].mask


@pytest.mark.parametrize("pixels", [-3, 3])
def test_an_outline_that_moves_by_pixels_is_refined(pixels):
    coarse, moved = disc(60), refined(disc(60), Moves(pixels))
    overlap = np.count_nonzero(moved.to_array() & disc(60 + pixels).to_array())
    assert overlap / max(moved.area, disc(60 + pixels).area) > 0.98
    assert overlap != coarse.area


def test_the_bound_is_half_a_pixel_for_an_object_of_a_hundred():
    assert pytest.approx(0.5) == LEAST_MOVE + 100 * LEAST_MOVE_SHARE
    # the ring between two radii holds (difference of radii) x outline pixels, roughly
    coarse = disc(50)
    assert without_harm(coarse, disc(50.2)) is coarse
    assert without_harm(coarse, disc(49.8)) is coarse
    for radius in (48.5, 51.5):
        moved = disc(radius)
        assert without_harm(coarse, moved) is moved


def test_a_few_wrong_pixels_far_out_are_no_reason_to_redraw_an_outline():
    coarse = disc(50)
    array = coarse.to_array().copy()
    array[10:14, 10:14] = True
    assert without_harm(coarse, Mask.from_array(array)) is coarse


def test_an_object_is_never_refined_away():
    coarse = disc(4)
    nothing = Mask.from_array(np.zeros(SIZE, np.bool_))
    assert without_harm(coarse, nothing) is coarse
    assert refined(coarse, Moves(-20)).area == coarse.area


def test_compat_does_what_the_reference_does():
    coarse = disc(4)
    settings = PatchSettings(patch_size=64, compat=True)
    assert refined(coarse, Moves(-20), settings).is_empty
