"""The service on a real Ray: the same answers, our own refusals, an end that cuts nobody off."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bpr.refiner.predictor import load_predictor
from tests.service.conftest import Scene
from tests.service.services import bpr_serve, running
from tests.service.test_jobs import (
    FLAGS,
    assert_same,
    refined_by_command,
    result,
    send,
    wait,
    write_cityscapes,
    zipped,
)
from tests.service.test_operation import codes, expected_codes, post, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a Ray and its workers take their time


def ray_options(*more: str) -> list[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return ["--ray-address", "local", "--ray-replicas", "2", "--ray-cpus", "0.1",
            "--port", str(port), *more]  # fmt: skip


def test_replicas_answer_refuse_and_drain(weights, predictor):
    options = ray_options("--weights", str(weights), "--backend", "torch", "--max-requests", "2")
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


class Clients:
    """Send good requests until they are stopped, and judge each answer."""

    def __init__(self, service, scenes, want) -> None:
        self.right = 0
        self.planned: list[int] = []
        self.wrong: list[tuple[int, str]] = []
        self.cut_off: list[str] = []
        self._service, self._scenes, self._want = service, scenes, want
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(k,)) for k in range(len(scenes))]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _send(self, index: int) -> None:
        while not self._stopping.wait(0.05):
            try:
                answer = httpx.post(
                    self._service.url + "/refine", files=self._scenes[index].mask_parts, timeout=120
                )
            except httpx.TransportError as error:  # no answer
                self.cut_off.append(repr(error))
                time.sleep(0.2)
                continue
            is_problem = answer.headers["content-type"] == "application/problem+json"
            if answer.status_code == 200 and codes(answer) == self._want[index]:
                self.right += 1
            elif (
                answer.status_code in (429, 503) and is_problem and "retry-after" in answer.headers
            ):
                self.planned.append(answer.status_code)
            else:
                self.wrong.append((answer.status_code, answer.text[:300]))


def processes(service, name: str) -> list[int]:
    """Ids of the processes of this service's own Ray whose title says what they are."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            after_name = (folder / "stat").read_text().rpartition(")")[2]
            parents[int(folder.name)] = int(after_name.split()[1])
    found = []
    for process in parents:
        above = process
        while above in parents and above != service.process.pid:
            above = parents[above]
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{process}/cmdline").read_bytes().decode()
            if above == service.process.pid and name in title:
                found.append(process)
    return found


@pytest.mark.parametrize("name", ["ServeReplica:bpr", "ProxyActor", "ServeController"])
def test_whichever_part_dies_every_answer_is_right_or_planned(name):
    network = load_predictor("tiny", "cpu", "openvino")
    scenes = [Scene(seed) for seed in range(4)]
    with running(network) as alone:
        want = [codes(alone.refine(scene.mask_parts)) for scene in scenes]
    options = ray_options("--weights", "tiny", "--backend", "openvino")
    with bpr_serve(*options, RAY_AUTH_MODE="disabled") as service:
        with Clients(service, scenes, want) as clients:
            until(lambda: clients.right > 8, 120)
            victim = processes(service, name)[0]
            os.kill(victim, signal.SIGKILL)
            before = clients.right
            until(lambda: clients.right > before + 12, 120)
            # the part is there again, and everything with it
            until(lambda: len(processes(service, name)) >= 1 + (name == "ServeReplica:bpr"), 120)
            again = clients.right
            until(lambda: clients.right > again + 8, 120)
        print(name, clients.right, clients.planned, clients.cut_off)
        assert clients.wrong == []
        # who talks to a proxy that dies gets no answer at all; else everybody does
        assert name == "ProxyActor" or clients.cut_off == []
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(120) == 0


def test_a_job_runs_on_the_cluster(tmp_path):
    write_cityscapes(tmp_path / "in", 20)
    want = refined_by_command(
        tmp_path / "out", str(tmp_path / "in/predictions"), "--images", str(tmp_path / "in/images")
    )
    options = ray_options(*FLAGS, "--jobs-folder", str(tmp_path / "jobs"))
    with bpr_serve(*options, RAY_AUTH_MODE="disabled") as service:
        job = send(service, ("predictions", ("p.zip", zipped(tmp_path / "in"))))
        until(lambda: processes(service, "_Network") or service.client.get(
            f"/jobs/{job['id']}").json()["status"] == "done", 200)  # fmt: skip
        assert wait(service, job["id"], 300)["images_done"] == 20
        assert_same(result(service, job["id"]), want)
