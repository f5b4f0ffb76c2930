"""The scenes of `bpr demo`: their files, and how outlines become masks."""

import socket

import numpy as np
import pytest
import skimage.data

from bpr.pipeline.demo.scenes import load_demo_scenes, rasterize
from bpr.pipeline.geometry import find_boundary


@pytest.fixture(scope="module")
def scenes():
    return load_demo_scenes()


def objects(scenes):
    for scene in scenes:
        for name, coarse, truth in zip(scene.names, scene.coarse, scene.truth, strict=True):
            yield f"{scene.name}, {name}", scene, coarse, truth


def test_photographs_are_those_of_scikit_image(scenes):
    for scene in scenes:
        theirs = getattr(skimage.data, scene.name)()
        theirs = np.stack([theirs] * 3, axis=-1) if theirs.ndim == 2 else theirs
        np.testing.assert_array_equal(scene.image, theirs)


def test_there_are_enough_scenes_and_objects_in_a_fixed_order(scenes):
    assert [scene.name for scene in scenes] == ["astronaut", "camera", "coffee", "rocket"]
    assert sum(len(scene.names) for scene in scenes) == 7


def test_images_are_rgb_and_everything_has_their_size(scenes):
    for scene in scenes:
        height, width, channels = scene.image.shape
        assert (scene.image.dtype, channels) == (np.uint8, 3)
        assert scene.ignore.shape == (height, width)
        assert scene.ignore.dtype == np.bool_
        assert {mask.size for mask in (*scene.coarse, *scene.truth)} == {(height, width)}


def test_coarse_masks_are_plausible_but_not_accurate(scenes):
    for where, _, coarse, truth in objects(scenes):
        one, other = coarse.to_array(), truth.to_array()
        iou = (one & other).sum() / (one | other).sum()
        assert 0.75 < iou < 0.97, where


def test_most_of_the_coarse_boundary_lies_off_the_true_one(scenes):
    for where, scene, coarse, truth in objects(scenes):
        true_band, coarse_band = np.zeros((2, *scene.ignore.shape), np.bool_)
        for band, mask in ((true_band, truth), (coarse_band, coarse)):
            x, y, _ = find_boundary(mask)
            band[y, x] = True
        assert (coarse_band & true_band).sum() < 0.5 * coarse_band.sum(), where


def test_the_true_masks_of_a_scene_do_not_overlap(scenes):
    for scene in scenes:
        assert np.sum([mask.to_array() for mask in scene.truth], axis=0).max() == 1


def test_most_of_every_true_boundary_is_scored(scenes):
    for where, scene, _, truth in objects(scenes):
        x, y, _ = find_boundary(truth)
        assert scene.ignore[y, x].mean() < 0.25, where


def test_loading_needs_no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"the network was asked for: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert load_demo_scenes()


def test_a_pixel_belongs_to_a_polygon_if_its_centre_does():
    # the square from (0.6, 0.6) to (2.4, 3.4) holds the centres x = 1, 2 and y = 1, 2, 3
    polygon = [(0.6, 0.6), (2.4, 0.6), (2.4, 3.4), (0.6, 3.4)]
    assert rasterize([polygon], (5, 4)).astype(int).tolist() == [
        [0, 0, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 1, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 0],
    ]


def test_a_centre_on_an_outline_counts_on_the_left_and_upper_side_only():
    assert rasterize([[(0, 0), (2, 0), (2, 2), (0, 2)]], (3, 3)).astype(int).tolist() == [
        [1, 1, 0],
        [1, 1, 0],
        [0, 0, 0],
    ]


def test_a_rasterized_disc_has_the_area_of_the_disc():
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    disc = np.stack([50.3 + 40 * np.cos(turn), 49.6 + 40 * np.sin(turn)], axis=1)
    # half a pixel more all around, as cv2.fillPoly paints it, would be 126 pixels more
    assert rasterize([disc], (100, 100)).sum() == pytest.approx(np.pi * 40**2, abs=25)


def test_what_leaves_the_image_is_cut_off():
    assert rasterize([[(-9, -9), (9, -9), (9, 9), (-9, 9)]], (3, 4)).all()


def test_polygons_are_joined_and_none_gives_nothing():
    near, far = [(-1, -1), (0.5, -1), (0.5, 9), (-1, 9)], [(2.5, -1), (9, -1), (9, 9), (2.5, 9)]
    assert rasterize([near, far], (1, 4)).astype(int).tolist() == [[1, 0, 0, 1]]
    assert not rasterize([], (3, 3)).any()
