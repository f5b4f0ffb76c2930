"""The service on a real Ray: the same answers, our own refusals, an end that cuts nobody off."""

from __future__ import annotations

import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.service.conftest import Scene
from tests.service.services import bpr_serve
from tests.service.test_operation import codes, expected_codes, post, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a Ray and its workers take their time


def test_replicas_answer_refuse_and_drain(weights, predictor):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--weights", str(weights), "--backend", "torch", "--ray-address", "local",
               "--ray-replicas", "2", "--ray-cpus", "0.1", "--max-requests", "2",
               "--port", str(port)]  # fmt: skip
    scenes = [Scene(seed) for seed in range(4)]
    want = [expected_codes(scene, predictor) for scene in scenes]
    with bpr_serve(*options, RAY_AUTH_MODE="disabled") as service:
        answer = post(service, scenes[0])
        assert answer.status_code == 200
        assert codes(answer) == want[0]
        assert service.client.get("/").headers["content-type"].startswith("text/html")

        # more at once than both replicas have places for
        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda k: post(service, scenes[k % 4]), range(48)))
        assert {answer.status_code for answer in answers} == {200, 429}
        for k, answer in enumerate(answers):
            if answer.status_code == 200:
                assert codes(answer) == want[k % 4]
            else:
                assert answer.headers["content-type"] == "application/problem+json"
                assert int(answer.headers["retry-after"]) > 0
                assert "All 2 places are taken" in answer.json()["detail"]
        large = [*scenes[0].mask_parts, ("masks", ("m", b"\0" * (65 * 2**20)))]
        refused = httpx.post(service.url + "/refine", files=large, timeout=60)
        assert refused.status_code == 413
        assert refused.headers["content-type"] == "application/problem+json"

        results, others, stop = [], [], threading.Event()

        def send(index):
            while not stop.is_set():
                try:
                    answer = post(service, scenes[index])
                except httpx.ConnectError:
                    return
                if answer.status_code == 200:
                    results.append(codes(answer) == want[index])
                elif answer.status_code != 429:
                    others.append((answer.status_code, answer.text))
                    return

        threads = [threading.Thread(target=send, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(results) > 8, 60)
        service.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        stop.set()
        assert service.process.wait(120) == 0
    assert all(results)
    # each client was refused in words, none was cut off
    assert len(others) == 4
    assert {status for status, _ in others} == {503}
    assert all("shutting down" in text for _, text in others)
    assert "Traceback" not in "\n".join(service.said)
