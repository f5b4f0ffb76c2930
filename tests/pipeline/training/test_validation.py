"""Scores in training: a network that restores the truth beats one that does nothing."""

import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.predictor import KeepCoarse
from bpr.pipeline.settings import PatchSettings
from bpr.pipeline.training.patch_stream import LabelledImage, find_labelled_images
from bpr.pipeline.training.validation import validate

SETTINGS = PatchSettings(patch_size=64)


class Brightness:
    """Predicts the object where the photograph is bright, as it is in these."""

    input_size = 64

    def __call__(self, patches):
        return np.where(patches[..., 0] > 128, 20, -20).astype(np.float32)


class Inverted(Brightness):
    def __call__(self, patches):
        return -super().__call__(patches)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[LabelledImage]:
    folder = tmp_path_factory.mktemp("validation")
    (folder / "images").mkdir()
    (folder / "maps").mkdir()
    ys, xs = np.mgrid[:200, :260]
    for number in range(6):
        labels = np.zeros((200, 260), np.uint8)
        labels[np.hypot(ys - 100, (xs - 120) / 1.5) + 9 * np.sin(xs / 9) < 60 - number] = 1
        labels[:4, :4] = 3  # too small to count
        pixels = np.where(labels == 1, 220, 30).astype(np.uint8)
        Image.fromarray(np.repeat(pixels[..., None], 3, -1)).save(
            folder / "images" / f"{number}.png"
        )
        Image.fromarray(labels).save(folder / "maps" / f"{number}.png")
    return find_labelled_images(folder / "images", folder / "maps")


def test_keeping_the_coarse_masks_scores_as_they_do(images):
    scores = validate(KeepCoarse(), images, SETTINGS, 6)
    assert scores["boundary_iou"] == scores["coarse_boundary_iou"] < 0.99
    assert scores["worse"] == 0


def test_a_predictor_of_the_truth_scores_one_and_a_bad_one_does_harm(images):
    good, bad = (validate(p, images, SETTINGS, 6) for p in (Brightness(), Inverted()))
    assert good["boundary_iou"] > 0.999
    assert good["f1"] == good["f2"] == good["f3"] == 1
    assert bad["boundary_iou"] < bad["coarse_boundary_iou"]
    assert bad["worse"] == 1


def test_scores_do_not_depend_on_chance_and_are_named_best_first(images):
    first, second = (validate(KeepCoarse(), images, SETTINGS, 4) for _ in range(2))
    assert first == second
    assert next(iter(first)) == "boundary_iou"


def test_maps_without_objects_are_a_sentence(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a" / "x.png")
    (tmp_path / "maps").mkdir()
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "maps" / "x.png")
    images = find_labelled_images(tmp_path / "a", tmp_path / "maps")
    with pytest.raises(ValueError, match="maps: expected instances of 100 pixels or more"):
        validate(KeepCoarse(), images, SETTINGS, 4)
