import threading
import time

import pytest

from bpr.pipeline.threads import map_ahead


def test_results_come_in_the_order_of_the_items_though_later_ones_finish_first():
    def slow_at_first(item):
        time.sleep(0.02 if item % 4 == 0 else 0)
        return item * 10

    assert list(map_ahead(slow_at_first, range(40), workers=4, ahead=6)) == [
        item * 10 for item in range(40)
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_few_items_are_all_answered(count):
    assert list(map_ahead(str, range(count), workers=2, ahead=4)) == [
        str(item) for item in range(count)
    ]


@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (2, 4), (4, 2)])
def test_items_are_drawn_at_most_ahead_of_those_asked_for(workers, ahead):
    drawn = 0

    def draw():
        nonlocal drawn
        for item in range(30):
            drawn += 1
            yield item

    results = map_ahead(lambda item: item, draw(), workers, ahead)
    assert drawn == 0
    for asked in range(1, 31):
        next(results)
        assert drawn <= asked + ahead


def test_no_more_items_are_worked_on_than_there_are_workers():
    lock, busy, most = threading.Lock(), 0, 0

    def work(item):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.002)
        with lock:
            busy -= 1

    list(map_ahead(work, range(30), workers=3, ahead=10))
    assert most <= 3


def test_items_are_drawn_in_the_callers_thread_and_worked_on_in_others():
    drawn_in, worked_in = set(), set()

    def draw():
        for item in range(9):
            drawn_in.add(threading.get_ident())
            yield item

    list(map_ahead(lambda _: worked_in.add(threading.get_ident()), draw(), 2, 4))
    assert drawn_in == {threading.get_ident()}
    assert threading.get_ident() not in worked_in


def test_an_error_comes_at_the_place_of_its_item_and_ends_the_work():
    started = []

    def work(item):
        started.append(item)
        if item == 3:
            raise KeyError("three")
        return item

    results = map_ahead(work, range(1000), workers=2, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        next(results)
    count = len(started)
    assert count < 12
    time.sleep(0.05)
    assert len(started) == count


def test_an_error_of_the_items_comes_after_the_results_before_it_are_begun():
    finished = []

    def draw():
        yield 0
        yield 1
        raise OSError("no more")

    def work(item):
        time.sleep(0.01)
        finished.append(item)

    with pytest.raises(OSError, match="no more"):
        list(map_ahead(work, draw(), workers=2, ahead=4))
    count = len(finished)
    time.sleep(0.05)
    assert len(finished) == count  # nothing goes on behind the caller's back


def test_closing_early_waits_for_what_has_begun_and_drops_the_rest():
    started, finished = [], []

    def work(item):
        started.append(item)
        time.sleep(0.05)
        finished.append(item)

    results = map_ahead(work, range(100), workers=2, ahead=8)
    next(results)
    results.close()
    assert sorted(started) == sorted(finished)
    assert len(started) <= 5
