"""What the object in a mask file is: one test for each rule of `mask_values`."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bpr.pipeline.formats.images import NamedFile, encode_map, read_mask, read_masks
from bpr.pipeline.formats.mask_values import objects_of_values
from bpr.pipeline.instance import Mask
from tests.strategies import bitmaps, quick

SIZE = (60, 80)


def disc(x=30, y=30, radius=20):
    canvas = np.zeros(SIZE, np.uint8)
    cv2.circle(canvas, (x, y), radius, 1, -1)
    return canvas


def file(image, kind="png", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return NamedFile(buffer.getvalue(), f"a.{kind}")


def agreement(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


@given(array=bitmaps(min_side=2), value=st.sampled_from([1, 7, 128, 255]))
@quick
def test_two_values_with_a_zero_are_the_object_and_the_background(array, value):
    array[0, 0] = False
    ((found, number),), notes = objects_of_values(array * np.uint8(value))
    assert (number, notes) == (None, [])
    np.testing.assert_array_equal(found, array)


def test_an_object_may_fill_its_image():
    ((found, _),), notes = objects_of_values(np.full((3, 4), 255, np.uint8))
    assert found.all()
    assert notes == ["all values are 255: the object fills the image"]


@pytest.mark.parametrize("values", [(1, 2), (3, 250), (7, 7)])
def test_a_mask_without_a_zero_is_refused_with_its_values(values):
    low, high = values
    image = Image.fromarray(np.where(disc() > 0, high, low).astype(np.uint8))
    with pytest.raises(ValueError, match=rf"a\.png: expected a mask with zero .* {low}\b"):
        read_masks(file(image))


@pytest.mark.parametrize(
    ("kind", "options"), [("jpeg", {"quality": 60}), ("webp", {"quality": 40}), ("png", {})]
)
def test_noise_of_compression_is_cut_at_half_of_the_range(kind, options):
    image = Image.fromarray(disc() * 255)
    if kind == "png":  # saved as a PNG after it was a JPEG
        image = Image.open(file(image, "jpeg", quality=40)).convert("L")
    found = read_masks(file(image, kind, **options))
    assert agreement(found.objects[0].pixels, disc() > 0) > 0.97
    assert "above half of the range" in found.notes[0]


@pytest.mark.parametrize("sigma", [0.7, 2.0, 4.0])
def test_soft_edges_are_cut_at_half_of_the_range(sigma):
    soft = cv2.GaussianBlur(disc() * np.float32(255), (0, 0), sigma)
    found = read_masks(file(Image.fromarray(soft.round().astype(np.uint8))))
    assert len(found.objects) == 1
    assert agreement(found.objects[0].pixels, disc() > 0) > 0.95
    assert "above half of the range" in found.notes[0]


@pytest.mark.parametrize("high", [1.0, 0.97, 255.0])
def test_floats_are_probabilities(high):
    values = np.where(disc() > 0, high, 0.01 * high).astype(np.float32)
    found = read_masks(file(Image.fromarray(values), "tiff"))
    np.testing.assert_array_equal(found.objects[0].pixels, disc() > 0)
    assert "floating-point values" in found.notes[0]


def test_alpha_is_the_mask_where_the_colours_do_not_vary():
    alpha = disc() * np.uint8(255)
    white = np.full((*SIZE, 3), 255, np.uint8)
    found = read_masks(file(Image.fromarray(np.dstack([white, alpha]))))
    np.testing.assert_array_equal(found.objects[0].pixels, alpha > 0)
    assert "alpha channel" in found.notes[0]
    colours = np.dstack([disc(), disc(), disc(), np.full(SIZE, 9, np.uint8)]) * np.uint8(255)
    found = read_masks(file(Image.fromarray(colours)))
    np.testing.assert_array_equal(found.objects[0].pixels, disc() > 0)
    assert found.notes == ()


def instance_map(values=(1, 2, 3)):
    pixels = np.zeros(SIZE, np.uint16)
    for number, value in enumerate(values):
        pixels[disc(12 + 24 * number, 30, 10) > 0] = value
    return pixels


@pytest.mark.parametrize("values", [(1, 2, 3), (50, 100, 150), (1, 2, 300), (10, 200, 254)])
def test_an_instance_map_is_taken_as_its_instances(values):
    pixels = instance_map(values)
    if max(values) < 256:
        pixels = pixels.astype(np.uint8)
    found = read_masks(file(Image.fromarray(pixels)))
    assert [item.value for item in found.objects] == list(values)
    for item in found.objects:
        np.testing.assert_array_equal(item.pixels, pixels == item.value)
    assert "an instance map" in found.notes[0]
    with pytest.raises(ValueError, match=r"expected the mask of one object, got 3 instances"):
        read_mask(file(Image.fromarray(pixels)))


def test_a_palette_and_colours_are_maps_too():
    pixels = instance_map().astype(np.uint8)
    pixels[0, :40] = 255  # the border of VOC: not labelled
    image = Image.fromarray(pixels)
    palette = np.zeros((256, 3), np.uint8)
    palette[1:4] = [[128, 0, 0], [0, 128, 0], [128, 128, 0]]
    image.putpalette(palette.tobytes())
    found = read_masks(file(image))
    assert [item.value for item in found.objects] == [1, 2, 3]
    assert "255 is not labelled" in found.notes[0]
    colours = read_masks(file(Image.fromarray(palette[pixels])))
    assert [item.value for item in colours.objects] == [0x008000, 0x800000, 0x808000]
    written = Image.open(io.BytesIO(encode_map(file(image), 0, {
        item.value: Mask.from_array(item.pixels) for item in found.objects
    })))  # fmt: skip
    assert written.mode == "P"
    np.testing.assert_array_equal(np.asarray(written), pixels)
    assert written.getpalette()[:12] == image.getpalette()[:12]


def test_a_trimap_is_refused():
    pixels = np.where(disc() > 0, 255, 0).astype(np.uint8)
    pixels[disc(30, 30, 25) > 0] = 128
    pixels[disc(30, 30, 15) > 0] = 255
    with pytest.raises(ValueError, match="a trimap"):
        read_masks(file(Image.fromarray(pixels)))


def test_each_page_is_a_mask():
    pages = [Image.fromarray(disc(x) * 255) for x in (20, 50)]
    content = file(pages[0], "tiff", save_all=True, append_images=pages[1:])
    found = read_masks(content)
    assert [item.page for item in found.objects] == [0, 1]
    for item, x in zip(found.objects, (20, 50), strict=True):
        np.testing.assert_array_equal(item.pixels, disc(x) > 0)
    with pytest.raises(ValueError, match="expected a mask of one page, got 2"):
        read_mask(content)


@given(array=bitmaps(min_side=4))
@quick
def test_a_map_is_written_without_overlaps_and_with_its_other_pixels(array):
    values = np.zeros(array.shape, np.uint8)
    values[:2], values[2:4] = 1, 2
    values[0, 0] = 77  # no object that is refined
    image = Image.fromarray(values)
    refined = {1: Mask.from_array(array), 2: Mask.from_array(np.ones(array.shape, np.bool_))}
    written = np.asarray(Image.open(io.BytesIO(encode_map(file(image), 0, refined))))
    assert written[0, 0] == 77
    expected = np.where(array, 1, 2)
    expected[2:4] = 2  # it had them before
    expected[0, 0] = 77
    if not (expected == 1).any():  # nothing would be left: it stays as it was
        expected[values == 1] = 1
    np.testing.assert_array_equal(written, expected)
