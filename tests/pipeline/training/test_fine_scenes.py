"""Made-up objects with exact outlines."""

import cv2
import numpy as np
import pytest

from bpr.pipeline.training.fine_scenes import fine_scene


def scene(seed):
    front = np.full((90, 120, 3), (210, 60, 40), np.uint8)
    back = np.full((70, 80, 3), (30, 90, 200), np.uint8)
    return fine_scene(front, back, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(6))
def test_a_scene_holds_an_object_that_is_thin_somewhere(seed):
    image, truth = scene(seed)

    assert image.shape == (*truth.shape, 3)
    assert set(np.unique(truth)) == {0, 1}
    thick = cv2.morphologyEx(truth, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    assert np.count_nonzero(truth & ~thick) > 20


def test_the_truth_is_where_the_texture_of_the_front_shows():
    found = []
    for seed in range(12):
        image, truth = scene(seed)
        # pixels that are surely one or the other
        core = cv2.erode(truth, np.ones((5, 5), np.uint8)) != 0
        far = cv2.dilate(truth, np.ones((5, 5), np.uint8)) == 0
        if core.any():
            red = image[..., 0].astype(int) - image[..., 2]
            found.append(red[core].mean() > red[far].mean())

    assert len(found) > 6
    assert all(found)


def test_the_same_seed_draws_the_same_scene():
    for first, again in zip(scene(4), scene(4), strict=True):
        assert np.array_equal(first, again)
