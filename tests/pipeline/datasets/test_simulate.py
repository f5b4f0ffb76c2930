import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpr.pipeline.datasets.simulate import SIMULATORS, nearly_perfect, perfect, simulate_coarse_mask
from tests.strategies import bitmaps, quick, thorough

every_simulator = pytest.mark.parametrize(
    "simulator", list(SIMULATORS), ids=lambda simulator: simulator.__name__
)
shapes_of_objects = {
    "shape": st.sampled_from(["ellipse", "rectangle"]),
    "long_side": st.integers(30, 200),
    "aspect": st.floats(0.5, 1),
    "angle": st.integers(0, 179),
    "seed": st.integers(0, 2**32 - 1),
}


def an_object(shape, long_side, aspect, angle, margin=20):
    """One solid object with some background around it, as the simulators get it."""
    side = 2 * long_side + 2 * margin
    canvas = np.zeros((side, side), np.uint8)
    middle, axes = (side / 2, side / 2), (long_side, aspect * long_side)
    if shape == "ellipse":
        cv2.ellipse(canvas, (middle, axes, angle), 1, -1)
    else:
        corners = cv2.boxPoints((middle, axes, angle))
        cv2.fillConvexPoly(canvas, np.rint(corners).astype(np.int32), 1)
    ys, xs = np.nonzero(canvas)
    rows = slice(ys.min() - margin, ys.max() + margin + 1)
    columns = slice(xs.min() - margin, xs.max() + margin + 1)
    return canvas[rows, columns].astype(np.bool_)


def iou(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


@every_simulator
class TestEverySimulator:
    @quick
    @given(**shapes_of_objects)
    def test_it_depends_on_the_seed_alone(self, simulator, shape, long_side, aspect, angle, seed):
        gt = an_object(shape, long_side, aspect, angle)
        before = gt.copy()
        first = simulator(gt, np.random.default_rng(seed))
        again = simulator(gt, np.random.default_rng(seed))
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(gt, before)

    @quick
    @given(**shapes_of_objects)
    def test_it_gives_a_mask_that_overlaps_the_truth(
        self, simulator, shape, long_side, aspect, angle, seed
    ):
        gt = an_object(shape, long_side, aspect, angle)
        coarse = simulator(gt, np.random.default_rng(seed))
        assert coarse.dtype == np.bool_
        assert coarse.shape == gt.shape
        assert iou(coarse, gt) > 0.3


class TestSimulators:
    @quick
    @given(gt=bitmaps())
    def test_perfect_changes_nothing_and_gives_a_copy(self, gt):
        coarse = perfect(gt, np.random.default_rng(0))
        np.testing.assert_array_equal(coarse, gt)
        assert not np.shares_memory(coarse, gt)

    @thorough
    @given(**shapes_of_objects)
    def test_nearly_perfect_stays_within_three_pixels_of_the_outline(
        self, shape, long_side, aspect, angle, seed
    ):
        gt = an_object(shape, long_side, aspect, angle)
        coarse = nearly_perfect(gt, np.random.default_rng(seed))
        inside = cv2.distanceTransform(gt.astype(np.uint8), cv2.DIST_L2, 5)
        outside = cv2.distanceTransform((~gt).astype(np.uint8), cv2.DIST_L2, 5)
        assert (inside + outside)[coarse != gt].max(initial=0) <= 3

    def test_how_often_each_is_drawn_adds_up_to_one(self):
        assert sum(SIMULATORS.values()) == pytest.approx(1)


class TestSimulateCoarseMask:
    @thorough
    @given(
        seed=st.integers(0, 2**32 - 1),
        **{k: v for k, v in shapes_of_objects.items() if k != "seed"},
    )
    def test_it_depends_on_the_seed_alone(self, shape, long_side, aspect, angle, seed):
        gt = an_object(shape, long_side, aspect, angle)
        first = simulate_coarse_mask(gt, np.random.default_rng(seed))
        again = simulate_coarse_mask(gt, np.random.default_rng(seed))
        np.testing.assert_array_equal(first, again)

    @thorough
    @given(gt=bitmaps().filter(np.any), seed=st.integers(0, 2**32 - 1))
    def test_something_of_any_object_is_left(self, gt, seed):
        coarse = simulate_coarse_mask(gt, np.random.default_rng(seed))
        assert coarse.dtype == np.bool_
        assert coarse.shape == gt.shape
        assert coarse.any()

    @pytest.mark.parametrize("side", [1, 2, 5])
    @pytest.mark.parametrize("margin", [0, 1, 40])
    def test_tiny_objects_survive_every_kind_of_error(self, side, margin):
        gt = np.pad(np.ones((side, side), np.bool_), margin)
        for seed in range(200):
            assert simulate_coarse_mask(gt, np.random.default_rng(seed)).any()

    @pytest.mark.parametrize("size", [(5, 7), (64, 48), (1, 90)])
    def test_objects_that_fill_the_image_survive_every_kind_of_error(self, size):
        gt = np.ones(size, np.bool_)
        for seed in range(100):
            coarse = simulate_coarse_mask(gt, np.random.default_rng(seed))
            assert coarse.any()
            assert coarse.shape == size
