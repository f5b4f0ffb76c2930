"""Spans of requests and their stages, read from OpenTelemetry's own exporter."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.service.services import bpr_serve, running, until

sdk = pytest.importorskip("opentelemetry.sdk.trace")
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # noqa: E402
    InMemorySpanExporter,
)

from bpr.service.tracing import OpenTelemetry  # noqa: E402

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def traced(predictor, detector, exporter):
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with running(predictor, detector=detector, tracing=OpenTelemetry(provider)) as service:
        yield service


def spans(exporter, count):
    until(lambda: len(exporter.get_finished_spans()) >= count)
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_continues_its_callers_trace_stage_by_stage(traced, scene, exporter):
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    answer = traced.client.post("/refine", files=scene.mask_parts, headers=headers)
    found = spans(exporter, 7)
    assert set(found) == {
        "POST /refine", "receive", "read", "plan", "network", "merge", "encode",
    }  # fmt: skip
    root = found.pop("POST /refine")
    assert f"{root.parent.span_id:016x}" == PARENT
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["bpr.request_id"] == answer.headers["x-request-id"]
    for span in found.values():
        assert f"{span.context.trace_id:032x}" == TRACE
        assert span.parent.span_id == root.context.span_id
        assert root.start_time <= span.start_time <= span.end_time <= root.end_time
    assert found["network"].attributes["bpr.patches"] == answer.json()["patches"]
    order = sorted(found.values(), key=lambda span: span.start_time)
    assert [span.name for span in order] == [
        "receive",
        "read",
        "plan",
        "network",
        "merge",
        "encode",
    ]


def test_requests_at_the_same_time_are_not_mixed_up(traced, scene, exporter):
    def send(number):
        headers = {"traceparent": f"00-{number:032x}-{PARENT}-01"}
        traced.client.post("/refine", files=scene.mask_parts, headers=headers)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans(exporter, 28)
    for number in range(1, 5):
        own = [s for s in exporter.get_finished_spans() if s.context.trace_id == number]
        assert len(own) == 7


def test_a_detector_is_a_stage_and_refusals_are_traced(traced, scene, exporter):
    traced.client.post("/segment", files=[scene.image_part])
    assert "detect" in spans(exporter, 8)
    exporter.clear()
    traced.client.post("/refine", files=[scene.image_part])
    refused = spans(exporter, 2)["POST /refine"]
    assert refused.attributes["http.response.status_code"] == 400
    assert refused.parent is None
    exporter.clear()
    for path in ("/healthz", "/metrics", "/"):
        traced.client.get(path)
    assert exporter.get_finished_spans() == ()


def test_a_traceparent_that_is_none_begins_a_trace(traced, scene, exporter):
    headers = {"traceparent": b"00-zz-\xff-1", "tracestate": b"a" * 5000}
    assert traced.client.post("/refine", files=scene.mask_parts, headers=headers).status_code == 200
    assert spans(exporter, 7)["POST /refine"].parent is None


def test_bpr_serve_sends_them_to_a_collector(weights, scene):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    got = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever).start()
        options = ["--weights", str(weights), "--backend", "torch",
                   "--otel-endpoint", f"http://127.0.0.1:{server.server_port}"]  # fmt: skip
        with bpr_serve(*options) as service:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            service.client.post("/refine", files=scene.mask_parts, headers=headers)
            until(lambda: any(line["message"] == "request" for line in service.logged()))
            (line,) = (line for line in service.logged() if line["message"] == "request")
            assert line["trace_id"] == TRACE
        server.shutdown()
    assert {path for path, _ in got} == {"/v1/traces"}
    assert any(b"POST /refine" in body and bytes.fromhex(TRACE) in body for _, body in got)
