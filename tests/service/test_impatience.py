"""Clients that are slow on purpose: they lose their own requests and nobody else's."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from contextlib import ExitStack

import pytest

from tests.service.conftest import SIZE
from tests.service.services import connected, read_all, request_bytes, running, until

SLOW_HEAD = (
    b"POST /refine HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
)


def test_slow_senders_take_no_place_for_work_and_are_cut_off(predictor, scene):
    with running(predictor, max_requests=2) as service, ExitStack() as stack:
        slow = [stack.enter_context(connected(service)) for _ in range(16)]
        for connection in slow:
            connection.sendall(SLOW_HEAD)
        until(lambda: service.metric("bpr_uploads") == 16)
        assert service.refine(scene.mask_parts).status_code == 200
        begun = time.monotonic()
        said = [read_all(connection) for connection in slow]
        assert all(words.startswith(b"HTTP/1.1 408 ") for words in said)
        assert all(b"at least 4096 bytes a second" in words for words in said)
        assert time.monotonic() - begun < 20
        until(lambda: service.metric("bpr_uploads") == 0)


def test_one_address_cannot_take_all_places_for_uploads(predictor, scene):
    with running(predictor, max_client_requests=3) as service, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connected(service, "127.0.0.2")).sendall(SLOW_HEAD)
        until(lambda: service.metric("bpr_uploads") == 3)
        with connected(service, "127.0.0.2") as fourth:
            fourth.sendall(SLOW_HEAD.replace(b"Host: a", b"Host: a\r\nExpect: 100-continue"))
            words = read_all(fourth)
        assert words.startswith(b"HTTP/1.1 429 ")
        assert b"Your address has 3 requests" in words
        assert service.refine(scene.mask_parts).status_code == 200


def large_answer(scene):
    """A request that is answered with more than the kernel keeps for a client."""
    records = [{**scene.records[0], "note": "x" * 12_000_000}]
    return [scene.image_part, ("instances", ("a", json.dumps(records).encode()))]


def test_an_answer_that_is_not_read_is_cut_off(predictor, scene):
    settings = {"max_json_bytes": 2**26, "upload_timeout_s": 5}
    with running(predictor, **settings) as service, connected(service) as connection:
        connection.sendall(request_bytes(large_answer(scene)))
        until(lambda: service.metric('bpr_requests_total{route="/refine",status="499"}') == 1, 60)
        assert service.metric("bpr_requests_in_process") == 0
        assert 0 < len(read_all(connection)) < 12_000_000


def test_answers_that_are_not_read_take_no_place_for_work(predictor, scene):
    def answers():
        return service.metric('bpr_stage_seconds_count{stage="encode"}')

    with (
        running(predictor, max_json_bytes=2**26, max_requests=1) as service,
        connected(service) as first,
        connected(service) as second,
    ):
        for count, connection in ((1, first), (3, second)):  # there is one place for answers
            connection.sendall(request_bytes(large_answer(scene)))
            until(lambda count=count: answers() == count)
            assert service.refine(scene.mask_parts).status_code == 200
        assert len(read_all(first)) < 12_000_000


def test_a_slow_reader_that_goes_on_gets_its_answer(predictor, scene):
    with running(predictor, max_json_bytes=2**26) as service, connected(service) as connection:
        connection.sendall(
            request_bytes(large_answer(scene)).replace(
                b"Host: service", b"Host: service\r\nConnection: close"
            )
        )
        said = b""
        while piece := connection.recv(1_000_000):
            said += piece
            time.sleep(0.01)
        head, _, body = said.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert json.loads(body)["image"] == {"height": SIZE[0], "width": SIZE[1]}


@pytest.mark.parametrize("begin", [b"GET /healthz HTTP/1.1\r\nHo", b"G", b"\r\n"])
def test_slow_headers_of_a_second_request_are_cut_off(predictor, begin):
    with running(predictor, upload_timeout_s=1) as service, connected(service) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(begin)
        started = time.monotonic()
        dripping = threading.Event()

        def drip():
            while not dripping.wait(0.3):
                try:
                    connection.sendall(b"a")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        read_all(connection)
        assert time.monotonic() - started < 8
        dripping.set()
        thread.join()


def test_bodies_that_nobody_reads_are_cut_off_too(predictor):
    """GET /healthz is answered before its body, which then comes a byte at a time."""
    with running(predictor, upload_timeout_s=1) as service, connected(service) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n")
        started = time.monotonic()
        connection.settimeout(0.3)
        while True:
            try:
                if not connection.recv(65536):
                    break
            except TimeoutError:
                connection.sendall(b"a")
            except ConnectionError:
                break
            assert time.monotonic() - started < 10


def test_bodies_in_crumbs_are_refused_and_hold_nobody_up(predictor):
    """A chunk of one byte costs as much as one of 64 KB, and thousands come in one packet."""
    head = SLOW_HEAD.replace(b"Content-Length: 500000", b"Transfer-Encoding: chunked")
    head = head.replace(b"--x\r\n", b"5\r\n--x\r\n\r\n")
    with running(predictor) as service, connected(service) as connection:
        connection.sendall(head)
        until(lambda: service.metric("bpr_uploads") == 1)
        with contextlib.suppress(OSError):
            connection.sendall(b"1\r\na\r\n" * 200_000)
        started = time.monotonic()
        assert service.client.get("/healthz").status_code == 200
        assert time.monotonic() - started < 2
        until(lambda: service.metric("bpr_uploads") == 0)


def test_bodies_in_small_pieces_are_taken(predictor, scene):
    content = request_bytes(scene.mask_parts)
    head, _, body = content.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    pieces = [body[at : at + 40] for at in range(0, len(body), 40)]
    with running(predictor) as service, connected(service) as connection:
        connection.sendall(b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b"", b""]))
        connection.sendall(b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces))
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
