"""What colours say about a pixel."""

import numpy as np

from bpr.pipeline.colour_evidence import (
    NO_EVIDENCE,
    OBJECT_BINS,
    look_up,
    object_colours,
    patch_evidence,
)
from bpr.pipeline.instance import Mask


def red_on_green(noise=0):
    """A red square of 60 px on green, and its mask."""
    image = np.zeros((120, 140, 3), np.uint8)
    image[...] = (30, 180, 40)
    image[30:90, 40:100] = (200, 40, 30)
    if noise:
        change = np.random.default_rng(0).integers(-noise, noise + 1, image.shape)
        image = np.clip(image.astype(int) + change, 0, 255).astype(np.uint8)
    truth = np.zeros(image.shape[:2], bool)
    truth[30:90, 40:100] = True
    return image, truth


def test_colours_of_the_object_are_above_no_evidence_and_those_around_it_below():
    image, truth = red_on_green(noise=12)

    evidence = look_up(object_colours(image, Mask.from_array(truth)), image)

    assert evidence[truth].min() > NO_EVIDENCE
    assert evidence[~truth].max() < NO_EVIDENCE


def test_a_mask_with_a_missing_corner_still_finds_the_colours_of_the_corner():
    image, truth = red_on_green(noise=12)
    coarse = truth.copy()
    coarse[30:50, 40:60] = False

    evidence = look_up(object_colours(image, Mask.from_array(coarse)), image)

    assert (evidence[30:50, 40:60] > NO_EVIDENCE).all()


def test_colours_never_seen_say_nothing():
    image, truth = red_on_green()
    table = object_colours(image, Mask.from_array(truth))

    unseen = look_up(table, np.full((1, 1, 3), (20, 20, 250), np.uint8))

    assert abs(int(unseen[0, 0]) - NO_EVIDENCE) <= 8


def test_an_object_of_a_few_pixels_gives_no_evidence():
    image, _ = red_on_green()
    mask = np.zeros(image.shape[:2], bool)
    mask[50:53, 50:53] = True

    table = object_colours(image, Mask.from_array(mask))

    assert table.shape == (OBJECT_BINS,) * 3
    assert (table == NO_EVIDENCE).all()


def test_an_object_that_fills_the_image_gives_no_evidence():
    image, truth = red_on_green()

    table = object_colours(image, Mask.from_array(np.ones_like(truth)))

    assert (table == NO_EVIDENCE).all()


def test_a_patch_is_judged_by_its_own_colours():
    image, truth = red_on_green(noise=12)
    patch, inside = image[10:74, 20:84], truth[10:74, 20:84]

    evidence = patch_evidence(patch, inside)

    assert evidence.shape == (64, 64)
    assert np.mean((evidence > NO_EVIDENCE) == inside) > 0.99


def test_colours_at_the_ends_of_the_range_are_cells_like_others():
    image = np.zeros((60, 60, 3), np.uint8)
    image[15:45, 15:45] = 255
    mask = Mask.from_array(image[..., 0] != 0)

    evidence = look_up(object_colours(image, mask), image)

    assert (evidence[15:45, 15:45] > 200).all()
    assert (evidence[:10] < 60).all()
