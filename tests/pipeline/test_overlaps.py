"""Who gets the pixels that several refined masks claim, and how sure the network was of them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpr.pipeline.geometry import average_patches
from bpr.pipeline.instance import Instance, Mask, Prediction, SoftMask
from bpr.pipeline.overlaps import avoid_overlaps, resolve_overlaps
from bpr.pipeline.plan import Answer
from bpr.pipeline.refine import merge, plan
from bpr.pipeline.settings import PatchSettings
from tests.strategies import bitmaps, quick

SIZE = (14, 18)


@st.composite
def images(draw):
    """Masks before and after refining, and their probabilities, which agree with the latter."""
    count = draw(st.integers(1, 4))
    before = [draw(bitmaps(size=SIZE)) for _ in range(count)]
    after = [draw(bitmaps(size=SIZE)) for _ in range(count)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    soft = []
    for mask in after:
        high, low = rng.integers(128, 256, SIZE), rng.integers(0, 128, SIZE)
        soft.append(np.where(mask, high, low).astype(np.uint8))
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        if not (old.any() and new.any()):  # stays as it came, as from `without_harm`
            after[index] = old
            soft[index] = (old * 255).astype(np.uint8)
    return before, after, soft


def run(rule, before, after, soft):
    masks = rule(
        [Mask.from_array(mask) for mask in before],
        [Mask.from_array(mask) for mask in after],
        lambda index: SoftMask(soft[index], (0, 0, SIZE[1], SIZE[0]), SIZE),
    )
    return [mask.to_array() for mask in masks]


@quick
@given(images())
def test_masks_that_did_not_overlap_do_not_overlap_after(given_masks):
    before, after, soft = given_masks
    masks = run(avoid_overlaps, before, after, soft)
    for i, j in itertools.combinations(range(len(before)), 2):
        if not (before[i] & before[j]).any():
            assert not (masks[i] & masks[j]).any()
    for index, mask in enumerate(masks):
        assert mask.any() == after[index].any()
        assert not (mask & ~(after[index] | before[index])).any()


@quick
@given(images())
def test_resolved_masks_share_no_pixel_and_lose_none_together(given_masks):
    before, after, soft = given_masks
    masks = run(resolve_overlaps, before, after, soft)
    assert np.sum(masks, axis=0).max() <= 1
    np.testing.assert_array_equal(np.any(masks, axis=0), np.any(after, axis=0))
    for y, x in np.argwhere(np.sum(after, axis=0) > 1)[:20]:
        claims = [k for k in range(len(after)) if after[k][y, x]]
        (owner,) = (k for k in claims if masks[k][y, x])
        assert soft[owner][y, x] == max(soft[k][y, x] for k in claims)


def test_among_equals_the_pixel_stays_with_the_mask_that_had_it():
    left, right = np.zeros(SIZE, np.bool_), np.zeros(SIZE, np.bool_)
    left[:, :9], right[:, 9:] = True, True
    wide = left.copy()
    wide[:, 9:12] = True
    soft = [np.where(mask, 200, 0).astype(np.uint8) for mask in (wide, right)]
    masks = run(avoid_overlaps, [left, right], [wide, right], soft)
    np.testing.assert_array_equal(masks, [left, right])
    masks = run(avoid_overlaps, [right, left], [right, wide], soft[::-1])
    np.testing.assert_array_equal(masks, [right, left])


def squares():
    """Two squares side by side, and an answer that lets both grow over the border."""
    image = np.zeros((80, 120, 3), np.uint8)
    arrays = np.zeros((2, 80, 120), np.bool_)
    arrays[0, 20:60, 20:60] = True
    arrays[1, 20:60, 60:100] = True
    instances = tuple(Instance(mask=Mask.from_array(one), label=0, score=1.0) for one in arrays)
    planned = plan(image, Prediction((80, 120), instances), PatchSettings(patch_size=16))
    # the second is surer of every pixel of its patches
    logits = tuple(
        np.full((len(b), 16, 16), 2.0 + k, np.float32) for k, b in enumerate(planned.boxes)
    )
    return planned, Answer(
        prediction=planned.prediction, boxes=planned.boxes, settings=planned.settings, logits=logits
    )


@pytest.mark.parametrize(("overlaps", "overlapping"), [("avoid", 0), ("keep", 1), ("resolve", 0)])
def test_the_setting_says_whether_masks_may_overlap(overlaps, overlapping):
    _, answer = squares()
    settings = replace(answer.settings, overlaps=overlaps)
    first, second = (one.mask for one in merge(replace(answer, settings=settings)).instances)
    common = np.count_nonzero(first.to_array() & second.to_array())
    assert bool(common) == bool(overlapping)
    if not overlapping:  # the second is surer
        assert second.to_array()[30:50, 58].all()
    with pytest.raises(ValueError, match="overlaps: expected one of avoid, keep, resolve"):
        PatchSettings(overlaps="mix")


def test_probabilities_are_those_of_the_patches_and_the_mask_outside():
    planned, answer = squares()
    settings = replace(answer.settings, soft=True, overlaps="keep")
    for index, instance in enumerate(merge(replace(answer, settings=settings)).instances):
        soft = instance.soft.to_array()
        np.testing.assert_array_equal(soft > 127, instance.mask.to_array())
        coarse, boxes = planned.prediction.instances[index].mask, planned.boxes[index]
        probability = 1 / (1 + np.exp(-answer.logits[index]))
        region, mean = average_patches(coarse, boxes, probability)
        x0, y0, x1, y1 = region
        assert np.abs(soft[y0:y1, x0:x1] / 255 - mean).max() < 0.005
        inside = np.zeros(soft.shape, np.bool_)
        for bx0, by0, bx1, by1 in boxes:
            inside[by0:by1, bx0:bx1] = True
        np.testing.assert_array_equal(soft[~inside], coarse.to_array()[~inside] * 255)


@quick
@given(values=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_rounding_keeps_the_side_of_one_half(values):
    probability = np.array([values], np.float32)
    soft = SoftMask.of_probability(probability, (0, 0, len(values), 1), (1, len(values)))
    np.testing.assert_array_equal(soft.values > 127, probability > 0.5)
    assert np.abs(soft.values / 255 - probability).max() < 0.005
