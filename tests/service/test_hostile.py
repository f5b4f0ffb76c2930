"""Thousands of hostile requests beside good ones: pytest -m slow tests/service/test_hostile.py

The service is a process of its own. Slow clients come from 127.0.0.2 and others, as from elsewhere.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.service.attacks import Request, good, mutate, send
from tests.service.conftest import Scene
from tests.service.services import bpr_serve, connected, read_all, request_bytes, until
from tests.service.test_impatience import SLOW_HEAD, large_answer
from tests.service.test_operation import codes, expected_codes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

REQUESTS = 5000
SLOW_CLIENTS = 64
DRAIN_S = 20
PLANNED_503 = ("no_hope", "timeout", "memory", "draining")
CONFIG_BOMBS = ["<Image " + "a" * 60_000 + ">", "<View>" * 40_000, '<!DOCTYPE a [<!ENTITY b "c">]>']


@pytest.fixture
def hostile(weights, tmp_path):
    options = ["--weights", str(weights), "--backend", "torch", "--upload-timeout-s", "6",
               "--drain-timeout-s", str(DRAIN_S), "--jobs-folder", str(tmp_path / "jobs"),
               "--max-job-bytes", "1000000", "--max-jobs", "3",
               "--label-studio-url", "http://127.0.0.1:1"]  # fmt: skip
    with bpr_serve(*options) as service:
        yield service


def resident_mb(service) -> float:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


class Repeating(threading.Thread):
    """Does something again and again, and remembers how long each time took."""

    def __init__(self, work: Callable[[], bool], pause: float, client: httpx.Client) -> None:
        super().__init__()
        self._work, self._pause, self._client = work, pause, client
        self._stopping = threading.Event()
        self.seconds: list[float] = []
        self.wrong = 0

    def run(self) -> None:
        while not self._stopping.wait(self._pause):
            started = time.monotonic()
            try:
                self.wrong += not self._work()
            except httpx.HTTPError:
                self.wrong += 1
            self.seconds.append(time.monotonic() - started)

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        self._client.close()

    @property
    def p95(self) -> float:
        return float(np.percentile(self.seconds, 95))


@pytest.fixture
def control():
    """The address of a server that does nothing else: how long this machine itself stalls."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd="/proc/self/net"
    ) as process:
        try:
            port = process.stdout.readline().split(" port ")[1].split()[0]
            yield f"http://127.0.0.1:{port}/dev"
        finally:
            process.kill()


def stalls(control: str) -> Repeating:
    """A probe of the control server."""
    client = httpx.Client(timeout=60)
    probe = Repeating(lambda: client.get(control).status_code == 200, 0.05, client)
    probe.start()
    return probe


def watching(service, scene, want) -> tuple[Repeating, Repeating]:
    """A good client, and a probe of /healthz."""
    own, probe = httpx.Client(timeout=60), httpx.Client(timeout=60)

    def refine() -> bool:
        answer = own.post(service.url + "/refine", files=scene.mask_parts)
        return answer.status_code == 200 and codes(answer) == want

    def health() -> bool:
        return probe.get(service.url + "/healthz").status_code == 200

    watchers = Repeating(refine, 0.05, own), Repeating(health, 0.05, probe)
    for watcher in watchers:
        watcher.start()
    return watchers


def label_studio(rng: random.Random) -> Request:
    """What the ML backend should not be sent."""
    task = {"id": 1, "data": {"image": rng.choice(["/../x", "/a\nb", "http://10.0.0.1/", "é"])}}
    region = {"value": {"format": "rle", "rle": [1] * 50, "brushlabels": ["a"]}, "to_name": [],
              "original_width": rng.choice([1, 80, 10**6]), "original_height": 10**4}  # fmt: skip
    task["annotations"] = [{"result": [region] * rng.choice([1, 50, 2000])}]
    body = {"tasks": [task], "label_config": rng.choice(CONFIG_BOMBS)}
    content = rng.choice([json.dumps(body).encode(), b"[" + b"[]," * rng.choice([10, 10**6])])
    headers = {"Content-Type": "application/json"}
    return Request([], headers, path="/label-studio/predict", body=content)


def brackets(scene) -> Request:
    content = b"[" + b"[]," * 2_000_000
    return Request(
        [(n, f[0], f[1]) for n, f in [scene.image_part, ("instances", ("i", content))]], {}
    )


def crumbs(rng: random.Random) -> Request:
    """A body in chunks of one byte, thousands in a packet."""
    body = b"1\r\na\r\n" * rng.choice([600, 5000, 100_000])
    return Request([], {"Transfer-Encoding": "chunked"}, path="/refine", body=body)


def patches(rng: random.Random) -> Request:
    """Tensors for KServe's route that are none."""
    shape = rng.choice([[1, 32, 32, 4], [10**9, 32, 32, 4], [-1], "x"])
    tensor = {"name": "patches", "datatype": "UINT8", "shape": shape,
              "data": rng.choice([[], [1] * 4096, [300] * 4096, [[[1]]], "x", None])}  # fmt: skip
    headers = {"Content-Type": "application/json"}
    if rng.random() < 0.3:
        headers["Inference-Header-Content-Length"] = rng.choice(["-1", "5", "9" * 40])
    body = json.dumps({"inputs": [tensor] * rng.choice([0, 1, 1, 2])}).encode()
    return Request([], headers, path="/v2/models/random/infer", body=body)


def jobs(rng: random.Random) -> Request:
    """Uploads that are no jobs, and some that are jobs which fail."""
    content = rng.choice([b"", b"PK", b"PK\3\4" + b"\0" * 3000, b"[1]", b"{", b"\0" * 2_000_000])
    parts = [(rng.choice(["predictions", "predictions", "images", "image", "x"]), "a", content)]
    if rng.random() < 0.2:
        body = json.dumps({"predictions": "s3://a/../b::file:///etc"}).encode()
        return Request([], {"Content-Type": "application/json"}, path="/jobs", body=body)
    return Request(parts * rng.choice([1, 1, 2]), {}, path="/jobs")


def unread(scene) -> bytes:
    """A request that is answered with as much as the caller's fields may hold."""
    records = [{**scene.records[0], "note": "x" * 1_900_000}]
    return request_bytes([scene.image_part, ("instances", ("a", json.dumps(records).encode()))])


def slow_client(service, kind: int, stopping: threading.Event, scene) -> None:
    """Send or read a byte now and then, until the service hangs up; then begin again."""
    heads = [b"POST /refine HTTP/1.1\r\nHo", SLOW_HEAD, unread(scene)]
    while not stopping.is_set():
        with ExitStack() as stack:
            try:
                window = 4096 if kind == 2 else None  # the kernel takes no more of the answer
                connection = stack.enter_context(connected(service, f"127.0.0.{2 + kind}", window))
                connection.sendall(heads[kind])
                end = time.monotonic() + 8
                while time.monotonic() < end and not stopping.wait(0.5):
                    if kind < 2:
                        connection.sendall(b"a")
                    else:
                        connection.recv(1)
            except OSError:
                continue


def test_thousands_of_hostile_requests_harm_nobody(hostile, control, predictor):
    scene = Scene(5)
    want = expected_codes(scene, predictor)
    rng = random.Random(18)
    seeds = [good(parts) for parts in (scene.mask_parts, scene.map_parts, scene.coco_parts)]
    for request in seeds * 5:
        assert send(hostile.url, request) == 200
    before = resident_mb(hostile)
    kinds = [lambda: mutate(rng, seeds), lambda: label_studio(rng), lambda: crumbs(rng),
             lambda: patches(rng), lambda: jobs(rng), lambda: brackets(scene)]  # fmt: skip
    requests = [rng.choices(kinds, [80, 9, 3, 4, 3, 1])[0]() for _ in range(REQUESTS)]
    statuses: Counter[int | None] = Counter()
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not requests:
                    return
                request = requests.pop()
            status = send(hostile.url, request)
            with lock:
                statuses[status] += 1

    refining, health = watching(hostile, scene, want)
    machine = stalls(control)
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for watcher in (refining, health, machine):
        watcher.stop()
    print(statuses, f"p95 {refining.p95:.3f} s, /healthz {max(health.seconds):.3f} s at most, "
          f"the machine {max(machine.seconds):.3f} s")  # fmt: skip
    assert sum(statuses.values()) == REQUESTS
    assert {status for status in statuses if status and status >= 500} <= {503}
    assert (refining.wrong, health.wrong) == (0, 0)
    assert max(health.seconds) < 0.5 + max(machine.seconds)
    check_503s(hostile)
    until(lambda: hostile.metric("bpr_requests_in_process") == 0)
    assert resident_mb(hostile) - before < 50


def test_64_slow_clients_slow_nobody_down(hostile, control, predictor):
    scene = Scene(5)
    want = expected_codes(scene, predictor)
    refining, health = watching(hostile, scene, want)
    time.sleep(10)
    refining.stop(), health.stop()
    usual, before = refining.p95, resident_mb(hostile)
    stopping = threading.Event()
    slow = [
        threading.Thread(target=slow_client, args=(hostile, k % 3, stopping, scene))
        for k in range(SLOW_CLIENTS)
    ]
    for thread in slow:
        thread.start()
    time.sleep(2)
    refining, health = watching(hostile, scene, want)
    machine = stalls(control)
    time.sleep(30)
    refining.stop(), health.stop(), machine.stop()
    stopping.set()
    for thread in slow:
        thread.join()
    print(f"p95 {usual:.3f} s alone, {refining.p95:.3f} s with {SLOW_CLIENTS} slow clients")
    assert (refining.wrong, health.wrong) == (0, 0)
    assert refining.p95 <= 2 * usual
    assert max(health.seconds) < 0.5 + max(machine.seconds)
    check_503s(hostile)
    until(lambda: hostile.metric("bpr_requests_in_process") == 0)
    assert resident_mb(hostile) - before < 50


def check_503s(service) -> None:
    """Every 5xx in the log is a planned 503."""
    for line in service.logged():
        if line.get("message") == "request" and line["status"] >= 500:
            assert line["status"] == 503, line
            assert line["reason"] in PLANNED_503, line
    assert "Traceback" not in "\n".join(service.said)
    assert "never retrieved" not in "\n".join(service.said)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_sigterm_ends_it_whoever_is_slow(weights, kind):
    options = ["--weights", str(weights), "--backend", "torch", "--drain-timeout-s", str(DRAIN_S),
               "--max-json-bytes", str(2**26)]  # fmt: skip
    with bpr_serve(*options) as service, ExitStack() as stack:
        heads = [b"POST /refine HTTP/1.1\r\nHo", SLOW_HEAD, request_bytes(large_answer(Scene(1)))]
        clients = [stack.enter_context(connected(service)) for _ in range(8)]
        for client in clients:
            client.sendall(heads[kind])
        time.sleep(2)
        started = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(DRAIN_S + 10)
        assert time.monotonic() - started < DRAIN_S + 5
        for client in clients:
            read_all(client)
