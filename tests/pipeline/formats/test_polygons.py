"""Polygons: filled again they give the mask back, within the tolerance that is stated."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from skimage import measure

from bpr.pipeline.formats import polygons, rle
from bpr.pipeline.instance import Mask
from tests.strategies import bitmaps, quick


def without_holes(array):
    """An independent way: what cannot be reached from outside, walking along rows and columns."""
    padded = np.pad(array.astype(np.uint8), 1)
    cv2.floodFill(padded, None, (0, 0), 2, flags=4)
    return padded[1:-1, 1:-1] != 2


def filled(outlines, size):
    masks = [polygons.fill(points, size).to_array() for points in outlines.parts]
    return np.any(masks, axis=0) if masks else np.zeros(size, np.bool_)


@given(array=bitmaps())
@quick
def test_exact_outlines_filled_are_the_mask_without_its_holes(array):
    outlines = polygons.trace_pixels(Mask.from_array(array), 0)
    np.testing.assert_array_equal(filled(outlines, array.shape), without_holes(array))
    num_holes = cv2.connectedComponents((~array & without_holes(array)).view(np.uint8), None, 4)[0]
    assert outlines.num_holes == num_holes - 1
    assert all(len(points) >= 3 for points in outlines.parts)


@given(array=bitmaps())
@quick
def test_labelme_fills_them_the_same(array):
    outlines = polygons.trace_pixels(Mask.from_array(array), 0)
    picture = Image.new("1", array.shape[::-1])
    for points in outlines.parts:
        xy = [(x, y) for x, y in points.tolist()]
        ImageDraw.Draw(picture).polygon(xy, fill=1, outline=1)
    np.testing.assert_array_equal(np.asarray(picture), without_holes(array))


@given(array=bitmaps(), tolerance=st.sampled_from([0.5, 1.0, 2.0, 5.0]))
@quick
def test_no_pixel_of_the_outline_is_further_away_than_the_tolerance(array, tolerance):
    mask = Mask.from_array(array)
    exact = polygons.trace_pixels(mask, 0)
    near = polygons.trace_pixels(mask, tolerance)
    lines = [np.stack([points, np.roll(points, -1, axis=0)], 1) for points in near.parts]
    if not lines:
        return
    start, end = np.concatenate(lines).transpose(1, 0, 2)
    along = end - start
    length = np.maximum((along**2).sum(-1), 1e-9)
    for points in exact.parts:
        offset = points[:, None] - start
        share = np.clip((offset * along).sum(-1) / length, 0, 1)
        distance = np.linalg.norm(offset - share[..., None] * along, axis=-1).min(axis=1)
        assert distance.max() <= tolerance + 1e-6


@given(array=bitmaps())
@quick
def test_coco_polygons_read_by_pycocotools_are_the_mask_without_its_holes(array):
    height, width = array.shape
    outlines = polygons.trace_edges(Mask.from_array(array), 0)
    rings = [points.ravel().tolist() for points in outlines.parts]
    if not rings:
        assert not array.any()
        return
    code = coco_mask.merge(coco_mask.frPyObjects(rings, height, width))
    got = rle.decode({**code, "counts": code["counts"].decode()}, array.shape).to_array()
    assert got[array].all()
    # a hole that touches the outside by the corner of a pixel is outside for one way of looking
    assert not (got & ~without_holes(array)).any()


def test_several_parts_joined_are_filled_with_lines_between_them():
    array = np.zeros((40, 60), np.bool_)
    array[5:15, 5:15] = array[20:35, 30:50] = True
    outlines = polygons.trace_pixels(Mask.from_array(array), 0)
    assert [len(part) for part in outlines.parts] == [4, 4]
    joined = polygons.fill(polygons.join(outlines.parts), array.shape).to_array()
    assert (joined & array).sum() == array.sum()
    assert np.count_nonzero(joined & ~array) <= 20  # the line from corner to corner


def test_an_empty_mask_has_no_outline():
    empty = Mask.from_array(np.zeros((5, 6), np.bool_))
    assert polygons.trace_pixels(empty, 0.5).parts == ()
    assert polygons.trace_edges(empty, 0.5).parts == ()


@pytest.mark.parametrize("tolerance", [-0.1, 11, float("nan")])
def test_a_tolerance_that_makes_no_sense_is_refused(tolerance):
    mask = Mask.from_array(np.ones((5, 6), np.bool_))
    for trace in (polygons.trace_pixels, polygons.trace_edges):
        with pytest.raises(ValueError, match=r"polygon_tolerance: expected pixels in 0\.\.10"):
            trace(mask, tolerance)


@quick
@given(array=bitmaps())
def test_edges_are_those_of_scikit_image(array):
    mask = Mask.from_array(array)
    found = polygons.trace_edges(mask, 0)
    x0, y0, _, _ = mask.window
    rings = measure.find_contours(np.pad(mask.bitmap, 1).astype(np.float32), 0.5)
    origin = np.array([x0 - 0.5, y0 - 0.5])
    expected = [ring[:-1, ::-1] + origin for ring in rings]
    outer = [ring for ring in expected if signed_area(ring) > 0]
    assert found.num_holes == len(expected) - len(outer)
    # contours of the same pixels begin at any of their points
    assert sorted(abs(signed_area(part)) for part in found.parts) == pytest.approx(
        sorted(map(signed_area, outer))
    )


def signed_area(points):
    x, y = points.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
