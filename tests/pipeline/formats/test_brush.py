"""Label Studio's brush code: ours is what its SDK writes and reads.

pip install label-studio-sdk && pytest -m slow tests/pipeline/formats/test_brush.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from bpr.pipeline.formats import brush
from bpr.pipeline.instance import Mask
from tests.strategies import bitmaps, quick

# written by label_studio_sdk 2.1.2, converter.brush.encode_rle, of RGBA pixels as an annotator's
# browser makes them (a colour, alpha where the brush was) and of `mask2rle`
RECORDED = json.loads(Path(__file__).with_name("brush_of_sdk.json").read_text())


@given(array=bitmaps())
@quick
def test_what_is_written_is_read_back(array):
    mask = Mask.from_array(array)
    np.testing.assert_array_equal(brush.decode(brush.encode(mask), mask.size).to_array(), array)


@pytest.mark.parametrize("name", RECORDED)
def test_what_the_sdk_wrote_is_read(name):
    case = RECORDED[name]
    want = np.array([[character == "#" for character in row] for row in case["mask"]])
    np.testing.assert_array_equal(brush.decode(case["rle"], want.shape).to_array(), want)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@given(array=bitmaps(max_side=40))
@quick
def test_the_sdk_reads_what_we_write_and_we_what_it_writes(array):
    sdk = pytest.importorskip(
        "label_studio_sdk.converter.brush", reason="needs pip install label-studio-sdk"
    )
    mask = Mask.from_array(array)
    got = sdk.decode_rle(brush.encode(mask)).reshape(*mask.size, 4)
    for channel in range(4):
        np.testing.assert_array_equal(got[..., channel] > 0, array)
    np.testing.assert_array_equal(
        brush.decode(sdk.mask2rle(array.astype(np.uint8) * 255), mask.size).to_array(), array
    )


GOOD = brush.encode(Mask.from_array(np.eye(6, 5)))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, r"expected a list of bytes \(0 to 255\), got None"),
        ([1, 300], r"expected a list of bytes"),
        (["a"], r"expected a list of bytes"),
        ([], "a code that ends before"),
        (GOOD[:-2], "a code that ends before"),
        (brush.encode(Mask.from_array(np.eye(5, 5))), r"for each of 5 x 6 pixels, got 100 of 8"),
        (GOOD[:5] + [255] * 40, "runs that add up to the image, got more"),
    ],
)
def test_a_damaged_code_is_refused(code, message):
    with pytest.raises(ValueError, match=message):
        brush.decode(code, (6, 5))
