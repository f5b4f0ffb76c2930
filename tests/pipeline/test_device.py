"""The path of a GPU, on the CPU where there is none: it is the same code."""

from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bpr.pipeline.crops import crop_patches
from bpr.pipeline.device import DeviceRunner
from bpr.pipeline.geometry import select_patches
from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Instance, Mask, Prediction
from bpr.pipeline.refine import MAX_WAITING_IMAGES, merge, plan, predict
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.checkpoints import load_model
from bpr.refiner.device_network import DeviceNetwork
from bpr.refiner.device_patches import PatchTable, cut_patches, put_back
from tests import oracles
from tests.strategies import masks, patch_settings, quick

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]


def noise_image(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def table_of(mask, boxes):
    """The whole image as the region of one object."""
    height, width = mask.size
    columns = torch.tensor([[0, 0, 0, width, height]] * len(boxes)).reshape(-1, 5).T
    corners = torch.from_numpy(boxes[:, :2].T.copy())
    return PatchTable.of_columns(int(boxes[0, 2] - boxes[0, 0]), [*corners, *columns])


@quick
@given(
    mask=masks(),
    settings=st.booleans().flatmap(patch_settings),
    side=st.sampled_from([8, 24, 32, 64]),
)
def test_patches_are_cut_as_on_the_cpu(mask, settings, side):
    boxes = select_patches(mask, settings)
    if len(boxes) == 0:
        return
    image = noise_image(mask.size)
    expected = crop_patches(image, mask, boxes, side, settings)
    bitmaps = torch.from_numpy(mask.to_array().view(np.uint8).ravel())
    found = cut_patches(
        torch.from_numpy(image), bitmaps, table_of(mask, boxes), side, settings.padding,
        settings.compat,
    ).numpy()  # fmt: skip
    np.testing.assert_array_equal(found[..., 3], expected[..., 3])
    assert np.abs(found.astype(int) - expected).max() <= 1


@quick
@given(mask=masks(max_side=40), settings=patch_settings(), seed=st.integers(0, 2**32 - 1))
def test_patches_are_averaged_as_pixel_by_pixel(mask, settings, seed):
    boxes = select_patches(mask, settings)
    if len(boxes) == 0:
        return
    size = int(boxes[0, 2] - boxes[0, 0])
    side = size + 2 * settings.padding  # no resizing: that is tested by the masks below
    logits = np.random.default_rng(seed).normal(0, 3, (len(boxes), side, side))
    logits = torch.from_numpy(logits.astype(np.float32))
    height, width = mask.size
    sums = torch.zeros(height * width + 1, dtype=torch.int32)
    counts = torch.zeros(height * width + 1, dtype=torch.int32)
    put_back(logits, table_of(mask, boxes), settings.padding, sums, counts)
    coarse = mask.to_array()
    found = np.where(
        counts[:-1].reshape(height, width) > 0, sums[:-1].reshape(height, width) > 0, coarse
    )
    inner = slice(settings.padding, settings.padding + size)
    expected = oracles.reassemble(coarse, boxes, logits.sigmoid()[:, inner, inner].numpy())
    assert np.mean(found != expected) <= 1e-3  # means within rounding of 0.5


def plans_of_all_kinds():
    """Images of several sizes: with small and large objects, without any, with empty masks."""
    random = np.random.default_rng(3)
    plans = []
    for number in range(7):
        size = (90 + 10 * number, 150)
        y, x = np.mgrid[: size[0], : size[1]]
        instances = []
        for radius in ([], [0], [12, 40], [60], [25, 0, 9], [33], [5])[number]:
            cy, cx = random.integers(0, size[0]), random.integers(0, size[1])
            disc = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
            instances.append(Instance(mask=Mask.from_array(disc), label=number, score=0.5))
        settings = PatchSettings(patch_size=None if number % 2 else 32, padding=4 * (number == 3))
        prediction = Prediction(size, tuple(instances))
        plans.append(plan(noise_image(size, number), prediction, settings, str(number)))
    return plans


@pytest.mark.parametrize("device", DEVICES)
def test_masks_are_those_of_the_cpu_but_for_one_pixel_in_a_thousand(
    predictor, random_weights, device
):
    network = DeviceNetwork(
        load_model(random_weights).network, predictor.input_size, device, bfloat16=False
    )
    plans = plans_of_all_kinds()
    found = list(predict(plans, DeviceRunner(network)))
    differing = refined = changed = 0
    for ours, theirs in zip(found, predict(plans, HostRunner(predictor)), strict=True):
        assert ours.name == theirs.name
        assert ours.num_patches == theirs.num_patches
        for first, second, coarse in zip(
            merge(ours).instances,
            merge(theirs).instances,
            theirs.prediction.instances,
            strict=True,
        ):
            assert (first.label, first.score) == (second.label, second.score)
            a, b = first.mask.to_array(), second.mask.to_array()
            differing += np.count_nonzero(a != b)
            changed += np.count_nonzero(a != coarse.mask.to_array())
            refined += 32**2
    assert changed > 1000
    # weights at random make masks of noise: crops that differ by one grey level decide more of
    # their pixels than of real ones
    assert differing <= 5e-3 * changed


def test_answers_come_in_order_and_few_images_wait(predictor, random_weights):
    network = DeviceNetwork(
        load_model(random_weights).network, predictor.input_size, "cpu", bfloat16=False
    )
    plans = plans_of_all_kinds() * 4
    drawn: deque[str] = deque()
    most = 0

    def draw():
        for planned in plans:
            drawn.append(planned.name)
            yield planned

    for answer in predict(draw(), DeviceRunner(network)):
        most = max(most, len(drawn))
        assert answer.name == drawn.popleft()
    assert not drawn
    # waiting for their batch, on their way back, and the one just drawn
    assert most <= MAX_WAITING_IMAGES + DeviceRunner.max_coming_back + 2 < len(plans)


def test_masks_do_not_depend_on_what_else_is_in_the_batch(predictor, random_weights):
    network = DeviceNetwork(
        load_model(random_weights).network, predictor.input_size, "cpu", bfloat16=False
    )
    plans = plans_of_all_kinds()
    for planned, together in zip(plans, predict(plans, DeviceRunner(network)), strict=True):
        (alone,) = predict([planned], DeviceRunner(network))
        for first, second in zip(merge(alone).instances, merge(together).instances, strict=True):
            np.testing.assert_array_equal(first.mask.to_array(), second.mask.to_array())
