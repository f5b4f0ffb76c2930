from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from bpr.pipeline.formats import rle
from bpr.pipeline.instance import Mask
from tests.strategies import bitmaps, masks, thorough

SIZE = (20, 30)


def pycocotools_code(array):
    return coco_mask.encode(np.asfortranarray(array.astype(np.uint8)))


def pycocotools_mask(code):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of numpy, about pycocotools
        return coco_mask.decode(code).astype(np.bool_)


def as_json(code):
    return {"size": code["size"], "counts": code["counts"].decode("ascii")}


def plain_counts(array):
    """Run lengths of a mask, down its columns, background first: a loop over its pixels."""
    counts, value = [0], False
    for pixel in array.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def single_pixel(height, width, y, x):
    array = np.zeros((height, width), np.bool_)
    array[y, x] = True
    return array


# against pycocotools


@thorough
@given(mask=masks())
def test_a_mask_is_written_as_pycocotools_writes_it(mask):
    assert rle.encode(mask) == as_json(pycocotools_code(mask.to_array()))


@thorough
@given(array=bitmaps())
@example(array=np.zeros((1, 1), np.bool_))
@example(array=np.ones((1, 1), np.bool_))
@example(array=np.zeros((7, 9), np.bool_))
@example(array=np.ones((7, 9), np.bool_))
@example(array=np.ones((1, 50), np.bool_))
@example(array=np.ones((50, 1), np.bool_))
@example(array=single_pixel(9, 7, 0, 0))
@example(array=single_pixel(9, 7, 8, 6))
@example(array=single_pixel(1, 300, 0, 299))
@example(array=np.indices((30, 40)).sum(axis=0) % 2 == 1)
def test_what_pycocotools_writes_is_read(array):
    mask = rle.decode(as_json(pycocotools_code(array)), array.shape)
    np.testing.assert_array_equal(mask.to_array(), array)
    assert mask.window == Mask.from_array(array).window


@thorough
@given(array=bitmaps())
@example(array=np.ones((7, 9), np.bool_))
def test_uncompressed_counts_are_read(array):
    code = {"size": list(array.shape), "counts": plain_counts(array)}
    np.testing.assert_array_equal(rle.decode(code, array.shape).to_array(), array)


@pytest.mark.parametrize(
    "counts", [[0, 0, 3, 2, 1], [3, 0, 0, 2, 1], [3, 2, 1, 0], [3, 2, 1, 0, 0]]
)
def test_counts_of_zero_are_read(counts):
    mask = rle.decode({"size": [2, 3], "counts": counts}, (2, 3))
    expected = [False, False, False, True, True, False]
    assert mask.to_array().T.ravel().tolist() == expected


def test_runs_of_millions_of_pixels_are_read():
    array = single_pixel(4000, 5000, 3999, 4000)
    array[:, 1000:3000] = True
    mask = rle.decode(as_json(pycocotools_code(array)), array.shape)
    np.testing.assert_array_equal(mask.to_array(), array)


@thorough
@given(mask=masks())
def test_the_window_is_the_box_of_pycocotools(mask):
    x0, y0, x1, y1 = rle.decode(rle.encode(mask), mask.size).window
    box = coco_mask.toBbox(pycocotools_code(mask.to_array()))
    assert [x0, y0, x1 - x0, y1 - y0] == box.tolist()


def polygons():
    coordinate = st.one_of(
        st.integers(-40, 90), st.floats(-40, 90, allow_nan=False).map(lambda v: round(v, 2))
    )
    ring = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=9)
    return st.lists(ring.map(lambda points: [v for point in points for v in point]), max_size=4)


@thorough
@given(rings=polygons(), height=st.integers(1, 60), width=st.integers(1, 60))
def test_polygons_are_drawn_as_pycocotools_draws_them(rings, height, width):
    limit = 10 * (height + width)
    assume(all(abs(value) <= limit for ring in rings for value in ring))
    expected = np.zeros((height, width), np.bool_)
    if rings:
        floats = [[float(value) for value in ring] for ring in rings]
        merged = coco_mask.merge(coco_mask.frPyObjects(floats, height, width))
        expected = pycocotools_mask(merged)
    mask = rle.decode(rings, (height, width))
    np.testing.assert_array_equal(mask.to_array(), expected)


def test_no_polygons_are_an_empty_mask():
    mask = rle.decode([], SIZE)
    assert mask.is_empty
    assert mask.size == SIZE


def test_a_polygon_of_many_points_is_no_attack():
    angles = np.linspace(0, 2 * np.pi, 50_000, endpoint=False)
    ring = np.stack([500 + 400 * np.cos(angles), 500 + 400 * np.sin(angles)], axis=-1)
    mask = rle.decode([ring.ravel().tolist()], (1000, 1000))
    assert mask.area == pytest.approx(np.pi * 400**2, rel=0.01)


# input that lies

GOOD = as_json(pycocotools_code(single_pixel(*SIZE, 3, 4)))


@pytest.mark.parametrize(
    "size",
    [
        [30, 20],
        [20, 31],
        [0, 0],
        [-20, -30],
        [2**70, 30],
        [20],
        [20, 30, 1],
        "20x30",
        None,
        {},
        600,
    ],
)
def test_another_size_than_the_images_is_refused(size):
    with pytest.raises(ValueError, match=r"segmentation: expected RLE size \[20, 30\], got "):
        rle.decode({**GOOD, "size": size}, SIZE)


def test_a_code_without_size_or_counts_is_refused():
    with pytest.raises(ValueError, match="expected RLE size"):
        rle.decode({"counts": GOOD["counts"]}, SIZE)
    with pytest.raises(ValueError, match="expected RLE counts"):
        rle.decode({"size": list(SIZE)}, SIZE)


@pytest.mark.parametrize(
    "counts",
    [
        [],
        [599],
        [601],
        [0, 599],
        [300, 301],
        [2**70],
        [300, 2**62, 2**62, 2**63, 300],
        [2**64 + 600],
    ],
)
def test_counts_that_do_not_add_up_are_refused(counts):
    with pytest.raises(ValueError, match="expected RLE counts that add up to 20 x 30 = 600 pixels"):
        rle.decode({"size": list(SIZE), "counts": counts}, SIZE)


@pytest.mark.parametrize("counts", [[-1, 601], [700, -100], [-(2**70), 600]])
def test_negative_counts_are_refused(counts):
    with pytest.raises(ValueError, match="expected RLE counts >= 0"):
        rle.decode({"size": list(SIZE), "counts": counts}, SIZE)


@pytest.mark.parametrize(
    "counts", [[600.0], [True, 599], ["600"], [None], [[600]], 600, None, {}, True, 1.5]
)
def test_counts_of_another_type_are_refused(counts):
    with pytest.raises(ValueError, match="expected RLE counts"):
        rle.decode({"size": list(SIZE), "counts": counts}, SIZE)


@pytest.mark.parametrize(
    "counts",
    [
        "",
        " ",
        "é",
        "\ud800",
        "日本",
        "\x00",
        "hb1 ",
        "hb1\n",
        "/",
        "p",
        "\x7f",
        "hb1P",
        "P",
        "o" * 9,
    ],
)
def test_text_that_is_no_code_is_refused(counts):
    with pytest.raises(ValueError, match="expected a compressed RLE"):
        rle.decode({"size": list(SIZE), "counts": counts}, SIZE)


def test_a_mark_outside_the_alphabet_does_not_pass_as_another_one():
    # '?' belongs to the alphabet; what is not ASCII must not turn into it
    code = as_json(pycocotools_code(single_pixel(4, 4, 3, 3)))
    assert code["counts"] == "?1"
    with pytest.raises(ValueError, match="expected a compressed RLE"):
        rle.decode({**code, "counts": "\ud8001"}, (4, 4))


@pytest.mark.parametrize("length", range(len(GOOD["counts"])))
def test_a_truncated_code_is_refused(length):
    with pytest.raises(ValueError, match="segmentation: expected"):
        rle.decode({**GOOD, "counts": GOOD["counts"][:length]}, SIZE)


@pytest.mark.parametrize(
    "mark", ["0", "1", "?", "@", "O", "P", "_", "o", "o1", "oo1", "ooooooo1", "1O"]
)
def test_codes_of_100_000_characters_are_refused(mark):
    with pytest.raises(ValueError, match="segmentation: expected"):
        rle.decode({"size": list(SIZE), "counts": mark * (100_000 // len(mark))}, SIZE)


def test_runs_whose_sum_wraps_around_64_bits_are_refused():
    # 600, then runs that grow by 2**38 up to 2**50 and stay there: 600 + 2**64 in all
    counts = "hb0" + "PPPPPPP8" * 2**13 + "0" * (2**14 - 2**12 - 1)
    with pytest.raises(ValueError, match="that add up to"):
        rle.decode({"size": list(SIZE), "counts": counts}, SIZE)


@thorough
@given(
    counts=st.one_of(
        st.text(max_size=40),
        st.text(st.sampled_from([chr(code) for code in range(48, 112)]), max_size=40),
        st.lists(st.one_of(st.integers(), st.integers(0, 600)), max_size=9),
    ),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_any_counts_give_a_mask_of_the_size_or_an_error(counts, size):
    try:
        mask = rle.decode({"size": list(size), "counts": counts}, size)
    except ValueError as error:
        message = str(error)
    else:
        message = "segmentation: expected"
        assert mask.size == size
    assert message.startswith("segmentation: expected")


def test_any_change_of_a_code_gives_the_mask_of_pycocotools_or_an_error():
    array = np.indices(SIZE).sum(axis=0) % 7 < 3
    counts = as_json(pycocotools_code(array))["counts"]
    random = np.random.default_rng(0)
    read = 0
    for _ in range(300):
        place, mark = int(random.integers(len(counts))), chr(int(random.integers(48, 112)))
        changed = counts[:place] + mark + counts[place + 1 :]
        code = {"size": list(SIZE), "counts": changed}
        try:
            mask = rle.decode(code, SIZE)
        except ValueError:
            continue
        read += 1
        np.testing.assert_array_equal(mask.to_array(), pycocotools_mask(code))
    assert read > 0


@pytest.mark.parametrize(
    "polygon",
    [
        [1, 2, 3, 4, 5, 6, 7],
        "122334",
        {"0": 1},
        None,
        12,
    ],
)
def test_a_polygon_of_less_than_3_whole_points_is_refused(polygon):
    with pytest.raises(ValueError, match=r"expected polygons as lists of at least 3 points"):
        rle.decode([[1, 1, 9, 1, 9, 9], polygon], SIZE)


@pytest.mark.parametrize("polygon", [[], [1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5]])
def test_a_polygon_without_area_is_left_out_beside_others_and_refused_alone(polygon):
    triangle = [1, 1, 9, 1, 9, 9]
    alone = rle.decode([triangle], SIZE).to_array()
    np.testing.assert_array_equal(rle.decode([triangle, polygon], SIZE).to_array(), alone)
    with pytest.raises(ValueError, match=r"expected polygons as lists of at least 3 points"):
        rle.decode([polygon], SIZE)  # pycocotools would take four numbers for a box


def test_one_flat_polygon_is_refused():
    with pytest.raises(ValueError, match=r"expected polygons as lists .*, got 1"):
        rle.decode([1, 1, 9, 1, 9, 9], SIZE)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        -float("inf"),
        1e300,
        501,
        -501,
        2**70,
        pytest.param(10**400, id="10**400"),
        pytest.param(10**5000, id="10**5000"),
        "3",
        None,
        True,
        [3],
        {},
    ],
)
def test_a_point_that_is_far_away_or_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"expected polygon points near the image"):
        rle.decode([[1, 1, 9, value, 9, 9]], SIZE)


def test_an_outline_that_would_fill_the_memory_is_refused():
    there_and_back = [-400, 0, 400, 10] * 100_000
    with pytest.raises(ValueError, match=r"outlines of at most 50000 pixels together"):
        rle.decode([there_and_back], SIZE)
    with pytest.raises(ValueError, match=r"outlines of at most 50000 pixels together"):
        rle.decode([[-400, 0, 400, 10, 0, 5]] * 100_000, SIZE)


@pytest.mark.parametrize("segmentation", [None, "text", 3, True, 1.5, float("nan")])
def test_what_is_no_segmentation_is_refused(segmentation):
    with pytest.raises(ValueError, match="expected RLE or a list of polygons, got "):
        rle.decode(segmentation, SIZE)
