from __future__ import annotations

import importlib.util
import json

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bpr.pipeline.crops import patch_probabilities
from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Instance, Mask, Prediction
from bpr.pipeline.predictor import KeepCoarse
from bpr.pipeline.refine import MAX_WAITING_IMAGES, merge, plan, predict, refine
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.predictor import load_predictor
from tests.networks import INPUT_SIZE
from tests.refiner.conftest import published_state
from tests.strategies import bitmaps, patch_settings, quick

SETTINGS = PatchSettings(patch_size=INPUT_SIZE)
NEEDS_OPENVINO = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)


class Recorder:
    """A predictor that also notes the size of each batch."""

    def __init__(self, predictor):
        self.predictor, self.input_size, self.sizes = predictor, predictor.input_size, []

    def __call__(self, patches):
        self.sizes.append(len(patches))
        return self.predictor(patches)


def picture(seed, size=(90, 120)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def disc(radius, size=(90, 120), centre=(60, 45)):
    canvas = np.zeros(size, np.uint8)
    cv2.circle(canvas, centre, radius, 1, -1)
    return Mask.from_array(canvas)


def prediction_of(*masks):
    instances = [
        Instance(mask=mask, label=index, score=0.5, record={"at": index})
        for index, mask in enumerate(masks)
    ]
    return Prediction(masks[0].size, tuple(instances))


def plan_of(seed, *masks, settings=SETTINGS):
    return plan(picture(seed, masks[0].size), prediction_of(*masks), settings, str(seed))


EMPTY = Mask.from_array(np.zeros((90, 120), np.bool_))
WHOLE = Mask.from_array(np.ones((90, 120), np.bool_))


def some_plans(settings=SETTINGS):
    """Images with many patches, few, and none: no instance, an empty mask, a whole image."""
    nothing = plan(picture(9), Prediction((90, 120), ()), settings, "9")
    return [
        plan_of(0, EMPTY, settings=settings),
        plan_of(1, disc(40), disc(3), settings=settings),
        nothing,
        plan_of(2, WHOLE, EMPTY, settings=settings),
        plan_of(3, disc(20), EMPTY, disc(9, centre=(5, 5)), settings=settings),
        plan_of(4, EMPTY, settings=settings),
    ]


def arrays(answer):
    return [instance.mask.to_array() for instance in merge(answer).instances]


# the whole chain against the reference


@pytest.fixture(scope="module")
def recipe_weights(golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.pth"
    torch.save({"state_dict": published_state(golden, "hrnet18s")}, path)
    return path


@pytest.mark.parametrize("backend", ["torch", pytest.param("openvino", marks=NEEDS_OPENVINO)])
def test_the_whole_chain_gives_the_references_masks(golden, recipe_weights, backend):
    predictor = load_predictor(recipe_weights, device="cpu", backend=backend)
    settings = PatchSettings(patch_size=64, nms_iou=0.25, compat=True)
    records = json.loads((golden / "e2e_hrnet18s_128.json").read_text())
    with np.load(golden / "e2e_hrnet18s_128.npz") as recorded:
        images = {
            image_id: recorded[f"image_rgb_{image_id}"]
            for image_id in sorted({record["image_id"] for record in records})
        }
        plans, indices = [], []
        for image_id, image in images.items():
            of_image = [r["index"] for r in records if r["image_id"] == image_id]
            coarse = [unpacked(recorded, f"coarse_{k}", image.shape[1]) for k in of_image]
            masks = [Mask.from_array(array) for array in coarse]
            plans.append(plan(image, prediction_of(*masks), settings, str(image_id)))
            indices.append(of_image)
        changed = 0
        for answer, of_image in zip(predict(plans, HostRunner(predictor)), indices, strict=True):
            for position, k in enumerate(of_image):
                np.testing.assert_array_equal(answer.boxes[position], recorded[f"boxes_{k}"])
                probability = patch_probabilities(answer.logits[position], 64, 0)
                assert np.abs(probability - recorded[f"prob_{k}"] / 65535).max() <= 1e-4
                refined = arrays(answer)[position]
                expected = unpacked(recorded, f"refined_{k}", refined.shape[1])
                assert np.count_nonzero(refined != expected) <= 10
                changed += np.count_nonzero(
                    refined != answer.prediction.instances[position].mask.to_array()
                )
    assert changed > 1000  # the case would notice a chain that does nothing


def unpacked(recorded, name, width):
    return np.unpackbits(recorded[name], axis=-1)[..., :width].astype(np.bool_)


# one image


def test_refined_instances_keep_order_label_score_and_record(predictor):
    prediction = prediction_of(disc(30), EMPTY, disc(10), WHOLE)
    refined = refine(picture(0), prediction, HostRunner(predictor), SETTINGS)
    assert refined.size == prediction.size
    for before, after in zip(prediction.instances, refined.instances, strict=True):
        assert (after.label, after.score, after.record) == (
            before.label,
            before.score,
            before.record,
        )
    assert refined.instances[1].mask.is_empty


def test_refining_leaves_its_input_alone(predictor):
    image, prediction = picture(0), prediction_of(disc(30))
    before = image.copy()
    mask = prediction.instances[0].mask.to_array()
    refined = refine(image, prediction, HostRunner(predictor), SETTINGS)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(prediction.instances[0].mask.to_array(), mask)
    assert not np.array_equal(refined.instances[0].mask.to_array(), mask)


@quick
@given(
    arrays=st.lists(bitmaps(max_side=60), min_size=1, max_size=3),
    settings=patch_settings().filter(lambda settings: settings.patch_size is not None),
)
def test_keeping_patches_of_the_networks_size_gives_back_the_masks(arrays, settings):
    side = settings.patch_size + 2 * settings.padding
    for array in arrays:
        image = np.zeros((*array.shape, 3), np.uint8)
        refined = refine(
            image, prediction_of(Mask.from_array(array)), HostRunner(KeepCoarse(side)), settings
        )
        np.testing.assert_array_equal(refined.instances[0].mask.to_array(), array)


def test_an_image_of_another_size_than_its_masks_is_refused():
    prediction = prediction_of(disc(9))
    for image in (picture(0, (90, 121)), picture(0, (120, 90)), picture(0)[..., 0]):
        with pytest.raises(ValueError, match=r"image: expected uint8 RGB of shape \(90, 120, 3\)"):
            refine(image, prediction, HostRunner(KeepCoarse()), SETTINGS)
    with pytest.raises(ValueError, match="image: expected uint8 RGB"):
        refine(picture(0).astype(np.float32), prediction, HostRunner(KeepCoarse()), SETTINGS)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_no_patches_is_refused(batch_size):
    with pytest.raises(ValueError, match="batch_size: expected an int > 0"):
        list(predict([], HostRunner(KeepCoarse(), batch_size)))


# many images


@pytest.mark.parametrize(
    "settings", [SETTINGS, PatchSettings(patch_size=None), PatchSettings(patch_size=48, padding=4)]
)
def test_masks_do_not_depend_on_the_batch_size(predictor, settings):
    results = [
        list(map(arrays, predict(some_plans(settings), HostRunner(predictor, batch_size))))
        for batch_size in (1, 3, 32)
    ]
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            np.testing.assert_equal(first, second)


def test_masks_do_not_depend_on_the_order_of_images(predictor):
    plans = some_plans()
    expected = {answer.name: arrays(answer) for answer in predict(plans, HostRunner(predictor, 3))}
    for order in ([5, 4, 3, 2, 1, 0], [1, 0, 4, 2, 5, 3]):
        answers = list(predict([plans[index] for index in order], HostRunner(predictor, 3)))
        assert [answer.name for answer in answers] == [plans[index].name for index in order]
        for answer in answers:
            np.testing.assert_equal(arrays(answer), expected[answer.name])


def test_many_images_together_give_the_masks_that_each_gives_alone(predictor):
    plans = some_plans()
    for planned, answer in zip(plans, predict(plans, HostRunner(predictor, 7)), strict=True):
        alone = refine(planned.image, planned.prediction, HostRunner(predictor), SETTINGS)
        expected = [instance.mask.to_array() for instance in alone.instances]
        np.testing.assert_equal(arrays(answer), expected)


def test_images_without_patches_keep_their_place_and_masks(predictor):
    plans = some_plans()
    assert [p.num_patches > 0 for p in plans] == [False, True, False, False, True, False]
    answers = list(predict(plans, HostRunner(predictor, 32)))
    assert [answer.name for answer in answers] == ["0", "1", "9", "2", "3", "4"]
    for answer in answers:
        if answer.num_patches == 0:
            coarse = [instance.mask.to_array() for instance in answer.prediction.instances]
            np.testing.assert_equal(arrays(answer), coarse)


def test_batches_are_filled_across_instances_and_images():
    plans = some_plans()
    total = sum(planned.num_patches for planned in plans)
    recorder = Recorder(KeepCoarse(INPUT_SIZE))
    list(predict(plans, HostRunner(recorder, 5)))
    assert recorder.sizes == [5] * (total // 5) + ([total % 5] if total % 5 else [])


def test_an_image_with_more_patches_than_a_batch_is_answered_whole():
    planned = plan_of(0, disc(40), settings=PatchSettings(patch_size=8))
    recorder = Recorder(KeepCoarse(8))
    (answer,) = predict([planned], HostRunner(recorder, 4))
    assert planned.num_patches > 12
    assert max(recorder.sizes) == 4
    np.testing.assert_equal(arrays(answer), [disc(40).to_array()])


@pytest.mark.parametrize("num_empty", [MAX_WAITING_IMAGES - 1, 3 * MAX_WAITING_IMAGES + 1])
@pytest.mark.parametrize("first", [True, False])
def test_images_without_patches_do_not_pile_up(predictor, num_empty, first):
    """Behind an image whose batch never fills, only a few others wait."""
    drawn, most = 0, 0
    plans = [plan_of(0, EMPTY) for _ in range(num_empty)]
    plans.insert(0 if first else num_empty // 2, plan_of(1, disc(20)))

    def draw():
        nonlocal drawn
        for planned in plans:
            drawn += 1
            yield planned

    answers = []
    for answer in predict(draw(), HostRunner(predictor, 1000)):
        answers.append(answer)
        most = max(most, drawn - len(answers))
    assert [answer.prediction for answer in answers] == [planned.prediction for planned in plans]
    assert most <= MAX_WAITING_IMAGES
    expected = refine(plans[0].image, plans[0].prediction, HostRunner(predictor), SETTINGS)
    np.testing.assert_equal(
        arrays(answers[0]), [instance.mask.to_array() for instance in expected.instances]
    )


def test_answers_come_as_soon_as_their_patches_are_predicted():
    plans = [plan_of(seed, disc(30)) for seed in range(4)]
    drawn = 0

    def draw():
        nonlocal drawn
        for planned in plans:
            drawn += 1
            yield planned

    answers = predict(draw(), HostRunner(KeepCoarse(INPUT_SIZE), 1))
    for count in range(1, 5):
        next(answers)
        assert drawn == count
