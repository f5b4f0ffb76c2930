import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpr.pipeline.evaluation.rivals import GrabCut, GuidedFilter, band, filtered_mask, guided_filter
from bpr.pipeline.instance import Instance, Mask, Prediction
from bpr.pipeline.metrics import mask_iou
from tests.strategies import bitmaps, quick

METHODS = [GrabCut(), GuidedFilter()]
every_method = pytest.mark.parametrize("method", METHODS, ids=["grabcut", "guided-filter"])


def disk(size=(120, 160), centre=(80, 60), radius=35):
    return cv2.circle(np.zeros(size, np.uint8), centre, radius, 1, -1) != 0


@pytest.fixture
def photograph():
    """A reddish disk on green, with the noise of a camera."""
    colours = np.where(disk()[..., None], [190, 70, 60], [50, 120, 50])
    noisy = colours + np.random.default_rng(0).normal(0, 6, (120, 160, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def prediction(*arrays):
    instances = [
        Instance(
            mask=Mask.from_array(array),
            label=24 + number,
            score=0.5 + number / 10,
            record={"file": f"{number}.png"},
        )
        for number, array in enumerate(arrays)
    ]
    return Prediction(arrays[0].shape, tuple(instances))


@every_method
class TestEveryMethod:
    def test_it_pulls_a_mask_to_the_edge_in_the_image(self, method, photograph):
        coarse = np.roll(disk(), 2, axis=1)
        refined = method(photograph, prediction(coarse)).instances[0].mask.to_array()
        assert np.count_nonzero(refined ^ disk()) < 0.5 * np.count_nonzero(coarse ^ disk())

    def test_it_keeps_the_instances_and_their_order(self, method, photograph):
        before = prediction(disk(), np.zeros((120, 160), np.bool_), np.roll(disk(), 2, axis=0))
        after = method(photograph, before)
        assert after.size == before.size
        for old, new in zip(before.instances, after.instances, strict=True):
            assert (old.label, old.score, old.record) == (new.label, new.score, new.record)
        assert after.instances[1].mask.is_empty

    @quick
    @given(array=bitmaps(max_side=40), seed=st.integers(0, 9))
    def test_it_takes_masks_of_every_shape_and_gives_the_same_twice(self, method, array, seed):
        image = np.random.default_rng(seed).integers(0, 256, (*array.shape, 3), np.uint8)
        once, twice = (method(image, prediction(array)).instances[0].mask for _ in range(2))
        np.testing.assert_array_equal(once.to_array(), twice.to_array())
        assert once.size == array.shape

    def test_it_leaves_far_pixels_alone(self, method, photograph):
        mask = disk(radius=20)
        refined = method(photograph, prediction(mask)).instances[0].mask
        reach = 3 * band(Mask.from_array(mask), 0.04) + 2
        near = cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1))) != 0
        assert not (refined.to_array() & ~near).any()


def test_grabcut_keeps_what_lies_deeper_than_its_band(photograph):
    # a hole of the background's colour in the middle of the object
    photograph[55:65, 75:85] = (50, 120, 50)
    refined = GrabCut()(photograph, prediction(disk())).instances[0].mask.to_array()
    assert refined[55:65, 75:85].all()


def test_grabcut_keeps_a_mask_of_which_one_side_has_no_colours(photograph):
    everything = np.ones((120, 160), np.bool_)
    refined = GrabCut()(photograph, prediction(everything)).instances[0].mask
    assert mask_iou(refined, Mask.from_array(everything)) == 1


@pytest.mark.parametrize(("side", "width"), [(10, 1), (100, 6), (400, 23)])
def test_the_band_follows_the_object(side, width):
    assert band(Mask.from_array(np.ones((side, side), np.bool_)), 0.04) == width


def test_a_fixed_radius_can_be_asked_for(photograph):
    coarse = np.roll(disk(), 2, axis=1)
    filtered = filtered_mask(photograph, Mask.from_array(coarse), 4, 1e-4).to_array()
    assert np.count_nonzero(filtered ^ disk()) < 0.5 * np.count_nonzero(coarse ^ disk())


@pytest.mark.parametrize("channels", [1, 3])
def test_the_filter_is_a_regression_in_every_window(channels):
    rng = np.random.default_rng(1)
    guide = rng.random((12, 15, channels)).astype(np.float32)
    values = rng.random((12, 15)).astype(np.float32)
    radius, eps = 2, 0.01

    # The line through each window by least squares with a penalty on the slope, averaged.
    def window(array, y, x):
        padded = np.pad(array, [(radius, radius)] * 2 + [(0, 0)] * (array.ndim - 2), "symmetric")
        return padded[y : y + 2 * radius + 1, x : x + 2 * radius + 1]

    slopes, offsets = np.zeros((12, 15, channels)), np.zeros((12, 15))
    for y, x in np.ndindex(12, 15):
        inputs = window(guide, y, x).reshape(-1, channels).astype(np.float64)
        targets = window(values, y, x).reshape(-1).astype(np.float64)
        centred = inputs - inputs.mean(0)
        normal = centred.T @ centred / len(inputs) + eps * np.eye(channels)
        slopes[y, x] = np.linalg.solve(normal, centred.T @ targets / len(inputs))
        offsets[y, x] = targets.mean() - slopes[y, x] @ inputs.mean(0)
    expected = np.zeros((12, 15))
    for y, x in np.ndindex(12, 15):
        slope = window(slopes, y, x).mean((0, 1))
        expected[y, x] = slope @ guide[y, x] + window(offsets, y, x).mean()
    np.testing.assert_allclose(guided_filter(guide, values, radius, eps), expected, atol=1e-4)
