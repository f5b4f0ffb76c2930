"""Coarse to fine: passes, what is kept of them, and the runner that takes images through them."""

import cv2
import numpy as np
import pytest

from bpr.pipeline.chain import PASSES, first_boxes
from bpr.pipeline.chain_runner import ChainRunner
from bpr.pipeline.colour_evidence import object_colours
from bpr.pipeline.instance import Instance, Mask, Prediction
from bpr.pipeline.passes import CHANNELS, cut_patches, outcome, scale_level, without_specks
from bpr.pipeline.refine import merge, plan, predict, refine
from bpr.pipeline.settings import PatchSettings

SETTINGS = PatchSettings(patch_size="passes")
SIZE = (240, 300)


class ByColours:
    """A predictor that believes the colours of the object and nothing else."""

    input_size = 96

    def __call__(self, patches):
        assert patches.shape[1:] == (96, 96, CHANNELS)
        return (patches[..., 4].astype(np.float32) - 128) / 8


class ByMask:
    """A predictor that is sure of the mask that comes in."""

    input_size = 96

    def __call__(self, patches):
        return np.where(patches[..., 3] > 0, 20, -20).astype(np.float32)


def scene(seed=0):
    """A red and a blue shape on green, with noise, and their accurate masks."""
    truth = [np.zeros(SIZE, np.uint8) for _ in range(2)]
    cv2.ellipse(truth[0], (150, 120), (100, 60), 20, 0, 360, 1, -1)
    cv2.rectangle(truth[1], (5, 5), (50, 40), 1, -1)
    image = np.full((*SIZE, 3), (40, 170, 60), np.int64)
    for mask, colour in zip(truth, ((200, 50, 40), (40, 60, 210)), strict=True):
        image[mask != 0] = colour
    image += np.random.default_rng(seed).integers(-12, 13, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), [mask != 0 for mask in truth]


def prediction_of(*arrays):
    masks = [Mask.from_array(array) for array in arrays]
    return Prediction(
        SIZE, tuple(Instance(mask=mask, label=k, score=0.5) for k, mask in enumerate(masks))
    )


def bitten(mask):
    """A mask without its right end, and with a piece of the background."""
    ys, xs = np.nonzero(mask)
    coarse = mask.copy()
    coarse[:, int(xs.max() - 0.14 * np.ptp(xs)) :] = False
    coarse[ys.min() : ys.min() + 15, xs.min() : xs.min() + 40] = True
    return coarse


def iou(first, second):
    return np.count_nonzero(first & second) / np.count_nonzero(first | second)


def refined_arrays(predictor, image, prediction, batch_size=32, settings=SETTINGS):
    refined = refine(image, prediction, ChainRunner(predictor, batch_size), settings)
    return [instance.mask.to_array() for instance in refined.instances]


def test_a_lost_part_comes_back_where_the_colours_are_clear():
    image, truth = scene()
    coarse = [bitten(mask) for mask in truth]

    refined = refined_arrays(ByColours(), image, prediction_of(*coarse))

    for before, after, mask in zip(coarse, refined, truth, strict=True):
        assert iou(before, mask) < 0.92
        assert iou(after, mask) > 0.96


def test_where_no_gain_is_expected_the_mask_stays():
    image, truth = scene()
    coarse = [bitten(mask) for mask in truth]

    refined = refined_arrays(ByMask(), image, prediction_of(*coarse))

    for before, after in zip(coarse, refined, strict=True):
        assert iou(before, after) > 0.97


def test_an_accurate_mask_stays():
    image, truth = scene()

    refined = refined_arrays(ByColours(), image, prediction_of(*truth))

    for before, after in zip(truth, refined, strict=True):
        assert iou(before, after) > 0.99


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_masks_depend_neither_on_the_batch_nor_on_the_neighbours(batch_size):
    images = [scene(seed) for seed in range(3)]
    plans = [
        plan(image, prediction_of(*(bitten(mask) for mask in truth)), SETTINGS)
        for image, truth in images
    ]

    answers = list(predict(plans, ChainRunner(ByColours(), batch_size)))

    for answer, (image, truth) in zip(answers, images, strict=True):
        alone = refined_arrays(ByColours(), image, prediction_of(*(bitten(m) for m in truth)))
        together = [instance.mask.to_array() for instance in merge(answer).instances]
        for first, second in zip(alone, together, strict=True):
            assert np.array_equal(first, second)


def test_the_answer_holds_the_boxes_of_every_pass():
    image, truth = scene()
    planned = plan(image, prediction_of(bitten(truth[0])), SETTINGS)

    (answer,) = predict([planned], ChainRunner(ByColours()))

    sizes = answer.boxes[0][:, 2] - answer.boxes[0][:, 0]
    assert len(np.unique(sizes)) == 3  # the fourth pass is for larger objects
    assert np.array_equal(answer.boxes[0][: len(planned.boxes[0])], planned.boxes[0])
    assert np.array_equal(
        planned.boxes[0], first_boxes(Mask.from_array(bitten(truth[0])), SETTINGS)
    )


def test_a_pass_that_is_hardly_narrower_is_left_out():
    image, _ = scene()
    small = np.zeros(SIZE, bool)
    small[5:40, 5:45] = True
    planned = plan(image, prediction_of(small), SETTINGS)

    (answer,) = predict([planned], ChainRunner(ByColours()))

    # 70, 35 and 12 % of 45 px are all the least patch size
    assert len(answer.boxes[0]) == len(planned.boxes[0])


def test_empty_and_whole_masks_pass_through():
    image, _ = scene()
    prediction = prediction_of(np.zeros(SIZE, bool), np.ones(SIZE, bool))

    refined = refined_arrays(ByColours(), image, prediction)

    assert not refined[0].any()
    assert refined[1].all()


def test_a_patch_size_of_the_caller_makes_one_pass():
    image, truth = scene()
    settings = PatchSettings(patch_size=48)
    planned = plan(image, prediction_of(bitten(truth[0])), settings)

    (answer,) = predict([planned], ChainRunner(ByColours()))

    assert set(answer.boxes[0][:, 2] - answer.boxes[0][:, 0]) == {48}


@pytest.mark.parametrize("other", [{"compat": True, "patch_size": 64}, {"padding": 4}])
def test_the_papers_options_are_refused(other):
    image, truth = scene()
    planned = plan(image, prediction_of(truth[0]), PatchSettings(**other))

    with pytest.raises(ValueError, match="weights of the paper's network"):
        ChainRunner(ByColours()).open(planned)


def test_expected_errors_are_what_the_probabilities_say():
    mask = Mask.from_array(np.pad(np.ones((20, 20), bool), 20))
    boxes = np.array([[10, 10, 50, 50]])
    probability = np.full((1, 40, 40), 0.1, np.float32)
    probability[0, 10:30, 10:20] = 0.8

    found = outcome(mask, boxes, probability)

    outline = 4 * 19
    assert found.error_before == pytest.approx((200 * 0.2 + 200 * 0.9 + 1200 * 0.1) / outline)
    assert found.error_after == pytest.approx((200 * 0.2 + 1400 * 0.1) / outline)
    assert found.moved == pytest.approx(200 / outline)
    assert found.mask.window == (20, 20, 30, 40)


@pytest.mark.parametrize(("margin", "flips"), [(0.0, True), (0.1, True), (0.2, False)])
def test_a_pixel_changes_sides_only_beyond_the_margin(margin, flips):
    mask = Mask.from_array(np.pad(np.ones((20, 20), bool), 20))
    probability = np.full((1, 40, 40), 0.35, np.float32)
    probability[0, :, 20:] = 0.65

    found = outcome(mask, np.array([[10, 10, 50, 50]]), probability, margin)

    region = found.mask.to_array()[10:50, 10:50]
    coarse = mask.to_array()[10:50, 10:50]
    expected = np.broadcast_to(np.arange(40) >= 20, region.shape) if flips else coarse
    np.testing.assert_array_equal(region, expected)
    line = 4 * 19
    assert found.error_after == pytest.approx(
        np.abs(region - probability[0]).sum() / line, rel=1e-5
    )


def test_patches_hold_colours_mask_evidence_and_scale():
    image, truth = scene()
    mask = Mask.from_array(truth[0])
    boxes = first_boxes(mask, SETTINGS)
    patches = cut_patches(image, mask, boxes, 32, object_colours(image, mask), 200)

    assert patches.shape == (len(boxes), 32, 32, CHANNELS)
    inside = patches[..., 3] == 1
    assert patches[..., 4][inside].mean() > 128 > patches[..., 4][~inside].mean()
    share = (boxes[0, 2] - boxes[0, 0]) / 200
    assert (patches[..., 6] == scale_level(share)).all()
    assert scale_level(1 / 32) == 0
    assert scale_level(2) == 255


def test_passes_go_from_wide_to_narrow():
    shares = [one.share for one in PASSES]

    assert shares == sorted(shares, reverse=True)
    assert PASSES[0].least_side == 0


def test_small_islands_and_holes_that_are_new_are_dropped():
    before = np.zeros(SIZE, bool)
    before[50:150, 50:150] = True
    before[200:204, 200:204] = True  # small, but not new
    before[60:64, 60:64] = False
    after = before.copy()
    after[10:15, 10:15] = True  # a new island
    after[10:40, 200:230] = True  # a large one
    after[100:105, 100:105] = False  # a new hole
    after[110:145, 60:95] = False  # a large one
    after[150:155, 70:75] = True  # joined to the object
    expected = after.copy()
    expected[10:15, 10:15] = False
    expected[100:105, 100:105] = True

    cleaned = without_specks(Mask.from_array(before), Mask.from_array(after), 0.05, 0.01)

    assert np.array_equal(cleaned.to_array(), expected)
