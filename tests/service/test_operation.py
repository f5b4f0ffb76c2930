"""What operators need: health, metrics, logs, admission, deadlines, an end in good order."""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from bpr.pipeline.formats import rle
from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Instance, Prediction
from bpr.pipeline.refine import refine
from bpr.pipeline.settings import PatchSettings
from bpr.scripts.main import main
from bpr.service.gate import next_wait
from bpr.service.problems import RETRY_AFTER_S
from tests.networks import INPUT_SIZE
from tests.service.conftest import Scene
from tests.service.services import ROOT, bpr_serve, running, until


class Held:
    """A real network that runs only while it is let."""

    def __init__(self, predictor) -> None:
        self._predictor = predictor
        self.is_let = threading.Event()
        self.began = threading.Event()
        self.is_let.set()  # for the warm-up
        self.batches = 0
        self.is_broken = False

    def __call__(self, patches):
        self.began.set()
        assert self.is_let.wait(60)
        self.batches += 1
        if self.is_broken:
            raise RuntimeError("the device is gone: /dev/secret")
        return self._predictor(patches)

    def hold(self) -> None:
        self.began.clear()
        self.is_let.clear()


@pytest.fixture
def held(predictor):
    network = Held(predictor)
    yield network
    network.is_let.set()


def with_network(predictor, network):
    return replace(predictor, predict=network)


def expected_codes(scene, predictor):
    """What the library makes of a scene, as RLE."""
    prediction = Prediction(
        scene.image.shape[:2], tuple(Instance(mask=m, label=0, score=1.0) for m in scene.masks)
    )
    refined = refine(
        scene.image, prediction, HostRunner(predictor), PatchSettings(patch_size=INPUT_SIZE)
    )
    return [rle.encode(instance.mask) for instance in refined.instances]


def codes(answer):
    return [item["segmentation"] for item in answer.json()["instances"]]


class TestHealth:
    def test_it_lives_and_is_ready(self, service):
        for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready",
                     "/v2/models/random/ready"):  # fmt: skip
            answer = service.client.get(path)
            assert answer.status_code == 200
            assert answer.json() == {"status": "ok"}
        assert service.client.get("/v2/models/other/ready").status_code == 404

    def test_until_the_model_is_warm_it_lives_but_is_not_ready(self, predictor, held, scene):
        held.hold()
        with running(with_network(predictor, held), wait=False) as service:
            assert held.began.wait(20)
            assert service.client.get("/healthz").json() == {"status": "loading"}
            for answer in (service.client.get("/readyz"), service.refine(scene.mask_parts)):
                assert answer.status_code == 503
                assert "still loading" in answer.json()["detail"]
                assert int(answer.headers["retry-after"]) > 0
            held.is_let.set()
            service.wait_until_ready()
            assert service.refine(scene.mask_parts).status_code == 200

    def test_it_listens_before_the_weights_are_loaded(self, predictor, scene):
        loaded = threading.Event()
        with running(predictor, wait=False, loaded=loaded) as service:
            assert service.client.get("/healthz").json() == {"status": "loading"}
            assert service.client.get("/").status_code == 200
            paths = ("/readyz", "/v2/health/ready", "/v2/models/random/ready")
            for answer in (*map(service.client.get, paths), service.refine(scene.mask_parts)):
                assert answer.status_code == 503
                assert "still loading" in answer.json()["detail"]
                assert int(answer.headers["retry-after"]) > 0
            loaded.set()
            service.wait_until_ready()
            assert codes(service.refine(scene.mask_parts)) == expected_codes(scene, predictor)

    def test_weights_that_cannot_be_loaded_end_the_process_in_words(self, tmp_path):
        command = [sys.executable, "-m", "bpr", "serve", "--port", "0", "--weights"]
        nothing = tmp_path / "nothing.safetensors"
        done = subprocess.run([*command, str(nothing)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2
        assert "nothing.safetensors" in done.stderr.splitlines()[-1]


class TestMetrics:
    def test_they_count_what_was_done(self, predictor, scene):
        with running(predictor, batch_size=4) as service:
            answer = service.refine(scene.mask_parts).json()
            service.refine([scene.image_part])
            families = {
                family.name: family
                for family in text_string_to_metric_families(service.client.get("/metrics").text)
            }
            metric = service.metric
            assert metric('bpr_requests_total{route="/refine",status="200"}') == 1
            assert metric('bpr_requests_total{route="/refine",status="400"}') == 1
            assert metric('bpr_rejections_total{reason="bad_request"}') == 1
            assert metric("bpr_patches_total") == answer["patches"]
            assert metric("bpr_instances_total") == 3
            assert metric("bpr_batch_fill_count") == -(-answer["patches"] // 4)
            assert metric("bpr_batch_fill_sum") == answer["patches"] / 4
            assert metric("bpr_queued_patches") == 0
            assert metric("bpr_requests_in_process") == 0
            for stage, seconds in answer["timings"].items():
                if stage != "encode":  # goes on while the answer is written
                    got = metric(f'bpr_stage_seconds_sum{{stage="{stage}"}}')
                    assert got == pytest.approx(seconds, abs=1e-5)
            assert families["bpr_request_seconds"].type == "histogram"

    def test_addresses_that_there_are_not_make_no_new_series(self, service):
        for k in range(20):
            service.client.get(f"/made-up-{k}")
            service.client.get(f"/v2/models/made-up-{k}/ready")
        text = service.client.get("/metrics").text
        assert "made-up" not in text
        until(lambda: service.metric('bpr_requests_total{route="other",status="404"}') >= 20)


@given(clients=st.integers(17, 500), rate=st.floats(0.5, 100), wait_s=st.floats(RETRY_AFTER_S, 30))
def test_a_crowd_that_is_refused_asks_about_twice_as_often_as_places_become_free(
    clients, rate, wait_s
):
    """16 of the clients have places, the others ask again after the time that they are told."""
    for _ in range(5):
        refused, done = round(clients - 16), max(round(rate * wait_s), 1)
        wait_s = next_wait(wait_s, refused, done)
        assert RETRY_AFTER_S <= wait_s <= 30
    asked = (clients - 16) / wait_s  # a second
    assert wait_s in (RETRY_AFTER_S, 30) or asked == pytest.approx(2 * rate, rel=0.6)


class TestAdmission:
    def test_a_full_service_says_429_and_every_200_is_right(self, predictor, held):
        scenes = [Scene(seed) for seed in range(32)]
        with running(with_network(predictor, held), max_requests=8) as service:
            held.hold()
            with ThreadPoolExecutor(32) as pool:
                answers = [pool.submit(post, service, scene) for scene in scenes]
                until(lambda: sum(answer.done() for answer in answers) == 24)
                assert service.metric("bpr_requests_in_process") == 8
                held.is_let.set()
                answers = [answer.result() for answer in answers]
            assert sorted(a.status_code for a in answers) == [200] * 8 + [429] * 24
            for scene, answer in zip(scenes, answers, strict=True):
                if answer.status_code == 200:
                    assert codes(answer) == expected_codes(scene, predictor)
                else:
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert int(answer.headers["retry-after"]) > 0
                    assert "All 8 places are taken" in answer.json()["detail"]
            assert service.metric('bpr_rejections_total{reason="full"}') == 24
            assert service.refine(scenes[0].mask_parts).status_code == 200

    def test_a_refused_client_hears_so_even_if_it_sends_a_lot(self, predictor, held, scene):
        with running(with_network(predictor, held), max_requests=1) as service:
            held.hold()
            with ThreadPoolExecutor(1) as pool:
                first = pool.submit(post, service, scene)
                assert held.began.wait(20)
                large = [*scene.mask_parts, ("masks", ("large", b"\0" * 20_000_000))]
                assert service.refine(large).status_code == 429
                held.is_let.set()
                assert first.result().status_code == 200

    def test_a_client_that_leaves_gives_its_place_back_and_costs_no_batch(
        self, predictor, held, scene
    ):
        with running(with_network(predictor, held), batch_size=1) as service:
            before = held.batches
            held.hold()
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(service.url + "/refine", files=scene.mask_parts, timeout=0.5)
            until(lambda: service.metric("bpr_requests_in_process") == 0)
            assert service.metric("bpr_queued_patches") == 0
            held.is_let.set()
            assert service.refine(scene.mask_parts).status_code == 200
            patches = service.refine(scene.mask_parts).json()["patches"]
            assert held.batches - before <= 1 + 2 * patches
            assert service.metric('bpr_rejections_total{reason="client_left"}') == 1

    def test_a_client_that_leaves_in_mid_body_gives_its_place_back(self, service):
        url = httpx.URL(service.url)
        for _ in range(20):
            with socket.create_connection((url.host, url.port)) as connection:
                connection.sendall(
                    b"POST /refine HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n"
                    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
                )
        until(lambda: service.metric("bpr_requests_in_process") == 0)


def post(service, scene):
    return httpx.post(service.url + "/refine", files=scene.mask_parts, timeout=60)


def accepts_connections(url):
    try:
        socket.create_connection((url.host, url.port)).close()
    except ConnectionError:
        return False
    return True


class TestTime:
    def test_a_request_over_its_time_is_told_so_and_costs_no_more(self, predictor, held, scene):
        with running(with_network(predictor, held), request_timeout_s=4, batch_size=1) as service:
            held.hold()
            answer = service.refine(scene.mask_parts)
            assert answer.status_code == 503
            assert "took longer than 4 s" in answer.json()["detail"]
            assert answer.headers["retry-after"]
            assert service.metric("bpr_requests_in_process") == 0
            assert service.metric("bpr_queued_patches") == 0
            held.is_let.set()
            assert service.refine(scene.mask_parts).status_code == 200

    def test_a_request_without_hope_is_refused_at_once(self, predictor, scene):
        """Half a second a patch, as the warm-up shows: a dozen cannot be done in five."""

        def slowly(patches):
            time.sleep(0.5)
            return predictor(patches)

        with running(with_network(predictor, slowly), batch_size=1, request_timeout_s=5) as slow:
            started = time.monotonic()
            answer = slow.refine(scene.mask_parts)
            assert answer.status_code == 503
            assert "needs about" in answer.json()["detail"]
            assert int(answer.headers["retry-after"]) >= 2
            assert time.monotonic() - started < 4

    def test_nobody_minds_the_failures_of_requests_that_were_left(self, predictor, scene, caplog):
        """asyncio says of an exception that nobody asks for: it was never retrieved."""

        def fail(patches):
            time.sleep(0.4)
            raise RuntimeError("the device is gone")

        failing = Held(predictor)
        with running(with_network(predictor, failing)) as service:
            failing._predictor = fail
            damaged = [scene.image_part, ("masks", ("m", scene.mask_parts[1][1][1][:-20]))]
            for parts, patience in [(scene.mask_parts, 0.2), (damaged, 0.001)] * 8:
                with contextlib.suppress(httpx.TimeoutException):
                    httpx.post(service.url + "/refine", files=parts, timeout=patience)
            until(lambda: service.metric("bpr_requests_in_process") == 0)
            until(lambda: service.metric('bpr_requests_total{route="/refine",status="499"}') > 0)
        gc.collect()
        assert "never retrieved" not in caplog.text
        assert not [r for r in caplog.records if r.name == "asyncio"]

    def test_progress_is_told_by_request_id(self, predictor, held, scene):
        with running(with_network(predictor, held), batch_size=1) as service:
            held.hold()
            headers = {"X-Request-ID": "mine-1"}
            with ThreadPoolExecutor(1) as pool:
                sent = pool.submit(
                    httpx.post, service.url + "/refine", files=scene.mask_parts, headers=headers,
                    timeout=60,
                )  # fmt: skip
                assert held.began.wait(20)
                told = service.client.get("/progress/mine-1").json()
                assert (told["patches_done"], told["ahead"]) == (1, 0)
                held.is_let.set()
                assert sent.result().json()["patches"] == told["patches"]
            # the answer may arrive before the service has forgotten the request
            until(lambda: service.client.get("/progress/mine-1").status_code == 404)

    def test_a_network_that_fails_is_a_503_that_tells_nothing_of_the_inside(
        self, predictor, held, scene, caplog
    ):
        with running(with_network(predictor, held)) as service:
            held.is_broken = True
            answer = service.refine(scene.mask_parts)
            assert answer.status_code == 503
            assert "The network failed" in answer.json()["detail"]
            assert "secret" not in answer.text
            assert "/dev/secret" in caplog.text  # the operator sees it
            held.is_broken = False
            assert service.refine(scene.mask_parts).status_code == 200

    def test_the_event_loop_is_free_while_the_network_runs(self, predictor, held, scene):
        with running(with_network(predictor, held)) as service:
            held.hold()
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(post, service, scene)
                assert held.began.wait(20)
                for _ in range(20):
                    assert service.client.get("/healthz").status_code == 200
                held.is_let.set()
                assert waiting.result().status_code == 200


class TestTheProcess:
    def test_sigterm_under_load(self, weights, predictor):
        """Every accepted request gets its right 200; later ones hear 503; the exit status is 0."""
        scenes = [Scene(seed) for seed in range(6)]
        want = [expected_codes(scene, predictor) for scene in scenes]
        options = ("--weights", str(weights), "--backend", "torch", "--max-requests", "6")
        results, refusals, stop = [], [], threading.Event()

        def send(index):
            while not stop.is_set():
                try:
                    answer = post(service, scenes[index])
                except httpx.TransportError:
                    return  # it is gone, and never let this one in: they are counted below
                if answer.status_code == 200:
                    results.append(codes(answer) == want[index])
                else:
                    refusals.append((answer.status_code, answer.json()["detail"]))
                    if answer.status_code == 503:
                        return

        with bpr_serve(*options) as service:
            assert any("max_requests = 6" in line for line in service.said)
            threads = [threading.Thread(target=send, args=(k,)) for k in range(len(scenes))]
            for thread in threads:
                thread.start()
            until(lambda: len(results) > 12)
            service.process.send_signal(signal.SIGTERM)
            # refused in words while others finish
            for thread in threads:
                thread.join(60)
            stop.set()
            assert service.process.wait(60) == 0
            accepted = [
                line for line in service.logged()
                if line.get("message") == "request" and line["status"] != 503
            ]  # fmt: skip
        assert all(results)
        assert {status for status, _ in refusals} <= {503}
        assert all("shutting down" in detail for _, detail in refusals)
        # each that was let in was answered 200, and the client saw each
        assert {line["status"] for line in accepted} == {200}
        assert len(accepted) == len(results)
        line = accepted[-1]
        assert {"request_id", "seconds", "patches", "network_s", "time", "level"} <= set(line)

    def test_a_client_that_has_connected_is_told_of_the_end(self, weights):
        with bpr_serve("--weights", str(weights), "--backend", "torch") as service:
            url = httpx.URL(service.url)
            with socket.create_connection((url.host, url.port)) as connection:
                service.process.send_signal(signal.SIGTERM)
                until(lambda: not accepts_connections(url))
                connection.sendall(b"POST /refine HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"shutting down" in answer
            assert service.process.wait(60) == 0

    def test_the_log_and_the_settings_hold_no_secret(self, weights, scene, tmp_path):
        config = tmp_path / "bpr.toml"
        config.write_text('api_keys = "in-the-file"\nmax_requests = 3\n')
        options = ("--weights", str(weights), "--backend", "torch", "--config", str(config))
        with bpr_serve(*options, BPR_API_KEYS="from-the-environment") as service:
            headers = {"X-API-Key": "from-the-environment"}
            answer = service.client.post("/refine", files=scene.mask_parts, headers=headers)
            assert answer.status_code == 200
            wrong = {"X-API-Key": "in-the-file"}
            assert service.client.post("/refine", headers=wrong).status_code == 401
            assert "api_keys = 1, not shown" in service.said
            assert "max_requests = 3" in service.said
        said = "\n".join(service.said)
        assert "from-the-environment" not in said
        assert "in-the-file" not in said
        assert "Traceback" not in said

    def test_a_taken_port_is_said_in_a_line(self, capsys):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert main(["serve", "--port", str(port)]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"bpr serve: cannot use 127.0.0.1:{port}: ")


def test_masks_do_not_depend_on_who_else_is_served(predictor):
    """Eight clients at once, many batches shared: each answer is the library's."""
    scenes = [Scene(seed) for seed in range(8)]
    with running(predictor, batch_size=7) as service, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda scene: post(service, scene), scenes * 3))
    for scene, answer in zip(scenes * 3, answers, strict=True):
        size = scene.image.shape[:2]
        for got, want in zip(codes(answer), expected_codes(scene, predictor), strict=True):
            np.testing.assert_array_equal(
                rle.decode(got, size).to_array(), rle.decode(want, size).to_array()
            )
