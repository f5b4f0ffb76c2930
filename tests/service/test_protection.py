"""What the service refuses, with which status, and in which words."""

from __future__ import annotations

import gc
import io
import json
import re
import socket
import struct
import sys
import time
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.formats import rle
from bpr.pipeline.formats.images import encode_png
from tests.service.services import connected, request_bytes, running, until


def as_json(value):
    return ("instances", ("i.json", json.dumps(value).encode(), "application/json"))


def png_of_size(width, height):
    """A PNG whose header claims a size, with hardly any data."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def problem(answer, status):
    """The words of a problem; everything else about it is as it should be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    content = answer.json()
    assert content["status"] == status
    assert content["request_id"] == answer.headers["x-request-id"]
    for leak in ("Traceback", 'File "', "/usr", "/work", ".py", "site-packages", "0x"):
        assert leak not in answer.text
    return content["detail"]


NESTED = b"[" * 5000 + b"]" * 5000
SIZE = [60, 80]
SMALL_RLE = {"size": SIZE, "counts": [10, 5, 60 * 80 - 15]}

REFUSED = [
    # parts
    (lambda s: [s.image_part], 400, "exactly one of masks, instance_map, instances, got none"),
    (lambda s: s.mask_parts[1:], 400, "image: expected one file, got 0"),
    (lambda s: [*s.mask_parts, s.image_part], 400, "image: expected one file, got 2"),
    (lambda s: [*s.mask_parts, s.map_parts[1]], 400, "got masks and instance_map"),
    (lambda s: [*s.mask_parts, ("mask", ("x", b""))], 400, "got 'mask'"),
    (lambda s: [*s.map_parts, s.map_parts[1]], 400, "instance_map: expected one file, got 2"),
    # types
    (lambda s: [("image", ("a.png", b"GIF89")), *s.mask_parts[1:]], 415, "image (a.png): expected"),
    (lambda s: [("image", ("a.png", b"")), *s.mask_parts[1:]], 415, "a PNG or JPEG or WebP file"),
    (lambda s: [("image", ("a.png", picture("GIF"))), *s.mask_parts[1:]], 415, "got GIF"),
    (lambda s: [("image", ("a.png", picture("TIFF"))), *s.mask_parts[1:]], 415, "got TIFF"),
    (lambda s: [s.image_part, ("masks", ("m.png", picture("JPEG")))], 415, "masks[0] (m.png): "),
    (lambda s: [s.image_part, ("instance_map", ("m", picture("WEBP")))], 415, "got WEBP"),
    # sizes
    (
        lambda s: [("image", ("a", png_of_size(30000, 30000))), s.mask_parts[1]],
        413,
        "30000 x 30000",
    ),
    (lambda s: [("image", ("a", png_of_size(9000, 9000))), s.mask_parts[1]], 413, "81000000"),
    (lambda s: [s.image_part, ("masks", ("m", png_of_size(9000, 9000)))], 413, "masks[0] (m): "),
    (lambda s: [s.image_part, *[("masks", ("m", png_of_size(6000, 6000)))] * 8], 413, "of all"),
    (lambda s: [s.image_part, *[s.mask_parts[1]] * 1001], 413, "1000 in a request, got 1001"),
    (lambda s: [s.image_part, *[s.mask_parts[1]] * 1010], 413, "at most 1002 parts"),
    (lambda s: [s.image_part, as_json([{}] * 1001)], 413, "at most 1000 in a request, got 1001"),
    (lambda s: [s.image_part, as_json([[0] * 5_000_000])], 413, "instances: expected at most"),
    (lambda s: [s.image_part, ("instances", ("i", b"[" + b"[]," * 2_700_000))], 413, "objects and"),
    (lambda s: [s.image_part, ("instances", ("i", b"[" + b"1," * 4_000_000))], 413, "values, got"),
    (lambda s: [s.image_part, as_json([{"note": "x" * 3_000_000}])], 413, "which the answer repea"),
    (lambda s: [s.image_part, ("instances", (None, "[" + " " * 2**24 + "]"))], 413, "bytes, got"),
    # content
    (lambda s: [("image", ("a", s.image_part[1][1][:200])), s.mask_parts[1]], 422, "image (a): "),
    (lambda s: [s.image_part, ("masks", ("m", small_mask()))], 422, "80 x 60 pixels, got 30 x 20"),
    (lambda s: [s.image_part, ("instance_map", ("m", small_mask()))], 422, "80 x 60 pixels, got"),
    (lambda s: [s.image_part, ("instance_map", ("m", s.image_part[1][1]))], 422, "one channel"),
    (lambda s: [s.image_part, ("instances", ("i", b"[{"))], 400, "instances: expected json"),
    (lambda s: [s.image_part, ("instances", ("i", b"[NaN]"))], 400, "instances: expected json"),
    (lambda s: [s.image_part, ("instances", ("i", NESTED))], 400, "recursion limit"),
    (lambda s: [s.image_part, ("instances", ("i", b"\xff\xfe"))], 400, "instances: expected json"),
    (lambda s: [s.image_part, as_json({"annotations": []})], 422, "expected a json list"),
    (lambda s: [s.image_part, as_json([1])], 422, "entry 0: expected an object"),
    (lambda s: [s.image_part, as_json([{}])], 422, "entry 0: segmentation: expected RLE or"),
    (lambda s: [s.image_part, as_json(two_images())], 422, "instances of one image"),
    (lambda s: [s.image_part, as_json([{"segmentation": SMALL_RLE, "score": "x"}])], 422, "score"),
    (lambda s: [s.image_part, ("instances", ("i", b'[{"x": 1e999}]'))], 422, "finite numbers"),
    # RLE that lies
    (lambda s: rle_part(s, size=[60, 81]), 422, "expected RLE size [60, 80], got [60, 81]"),
    (lambda s: rle_part(s, size=[10**9, 10**9]), 422, "expected RLE size"),
    (lambda s: rle_part(s, counts=[10, 5]), 422, "add up to 60 x 80 = 4800 pixels, got 15"),
    (lambda s: rle_part(s, counts=[2**63, 2**63, 4800]), 422, "add up to"),
    (lambda s: rle_part(s, counts=[-5, 4805]), 422, "counts >= 0"),
    (lambda s: rle_part(s, counts="o" * 30), 422, "expected a compressed RLE"),
    (lambda s: rle_part(s, counts="PPPPPPP0"), 422, "segmentation: expected"),
    (lambda s: rle_part(s, counts={"a": 1}), 422, "expected RLE counts"),
    # polygons
    (lambda s: polygon_part(s, [[1, 2, 3, 4]]), 422, "at least 3 points"),
    (lambda s: polygon_part(s, [[1e308, 0, 1, 1, 0, 1]]), 422, "near the image"),
    (lambda s: polygon_part(s, [[0, 0, 1e3, 1e3, 0, 1e3] * 500]), 422, "outlines of at most"),
    (lambda s: polygon_part(s, [["a"] * 6]), 422, "near the image"),
]  # fmt: skip


def picture(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (80, 60)).save(buffer, kind)
    return buffer.getvalue()


def small_mask():
    return encode_png(np.eye(20, 30, dtype=np.uint8))


def two_images():
    return [{"image_id": k, "segmentation": SMALL_RLE} for k in (1, 2)]


def rle_part(scene, **changes):
    return [scene.image_part, as_json([{"segmentation": {**SMALL_RLE, **changes}}])]


def polygon_part(scene, polygons):
    return [scene.image_part, as_json([{"segmentation": polygons}])]


@pytest.mark.parametrize(("parts", "status", "words"), REFUSED)
def test_what_cannot_be_done_is_refused_in_words(service, scene, parts, status, words):
    assert words in problem(service.refine(parts(scene)), status)


def test_other_bodies_than_multipart_are_refused(service):
    assert "expected multipart/form-data, got application/json" in problem(
        service.client.post("/refine", json={}), 415
    )
    assert "got no type" in problem(service.client.post("/refine"), 415)
    headers = {"content-type": "multipart/form-data"}
    assert "oundary" in problem(service.client.post("/refine", content=b"x", headers=headers), 400)


def test_a_body_without_its_end_is_no_body_with_less_in_it(service, scene):
    """The last mask must not be lost because a proxy cut the body."""
    request = httpx.Request("POST", service.url + "/refine", files=scene.mask_parts)
    whole = request.read()
    for cut in (1, 2, 4, 40, len(scene.mask_parts[-1][1][1])):
        answer = service.client.post(
            "/refine",
            content=whole[:-cut],
            headers={"content-type": request.headers["content-type"]},
        )
        if cut > 2:  # else only the line's end is missing
            assert "end mark" in problem(answer, 400)


def test_unknown_addresses_and_methods_are_problems(service):
    assert "nothing at this address" in problem(service.client.get("/nothing"), 404)
    assert "another method" in problem(service.client.get("/refine"), 405)
    # not a redirection, which would lead to whatever host the request names
    answer = service.client.post("/refine/", headers={"Host": "evil.example"})
    assert "nothing at this address" in problem(answer, 404)
    assert "location" not in answer.headers


@pytest.mark.parametrize("path", ["/refine%0A", "/refine%0D", "/refine%00", "/refine%0a?details=1"])
def test_a_path_that_ends_in_a_line_break_does_not_pass_by_the_gate(predictor, scene, path):
    """Routes match it: `$` in a pattern stands before a last line break too."""
    with running(predictor, api_keys="sesame") as service:
        answer = service.client.post(path, files=scene.mask_parts)
        assert "nothing at this address" in problem(answer, 404)


def test_a_wrong_option_is_a_problem(service, scene):
    answer = service.refine(scene.mask_parts, params={"details": "perhaps"})
    assert "details: " in problem(answer, 422)


def test_a_bomb_is_refused_before_it_is_decoded(service, scene):
    """9000 x 9000 noise-free pixels: 240 KB that decode to 243 MB."""
    buffer = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(buffer, "PNG", compress_level=9)
    service.refine(scene.mask_parts)
    resource = pytest.importorskip("resource", reason="needs the memory figures of POSIX")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes; kilobytes elsewhere
    before = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    parts = [("image", ("a.png", buffer.getvalue())), *[scene.mask_parts[1]] * 3]
    assert "9000 x 9000" in problem(service.refine(parts), 413)
    assert time.perf_counter() - started < 5
    grown = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 * 2**20


def test_nothing_of_a_request_stays_after_its_connection(service, scene):
    """Not even until the next garbage collection."""

    def held():
        found = (item for item in gc.get_objects() if type(item) is dict)
        return sum(item.get("mark") == "of this test" for item in found)

    records = [{**scene.records[0], "mark": "of this test"}]
    content = request_bytes([scene.image_part, as_json(records)])
    del records
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            with connected(service) as connection:
                connection.sendall(content)
                assert connection.recv(12) == b"HTTP/1.1 200"
        until(lambda: held() == 0)
    finally:
        gc.enable()


def test_names_from_outside_cannot_break_the_answer(service, scene):
    name = 'a\udc80"\\\x00\x1b[31m' + "x" * 500
    body, boundary = b"", b"frontier"
    for part, content in (("image", b"no image"), ("masks", b"none")):
        body += (
            b"--" + boundary + b'\r\nContent-Disposition: form-data; name="' + part.encode()
            + b'"; filename="' + name.encode("utf-8", "surrogateescape").replace(b'"', b"%22")
            + b'"\r\n\r\n' + content + b"\r\n"
        )  # fmt: skip
    answer = service.client.post(
        "/refine",
        content=body + b"--frontier--\r\n",
        headers={"content-type": "multipart/form-data; boundary=frontier"},
    )
    detail = problem(answer, 415)
    assert len(detail) < 200
    assert "\x1b" not in detail


@pytest.fixture(scope="module")
def locked(predictor):
    with running(predictor, api_keys="first-key, sécond") as service:
        yield service


@pytest.fixture(scope="module")
def small(predictor):
    with running(predictor, max_body_bytes=100_000, upload_timeout_s=1.0) as service:
        yield service


class TestSafeHeaders:
    @pytest.mark.parametrize("path", ["/", "/healthz", "/nothing", "/docs", "/openapi.json"])
    def test_every_answer_has_them(self, service, path):
        headers = service.client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; img-src 'self' blob: data:;")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers

    def test_other_sites_pages_may_call_only_where_that_is_set(self, service, predictor):
        ask = {"origin": "https://a.example", "access-control-request-method": "POST"}
        denied = service.client.options("/refine", headers=ask)
        assert "access-control-allow-origin" not in denied.headers
        with running(predictor, cors_origins="https://a.example") as opened:
            allowed = opened.client.options("/refine", headers=ask)
            assert allowed.headers["access-control-allow-origin"] == "https://a.example"
            other = {**ask, "origin": "https://b.example"}
            denied = opened.client.options("/refine", headers=other)
            assert "access-control-allow-origin" not in denied.headers
            assert "Origin: expected one of cors_origins" in problem(denied, 400)

    def test_a_request_id_is_kept_if_it_is_harmless(self, service):
        for given, kept in (("job-7_a.b", True), ("a b", False), ("x" * 65, False)):
            answer = service.client.get("/healthz", headers={"X-Request-ID": given})
            assert (answer.headers["x-request-id"] == given) is kept
            assert answer.headers["x-request-id"]


class TestKeys:
    @pytest.mark.parametrize(
        "headers",
        [
            {"X-API-Key": "first-key"},
            {"X-API-Key": "sécond".encode()},
            {"Authorization": "Bearer first-key"},
            {"Authorization": "bearer  first-key"},
        ],
    )
    def test_a_key_opens(self, locked, scene, headers):
        answer = locked.client.post("/refine", files=scene.mask_parts, headers=headers)
        assert answer.status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"X-API-Key": ""},
            {"X-API-Key": "first-ke"},
            {"X-API-Key": "first-key, sécond".encode()},
            {"Authorization": "Basic first-key"},
        ],
    )
    def test_nothing_else_does(self, locked, scene, headers):
        answer = locked.client.post("/refine", files=scene.mask_parts, headers=headers)
        assert "API key" in problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"

    def test_probes_need_none(self, locked):
        for path in ("/healthz", "/readyz", "/metrics", "/", "/openapi.json"):
            assert locked.client.get(path).status_code == 200


class TestTheBody:
    def test_an_announced_length_is_refused_unread(self, small, scene):
        parts = [*scene.mask_parts, ("masks", ("m", b"x" * 200_000))]
        assert "at most 100000 bytes" in problem(small.refine(parts), 413)

    def test_so_are_too_many_bytes_that_nobody_announced(self, small):
        def endless():
            yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
            for _ in range(50):
                yield b"x" * 10_000

        headers = {"content-type": "multipart/form-data; boundary=x"}
        answer = small.client.post("/refine", content=endless(), headers=headers)
        assert "at most 100000 bytes" in problem(answer, 413)

    def test_a_length_that_is_no_number_is_refused(self, small):
        said = talk(small, b"POST /refine HTTP/1.1\r\nHost: a\r\nContent-Length: lots\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 400")
        head, _, body = said.partition(b"\r\n\r\n")
        assert b"application/problem+json" in head
        assert json.loads(body)["status"] == 400

    @pytest.mark.parametrize("accept", ["*/*", "text/csv"])
    def test_a_body_that_is_no_http_is_answered_once(self, small, accept, caplog):
        """With text/csv the answer is there before the body goes wrong, or nearly so."""
        head = (
            f"POST /refine HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n"
            "Transfer-Encoding: chunked\r\n\r\n5\r\n--x\r\n\r\n"
        )
        said = talk(small, head.encode() + b"zzz\r\nfoo")
        assert re.findall(rb"HTTP/1.1 (\d+)", said) in ([b"400"], [b"406"])
        until = time.monotonic() + 10
        while small.metric("bpr_requests_in_process"):
            assert time.monotonic() < until
        assert "Traceback" not in caplog.text

    def test_a_slow_sender_is_told_so_and_gives_its_place_back(self, small):
        started = time.monotonic()
        said = talk(
            small,
            b"POST /refine HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n",
        )
        assert said.startswith(b"HTTP/1.1 408")
        # which limit is seen first depends on the machine
        assert re.search(rb"expected all of it within 1 s|expected at least 4096 bytes", said)
        assert 0.8 < time.monotonic() - started < 10
        while small.metric("bpr_requests_in_process"):  # else the time limit of the tests
            time.sleep(0.05)

    def test_a_client_that_does_not_finish_its_headers_is_cut_off(self, small):
        started = time.monotonic()
        assert talk(small, b"POST /refine HTTP/1.1\r\nHost:") == b""
        assert 0.8 < time.monotonic() - started < 10


def talk(service, words: bytes) -> bytes:
    """Send bytes as they are; everything that comes back until the connection ends."""
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.sendall(words)
        said = b""
        while piece := connection.recv(65536):
            said += piece
    return said


class TestPatches:
    def test_too_many_are_refused(self, predictor, scene):
        with running(predictor, max_patches=5) as service:
            assert "at most 5 patches" in problem(service.refine(scene.mask_parts), 413)

    def test_windows_count_as_mask_pixels(self, predictor, scene):
        whole = {"size": SIZE, "counts": [0, 4800]}
        with running(predictor, max_mask_pixels=10_000) as service:
            records = [{"segmentation": whole}] * 3
            assert "of all masks" in problem(
                service.refine([scene.image_part, as_json(records)]), 413
            )
            assert service.refine([scene.image_part, as_json(records[:2])]).status_code == 200
            tiny = [{"segmentation": rle.encode(mask)} for mask in scene.masks] * 3
            assert service.refine([scene.image_part, as_json(tiny)]).status_code == 200
