"""Thousands of requests that are wrong, and good ones between them, answered right throughout."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.service.attacks import good, mutate, send
from tests.service.conftest import Scene
from tests.service.services import bpr_serve, running
from tests.service.test_operation import codes, expected_codes, until

LIMITS = {
    "max_body_bytes": 2_000_000,
    "max_image_pixels": 1_000_000,
    "max_instances": 50,
    "max_patches": 500,
    "upload_timeout_s": 2,
}
ATTACKERS = 8


def attack(service, predictor, count: int, seed: int, every: int = 25) -> Counter:
    """Send mutated requests from several clients, and a good one after every few.

    Returns:
        How many had which status; None: the client hung up or was hung up on.
    """
    scene = Scene()
    want = expected_codes(scene, predictor)
    seeds = [good(parts) for parts in (scene.mask_parts, scene.map_parts, scene.coco_parts)]
    assert [send(service.url, request) for request in seeds] == [200] * 3
    statuses: Counter = Counter()
    lock = threading.Lock()

    def run(client: int) -> None:
        for k in range(client, count, ATTACKERS):
            rng = random.Random(f"{seed} {k}")
            status = send(service.url, mutate(rng, seeds))
            with lock:
                statuses[status] += 1
            assert status is None or status < 500, f"seed {seed!r} {k}: {status}"
            if k % every == 0:
                answer = service.refine(scene.coco_parts)
                assert answer.status_code == 200, answer.text
                assert codes(answer) == want

    with ThreadPoolExecutor(ATTACKERS) as pool:
        list(pool.map(run, range(ATTACKERS)))
    until(lambda: service.metric("bpr_requests_in_process") == 0)
    until(lambda: service.metric("bpr_queued_patches") == 0)
    return statuses


def test_wrong_requests_get_no_5xx_and_good_ones_their_masks(predictor):
    before = threading.active_count()
    with running(predictor, **LIMITS) as service:
        statuses = attack(service, predictor, 400, seed=7)
    # it is an attack: every kind of answer occurs
    assert {200, 400, 405, 413, 415, 422, None} <= set(statuses)
    until(lambda: threading.active_count() <= before)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ten_thousand_wrong_requests_leave_nothing_behind(weights, predictor):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in LIMITS.items()]
    with bpr_serve("--weights", str(weights), "--backend", "torch", *options) as service:
        process = Path(f"/proc/{service.process.pid}")

        def look():
            time.sleep(1)
            pages = int((process / "statm").read_text().split()[1])
            return (
                pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
                len(list((process / "fd").iterdir())),
                len(list((process / "task").iterdir())),
            )

        attack(service, predictor, 2000, seed=1)
        rss, files, threads = look()
        statuses = attack(service, predictor, 10_000, seed=2)
        rss_after, files_after, threads_after = look()
        print(f"{dict(statuses)}; RSS {rss:.0f} -> {rss_after:.0f} MB")
        assert sum(statuses.values()) == 10_000
        assert rss_after < rss * 1.1
        assert files_after <= files + 2
        assert threads_after <= threads + 1
        assert not [line for line in service.said if "Traceback" in line]
