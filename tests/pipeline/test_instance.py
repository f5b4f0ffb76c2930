import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpr.pipeline.instance import Instance, Mask, Prediction
from tests.strategies import bitmaps, masks, quick, thorough


class TestMask:
    @thorough
    @given(array=bitmaps())
    def test_from_array_and_to_array_are_inverse(self, array):
        mask = Mask.from_array(array)
        np.testing.assert_array_equal(mask.to_array(), array)
        assert mask.size == array.shape
        assert mask.area == np.count_nonzero(array)
        assert mask.is_empty == (not array.any())

    @thorough
    @given(array=bitmaps())
    def test_from_array_cuts_the_window_tight(self, array):
        mask = Mask.from_array(array)
        if mask.is_empty:
            assert mask.window == (0, 0, 0, 0)
            return
        for edge in (mask.bitmap[0], mask.bitmap[-1], mask.bitmap[:, 0], mask.bitmap[:, -1]):
            assert edge.any()

    @pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.int64, np.float32])
    def test_any_type_of_array_counts_its_non_zero_pixels(self, kind):
        array = np.array([[0, 3, 0], [0, 0, 1]]).astype(kind)
        mask = Mask.from_array(array)
        assert mask.bitmap.dtype == np.bool_
        np.testing.assert_array_equal(mask.to_array(), array != 0)

    def test_an_array_may_be_a_part_of_the_image(self):
        mask = Mask.from_array(np.array([[0, 1], [0, 1]]), offset=(30, 10), size=(40, 50))
        assert mask.window == (31, 10, 32, 12)
        assert mask.to_array().sum() == 2

    @thorough
    @given(mask=masks(max_side=40), data=st.data())
    def test_reading_a_box_gives_background_outside_window_and_image(self, mask, data):
        height, width = mask.size
        ends = [data.draw(st.integers(-20, side + 20)) for side in (width, width, height, height)]
        (x0, x1), (y0, y1) = sorted(ends[:2]), sorted(ends[2:])
        around = np.pad(mask.to_array(), 20)
        expected = around[y0 + 20 : y1 + 20, x0 + 20 : x1 + 20]
        np.testing.assert_array_equal(mask.read((x0, y0, x1, y1)), expected)

    @quick
    @given(mask=masks(max_side=20))
    def test_what_was_read_may_be_written_to(self, mask):
        before = mask.area
        read = mask.read(mask.window)
        read[...] = ~read
        assert mask.area == before

    def test_nothing_writes_into_the_bitmap(self):
        mask = Mask.from_array(np.ones((3, 3), np.bool_))
        with pytest.raises(ValueError, match="read-only"):
            mask.bitmap[0, 0] = False

    def test_wrapping_an_array_leaves_the_array_writable_and_apart(self):
        array = np.ones((3, 3), np.bool_)
        mask = Mask.from_array(array)
        array[...] = False
        assert mask.area == 9

    @pytest.mark.parametrize(
        "window", [(-1, 0, 4, 5), (0, -1, 5, 4), (6, 0, 11, 5), (0, 4, 5, 9), (5, 0, 4, 5)]
    )
    def test_a_window_outside_the_image_is_refused_with_the_rule_and_the_value(self, window):
        x0, y0, x1, y1 = window
        bitmap = np.zeros((abs(y1 - y0), abs(x1 - x0)), np.bool_)
        with pytest.raises(ValueError, match="window: expected a box inside 10 x 8") as error:
            Mask(bitmap, window, (8, 10))
        assert str(window) in str(error.value)

    @pytest.mark.parametrize(
        ("bitmap", "found"),
        [
            (np.zeros((2, 3), np.uint8), "uint8 of shape (2, 3)"),
            (np.zeros((3, 2), np.bool_), "bool of shape (3, 2)"),
        ],
    )
    def test_a_bitmap_that_does_not_fill_its_window_is_refused(self, bitmap, found):
        with pytest.raises(ValueError, match=r"bitmap: expected bool of shape \(2, 3\)") as error:
            Mask(bitmap, (0, 0, 3, 2), (8, 10))
        assert found in str(error.value)

    @pytest.mark.parametrize("shape", [(4,), (4, 4, 1)])
    def test_only_two_dimensional_arrays_are_masks(self, shape):
        with pytest.raises(ValueError, match=r"mask: expected shape \(height, width\), got"):
            Mask.from_array(np.zeros(shape))

    def test_a_part_that_leaves_the_image_is_refused(self):
        with pytest.raises(ValueError, match="window: expected a box inside"):
            Mask.from_array(np.ones((4, 4)), offset=(8, 0), size=(10, 10))


class TestPrediction:
    def test_a_mask_of_another_size_is_named_by_its_index(self):
        good = Instance(mask=Mask.from_array(np.ones((4, 6))), label=1, score=0.5)
        bad = Instance(mask=Mask.from_array(np.ones((6, 4))), label=1, score=0.5)
        with pytest.raises(ValueError, match=r"instance 1: expected a mask of \(4, 6\)"):
            Prediction((4, 6), (good, bad))
