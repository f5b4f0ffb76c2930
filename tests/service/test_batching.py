"""The batcher: the masks of `refine`, a fair share for each, and nothing for who has left."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import numpy as np
import pytest

from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Instance, Mask, Prediction
from bpr.pipeline.predictor import KeepCoarse
from bpr.pipeline.refine import merge, plan, refine
from bpr.pipeline.settings import PatchSettings
from bpr.service.batching import Batcher, Closed, NetworkFailed, Standing

SETTINGS = PatchSettings(patch_size=16, nms_iou=0.3)
BATCH = 8


def bars(count: int, length: int = 60) -> tuple[np.ndarray, Prediction]:
    """An image with objects that have a dozen patches each."""
    size = (80, 24 * count)
    instances = []
    for k in range(count):
        array = np.zeros(size, np.bool_)
        array[10 : 10 + length, 24 * k + 6 : 24 * k + 16] = True
        instances.append(Instance(mask=Mask.from_array(array), label=0, score=1.0))
    image = np.random.default_rng(count).integers(0, 256, (*size, 3), np.uint8)
    return image, Prediction(size, tuple(instances))


def planned(count: int):
    return plan(*bars(count), SETTINGS)


class Held:
    """A network that runs when it is let, and remembers its batches."""

    def __init__(self) -> None:
        self.input_size = 16
        self.sizes: list[int] = []
        self.is_let = threading.Event()
        self.began = threading.Event()

    def __call__(self, patches):
        self.began.set()
        assert self.is_let.wait(30)
        self.sizes.append(len(patches))
        return KeepCoarse(16)(patches)


@pytest.fixture
def held():
    network = Held()
    yield network
    network.is_let.set()


def test_masks_are_those_of_refine_whatever_shares_the_batch(predictor):
    sets = [bars(count) for count in (1, 5, 2, 3)]
    settings = PatchSettings(patch_size=32, nms_iou=0.3)
    batcher = Batcher(HostRunner(predictor, BATCH), 0.05)
    futures = [batcher.submit(plan(*one, settings)) for one in sets]
    for future, (image, prediction) in zip(futures, sets, strict=True):
        got = merge(future.result(60).answer)
        want = refine(image, prediction, HostRunner(predictor), settings)
        for one, other in zip(got.instances, want.instances, strict=True):
            np.testing.assert_array_equal(one.mask.to_array(), other.mask.to_array())
    batcher.close()


def test_a_small_request_is_not_stuck_behind_a_huge_one(held):
    batcher = Batcher(HostRunner(held, BATCH), 0)
    huge = batcher.submit(planned(40))
    assert held.began.wait(10)  # its first batch is on its way
    small, other = batcher.submit(planned(1)), batcher.submit(planned(1))
    at = {}
    for name, future in (("small", small), ("other", other), ("huge", huge)):
        future.add_done_callback(lambda _, name=name: at.setdefault(name, len(held.sizes)))
    held.is_let.set()
    total = planned(40).num_patches + 2 * planned(1).num_patches
    huge.result(30)
    assert sum(held.sizes) == total
    assert held.sizes[:-1] == [BATCH] * (len(held.sizes) - 1)  # every batch but the last is full
    # a quarter of each batch: done when about four times its own patches were predicted
    own = planned(1).num_patches
    assert max(at["small"], at["other"]) <= 1 + 4 * own / BATCH + 2 < at["huge"] / 2
    batcher.close()


def test_requests_end_one_after_the_other_but_all_take_turns(held):
    batcher = Batcher(HostRunner(held, BATCH), 0)
    first = batcher.submit(planned(1))
    assert held.began.wait(10)
    done = {}
    many = [batcher.submit(planned(6)) for _ in range(3 * BATCH)]
    many.append(batcher.submit(planned(1)))
    for index, future in enumerate(many):
        future.add_done_callback(lambda _, index=index: done.setdefault(index, len(held.sizes)))
    held.is_let.set()
    for future in (first, *many):
        future.result(30)
    assert done[0] < len(held.sizes) / (3 * BATCH) * 3  # it had about half of each batch
    assert next(iter(done)) in (0, len(many) - 1)
    # the small one, last in line, gets a patch each time its turn comes
    turns = planned(1).num_patches * -(-len(many) // (BATCH // 2))
    assert done[len(many) - 1] <= turns + 2 < max(done.values()) / 1.2
    batcher.close()


def test_a_tiny_request_gets_a_batch_that_is_small(held):
    """Four patches or fewer of eight are one batch, with as many of a huge request."""
    batcher = Batcher(HostRunner(held, BATCH), 0)
    huge = [batcher.submit(planned(40)) for _ in range(4)]
    assert held.began.wait(10)
    tiny = batcher.submit(plan(*bars(1, 4), SETTINGS))
    patches = plan(*bars(1, 4), SETTINGS).num_patches
    assert 0 < patches <= BATCH // 2
    at = []
    tiny.add_done_callback(lambda _: at.append(len(held.sizes)))
    assert batcher.standing(tiny) == Standing(patches, 0, 4)
    held.is_let.set()
    tiny.result(30)
    assert at == [2]  # the batch that ran already, and its own
    assert held.sizes[1] == 2 * patches
    for future in huge:
        future.result(30)
    assert batcher.standing(tiny) is None
    batcher.close()


def test_it_learns_how_long_requests_take(held):
    held.is_let.set()
    batcher = Batcher(HostRunner(held, BATCH), 0)
    assert batcher.seconds_for(1000) == 0  # nothing is known yet
    batcher.submit(planned(5)).result(30)
    once = batcher.seconds_for(1000)
    assert once > 0
    assert batcher.seconds_for(2000) == pytest.approx(2 * once, rel=0.01)
    held.is_let.clear()
    held.began.clear()
    huge = batcher.submit(planned(40))
    assert held.began.wait(10)
    assert batcher.seconds_for(1000) > once  # others are there
    held.is_let.set()
    huge.result(30)
    batcher.close()


def test_a_batch_waits_for_others_but_not_for_long(held):
    held.is_let.set()
    batcher = Batcher(HostRunner(held, 1000), 0.4)
    started = time.perf_counter()
    one, two = batcher.submit(planned(1)), batcher.submit(planned(2))
    one.result(30), two.result(30)
    assert held.sizes == [planned(3).num_patches]
    assert 0.3 < time.perf_counter() - started < 5
    batcher.close()


def test_a_full_batch_does_not_wait(held):
    held.is_let.set()
    batcher = Batcher(HostRunner(held, BATCH), 1.0)
    many = planned(1).num_patches // BATCH * BATCH
    assert many
    started = time.perf_counter()
    future = batcher.submit(planned(1))
    while sum(held.sizes) < many:
        assert time.perf_counter() - started < 0.9
        time.sleep(0.001)
    future.result(30)
    batcher.close()


def test_a_cancelled_request_costs_no_further_batch(held):
    batcher = Batcher(HostRunner(held, BATCH), 0)
    huge = batcher.submit(planned(40))
    assert held.began.wait(10)
    small = batcher.submit(planned(1))
    assert huge.cancel()
    held.is_let.set()
    small.result(30)
    assert batcher.queued_patches == 0
    assert sum(held.sizes) == BATCH + planned(1).num_patches
    batcher.close()


def test_nothing_is_kept_of_a_request_that_is_done(held):
    held.is_let.set()
    batcher = Batcher(HostRunner(held, BATCH), 0)
    plan_ = planned(3)
    image = weakref.ref(plan_.image)
    future = batcher.submit(plan_)
    future.result(30)
    del plan_, future
    time.sleep(0.1)
    gc.collect()
    assert image() is None
    batcher.close()


def test_a_request_without_patches_is_answered_at_once(held):
    batcher = Batcher(HostRunner(held, BATCH), 1.0)
    empty = Prediction((50, 60), ())
    future = batcher.submit(plan(np.zeros((50, 60, 3), np.uint8), empty, SETTINGS))
    assert future.done()
    assert future.result().answer.prediction is empty
    batcher.close()


def test_a_failing_network_fails_its_batch_and_no_more():
    calls = []

    class Failing(KeepCoarse):
        def __call__(self, patches):
            calls.append(len(patches))
            if len(calls) == 2:
                raise RuntimeError("out of memory")
            return super().__call__(patches)

    batcher = Batcher(HostRunner(Failing(16), BATCH), 0)
    with pytest.raises(NetworkFailed, match="out of memory"):
        batcher.submit(planned(2)).result(30)
    refined = merge(batcher.submit(planned(2)).result(30).answer)
    for one, other in zip(refined.instances, bars(2)[1].instances, strict=True):
        np.testing.assert_array_equal(one.mask.to_array(), other.mask.to_array())
    batcher.close()


def test_who_waits_at_the_end_is_told(held):
    batcher = Batcher(HostRunner(held, BATCH), 0)
    future = batcher.submit(planned(40))
    assert held.began.wait(10)
    held.is_let.set()
    batcher.close()
    assert isinstance(future.exception(10), Closed)
    assert isinstance(batcher.submit(planned(1)).exception(10), Closed)
