"""Objects with their surroundings in one file."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.instance import Mask
from bpr.pipeline.training.pool import PoolObject, PoolSource, build_pool, reduce_item


@pytest.fixture
def source(tmp_path):
    """A photograph with two objects, a band that nobody could label, and one recorded mask."""
    labels = np.zeros((120, 200), np.uint8)
    labels[20:80, 10:70] = 1
    labels[40:110, 120:180] = 2
    labels[10:15, 10:70] = 255
    ys, xs = np.mgrid[:120, :200]
    pixels = np.stack([2 * ys, xs, 250 - ys], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    predicted = np.zeros(labels.shape, bool)
    predicted[45:100, 110:175] = True
    objects = (
        PoolObject(Mask.from_array(labels == 1)),
        PoolObject(Mask.from_array(labels == 2), (Mask.from_array(predicted),)),
    )
    return PoolSource(
        image=tmp_path / "a.png", objects=objects, ignore=labels == 255, dataset="made"
    )


def test_each_object_comes_back_with_its_truth_and_its_recorded_masks(source, tmp_path):
    pool = build_pool([source], tmp_path / "pool")

    assert [pool.dataset(number) for number in range(len(pool))] == ["made", "made"]
    first, second = pool
    assert (first.truth == 1).sum() == 60 * 60
    assert (first.truth == 255).sum() == 5 * 60
    assert first.recorded == ()
    (recorded,) = second.recorded
    assert recorded.sum() == 55 * 65
    assert ((second.truth == 1) & (recorded == 1)).sum() == 55 * 55


def test_another_object_is_background(source, tmp_path):
    first, second = build_pool([source], tmp_path / "pool")

    assert set(np.unique(first.truth)) <= {0, 1, 255}
    assert (second.truth == 1).sum() == 70 * 60


def test_the_pixels_are_those_of_the_photograph(source, tmp_path):
    first = build_pool([source], tmp_path / "pool")[0]
    photograph = np.array(Image.open(source.image))

    ys, xs = np.nonzero(first.truth == 1)
    found = first.image[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].astype(int)
    assert np.abs(found - photograph[20:80, 10:70]).max() <= 4  # JPEG


def test_a_reduced_object_keeps_its_shape(source, tmp_path):
    whole = build_pool([source], tmp_path / "pool")[0]

    small = reduce_item(whole, 0.5)

    assert small.truth.shape == tuple(round(side / 2) for side in whole.truth.shape)
    assert (small.truth == 1).sum() == pytest.approx((whole.truth == 1).sum() / 4, rel=0.05)


def test_an_object_too_small_to_see_is_left_out(source, tmp_path):
    assert len(build_pool([replace(source, scale=0.2)], tmp_path / "pool")) == 0


def test_masks_of_another_size_than_the_photograph_are_refused(source, tmp_path):
    Image.fromarray(np.zeros((60, 100, 3), np.uint8)).save(source.image)

    with pytest.raises(ValueError, match=r"expected the size of its masks \(120, 200\)"):
        build_pool([source], tmp_path / "pool")
