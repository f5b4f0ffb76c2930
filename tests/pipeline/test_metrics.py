from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.quality import read_pairs
from bpr.pipeline.instance import Mask
from bpr.pipeline.metrics import boundary_f, boundary_iou, boundary_region, outline
from tests import oracles
from tests.strategies import bitmaps, masks, quick, thorough

EMPTY = Mask.from_array(np.zeros((60, 80), np.bool_))


@st.composite
def scored(draw):
    """Two masks of one image, and pixels to ignore or None."""
    size = draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    mask = draw(masks(size=size))
    # often nearly the same, as predictions are
    gt = draw(masks(size=size))
    if draw(st.booleans()):
        gt = Mask.from_array(gt.to_array() ^ mask.to_array())
    return mask, gt, draw(st.none() | bitmaps(size=size))


def rectangle(x0, y0, x1, y1, size=(60, 80)):
    return Mask(np.ones((y1 - y0, x1 - x0), np.bool_), (x0, y0, x1, y1), size)


class TestTheDataFolder:
    """What its README reports for its coarse masks: a definition that agrees with theirs."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("kind", "iou", "f"), [("maskhead", 76.5, 43.8), ("polygon", 84.4, 68.4)]
    )
    def test_the_published_figures_are_reproduced_to_the_digit(
        self, photographs: Path, kind, iou, f
    ):
        pairs = list(read_pairs(photographs / "val_predictions" / kind, photographs / "val"))
        assert len(pairs) == 121
        found_iou = np.mean([boundary_iou(p.mask, p.gt, ignore=p.ignore) for p in pairs])
        found_f = np.mean([boundary_f(p.mask, p.gt, 1, p.ignore) for p in pairs])
        assert round(100 * found_iou, 1) == iou
        assert round(100 * found_f, 1) == f


class TestBoundaryIou:
    @thorough
    @given(pair=scored(), ratio=st.sampled_from([0.005, 0.02, 0.05, 0.2, 1.0]))
    def test_it_equals_erosion_of_the_whole_image(self, pair, ratio):
        mask, gt, ignore = pair
        expected = oracles.boundary_iou(mask.to_array(), gt.to_array(), ratio, ignore)
        assert boundary_iou(mask, gt, ratio, ignore) == pytest.approx(expected, abs=1e-12)

    @thorough
    @given(mask=masks(), ratio=st.sampled_from([0.005, 0.02, 0.05, 0.2]))
    def test_the_regions_are_those_of_faster_coco_eval(self, mask, ratio):
        coco = pytest.importorskip("faster_coco_eval.core.mask")
        whole = np.asfortranarray(mask.to_array().astype(np.uint8))
        # Their default backend (1.8.0) erodes wrongly where a side of the image is below 2 d.
        boundary = coco.rleToBoundary(coco.encode(whole), ratio, backend="opencv")
        theirs = coco.decode(boundary)
        distance = max(round(ratio * float(np.hypot(*mask.size))), 1)
        np.testing.assert_array_equal(boundary_region(mask, distance).to_array(), theirs)

    @pytest.mark.parametrize(("ratio", "distance"), [(0.02, 46), (0.005, 11)])
    def test_the_distance_follows_the_whole_images_diagonal(self, ratio, distance):
        size = (1024, 2048)
        square = rectangle(100, 100, 500, 500, size)
        inner = rectangle(100 + distance, 100 + distance, 500 - distance, 500 - distance, size)
        # the ring of the one ends where the other begins
        assert boundary_iou(square, inner, ratio) == 0
        further = rectangle(99 + distance, 99 + distance, 501 - distance, 501 - distance, size)
        assert boundary_iou(square, further, ratio) > 0

    def test_the_image_border_is_boundary(self):
        whole = rectangle(0, 0, 80, 60)
        region = boundary_region(whole, 2).to_array()
        assert region.sum() == 80 * 60 - 76 * 56
        assert region[0].all()

    def test_a_thin_object_is_all_boundary(self):
        assert boundary_iou(rectangle(10, 10, 14, 50), rectangle(12, 10, 16, 50)) == 1 / 3

    def test_a_ratio_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="dilation_ratio: expected a number > 0, got 0"):
            boundary_iou(EMPTY, EMPTY, dilation_ratio=0)


class TestBoundaryF:
    @thorough
    @given(pair=scored(), tolerance=st.integers(0, 6))
    def test_it_equals_distances_over_the_whole_image(self, pair, tolerance):
        mask, gt, ignore = pair
        expected = oracles.boundary_f(mask.to_array(), gt.to_array(), tolerance, ignore)
        assert boundary_f(mask, gt, tolerance, ignore) == pytest.approx(expected, abs=1e-12)

    @quick
    @given(pair=scored())
    def test_it_grows_with_the_tolerance(self, pair):
        mask, gt, ignore = pair
        found = [boundary_f(mask, gt, tolerance, ignore) for tolerance in range(5)]
        assert found == sorted(found)

    def test_a_shift_counts_from_its_tolerance_on(self):
        gt, shifted = rectangle(20, 20, 50, 40), rectangle(22, 20, 52, 40)
        assert boundary_f(shifted, gt, 1) < 1
        assert boundary_f(shifted, gt, 2) == 1

    def test_the_tolerance_is_a_disk(self):
        one, diagonal = rectangle(20, 20, 21, 21), rectangle(21, 21, 22, 22)
        assert boundary_f(one, diagonal, 1) == 0
        assert boundary_f(one, diagonal, 2) == 1

    def test_the_image_border_is_no_outline(self):
        cut = rectangle(0, 0, 30, 60)  # fills the left of the image
        np.testing.assert_array_equal(np.unique(np.nonzero(outline(cut).to_array())[1]), [29])
        assert outline(rectangle(0, 0, 80, 60)).is_empty

    def test_a_negative_tolerance_is_refused(self):
        with pytest.raises(ValueError, match="tolerance: expected an int >= 0, got -1"):
            boundary_f(EMPTY, EMPTY, -1)


def boundary_f_at_1(mask, gt, ignore=None):
    return boundary_f(mask, gt, 1, ignore)


metrics = pytest.mark.parametrize("metric", [boundary_iou, boundary_f_at_1])


@metrics
class TestBothMetrics:
    @quick
    @given(pair=scored())
    def test_a_mask_fits_itself_and_the_order_does_not_matter(self, metric, pair):
        mask, gt, ignore = pair
        assert metric(mask, mask, ignore=ignore) == 1
        assert 0 <= metric(mask, gt, ignore=ignore) <= 1
        # the sum of the two shares may round differently
        there, back = metric(mask, gt, ignore=ignore), metric(gt, mask, ignore=ignore)
        assert there == pytest.approx(back, abs=1e-12)

    def test_two_empty_masks_agree_and_one_disagrees(self, metric):
        assert metric(EMPTY, EMPTY) == 1
        assert metric(EMPTY, rectangle(5, 5, 20, 20)) == 0
        assert metric(rectangle(5, 5, 20, 20), EMPTY) == 0

    def test_objects_far_apart_have_nothing_in_common(self, metric):
        assert metric(rectangle(2, 2, 20, 20), rectangle(50, 30, 70, 50)) == 0

    def test_differences_in_ignored_pixels_do_not_count(self, metric):
        gt = rectangle(20, 20, 40, 40)
        more = gt.to_array()
        more[5:12, 50:60] = True
        ignore = np.zeros((60, 80), np.bool_)
        assert metric(Mask.from_array(more), gt, ignore=ignore) < 1
        ignore[4:13, 49:61] = True
        assert metric(Mask.from_array(more), gt, ignore=ignore) == 1

    def test_ignoring_everything_leaves_nothing_to_object_to(self, metric):
        everything = np.ones((60, 80), np.bool_)
        assert metric(rectangle(5, 5, 20, 20), EMPTY, ignore=everything) == 1

    def test_masks_of_different_images_are_refused(self, metric):
        with pytest.raises(ValueError, match=r"mask: expected .* \(60, 80\).* got \(61, 80\)"):
            metric(rectangle(5, 5, 20, 20, (61, 80)), EMPTY)

    @pytest.mark.parametrize("ignore", [np.zeros((61, 80), np.bool_), np.zeros((60, 80), np.uint8)])
    def test_ignore_must_be_bool_and_of_the_images_size(self, metric, ignore):
        with pytest.raises(ValueError, match=r"ignore: expected bool of shape \(60, 80\), got"):
            metric(EMPTY, EMPTY, ignore=ignore)
