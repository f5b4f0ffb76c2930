"""Whole parts missing or too much, and errors of a few pixels."""

import cv2
import numpy as np
import pytest

from bpr.pipeline.datasets.simulate_parts import SMALL, lost_and_added_parts, small_error


def beast():
    """A body with four legs, a neck and a head: parts that a network may lose."""
    mask = np.zeros((260, 320), np.uint8)
    cv2.ellipse(mask, (160, 110), (90, 45), 0, 0, 360, 1, -1)
    for x in (95, 120, 200, 225):
        cv2.rectangle(mask, (x - 6, 120), (x + 6, 220), 1, -1)
    cv2.line(mask, (235, 95), (270, 50), 1, 14)
    cv2.circle(mask, (275, 45), 18, 1, -1)
    return mask != 0


def iou(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def largest_part(mask):
    """Share of the beast's area of the largest connected part of a mask."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return max(stats[1:, cv2.CC_STAT_AREA], default=0) / np.count_nonzero(beast())


@pytest.mark.parametrize("error", [small_error, lost_and_added_parts])
def test_errors_depend_on_the_generator_alone(error):
    first, again, other = (error(beast(), np.random.default_rng(seed)) for seed in (5, 5, 6))

    assert first.dtype == bool
    assert first.shape == beast().shape
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_small_error_reaches_no_further_than_it_says():
    gt = beast()
    outside = cv2.distanceTransform((~gt).astype(np.uint8), cv2.DIST_L2, 5)

    for seed in range(40):
        coarse = small_error(gt, np.random.default_rng(seed))
        # moved by SMALL in x and in y and grown by SMALL besides
        assert outside[coarse].max() <= SMALL * np.sqrt(2) + SMALL + 1


def test_parts_are_lost_and_added_often():
    gt = beast()
    masks = [lost_and_added_parts(gt, np.random.default_rng(seed)) for seed in range(60)]

    lost = np.mean([largest_part(gt & ~mask) > 0.03 for mask in masks])
    added = np.mean([largest_part(mask & ~gt) > 0.03 for mask in masks])

    assert lost > 0.15
    assert added > 0.15


def test_most_of_the_object_is_still_found():
    masks = [lost_and_added_parts(beast(), np.random.default_rng(seed)) for seed in range(60)]

    assert np.mean([iou(mask, beast()) for mask in masks]) > 0.7
