"""Which way up an image is meant, and whether it has the size that its annotations name."""

from __future__ import annotations

import pytest

from bpr.pipeline.formats.frame import Frame, frame_of

STORED, TURNED = (240, 180), (180, 240)  # (height, width)


@pytest.mark.parametrize(
    ("frame", "is_stored"),
    [
        (Frame(), False),
        (Frame(bitmaps=STORED), True),
        (Frame(bitmaps=TURNED, claimed=STORED), False),
        (Frame(reach=(207.0, 146.0), claimed=STORED), False),  # Label Studio
        (Frame(reach=(150.0, 230.0), claimed=TURNED), True),
        (Frame(reach=(100.0, 100.0), claimed=STORED), True),  # the json alone decides
        (Frame(reach=(100.0, 100.0), claimed=TURNED), False),
        (Frame(reach=(500.0, 500.0)), False),
    ],
)
def test_masks_decide_before_the_size_that_is_claimed(frame, is_stored):
    found, reason = frame.is_stored(STORED, TURNED)
    assert found == is_stored
    assert reason or not found


def test_a_square_image_cannot_tell():
    assert Frame(bitmaps=(9, 9)).is_stored((9, 9), (9, 9)) == (False, "")


def test_an_image_of_another_size_is_refused_and_both_are_named():
    with pytest.raises(ValueError, match=r"a\.jpg: .*240 x 180 pixels.*got 480 x 360 pixels"):
        Frame(claimed=(180, 240)).check((360, 480), (360, 480), "a.jpg")
    Frame(claimed=STORED).check(TURNED, STORED, "a.jpg")
    Frame().check(TURNED, STORED, "a.jpg")


def test_a_frame_is_told_by_rle_and_polygons_and_by_nothing_else():
    segmentations = [[[1, 2, 30.5, 4, 5, 60]], None, "x", [["a"]], {"size": [5, 6]}, {}]
    assert frame_of(segmentations, (7, 8)) == Frame((5, 6), (30.5, 60), (7, 8))
