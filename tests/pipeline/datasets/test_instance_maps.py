"""Instance maps, taken apart."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from bpr.pipeline.formats.label_maps import split_instances
from tests.strategies import quick


@quick
@given(
    values=st.sampled_from([np.uint8, np.uint16]).flatmap(
        lambda dtype: arrays(
            dtype,
            array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9),
            elements=st.integers(0, 5),
        )
    )
)
def test_each_value_is_the_mask_that_scipy_finds(values):
    found = split_instances(values)
    objects = ndimage.find_objects(values) if values.size else []
    expected = [(k, box) for k, box in enumerate(objects, start=1) if box is not None]
    assert [value for value, _ in found] == [value for value, _ in expected]
    for (value, mask), (_, (rows, columns)) in zip(found, expected, strict=True):
        assert mask.window == (columns.start, rows.start, columns.stop, rows.stop)
        np.testing.assert_array_equal(mask.to_array(), values == value)


def test_values_of_16_bits_are_kept():
    values = np.zeros((3, 4), np.uint16)
    values[1, 2], values[2, 0] = 60000, 300
    assert [value for value, _ in split_instances(values)] == [300, 60000]
