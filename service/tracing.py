"""Traces: a span for each costly request and for each of its stages.

Their context is W3C's `traceparent`, so that the spans of a caller and ours are one trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

from starlette.datastructures import Headers
from starlette.types import Scope

from bpr import __version__
from bpr._extras import needs_extra
from bpr.service.settings import ServiceSettings

if TYPE_CHECKING:  # an extra
    from opentelemetry.sdk.trace import TracerProvider

_SERVICE = "bpr"
_PROPAGATED = ("traceparent", "tracestate")


class RequestSpan:
    """The span of a request, for whoever does not know OpenTelemetry. This one is of none."""

    trace_id: str | None = None  # 32 hexadecimal digits

    def finish(self, status: int) -> None:
        """Note the status of the answer."""


class Tracing(Protocol):
    """Where spans go."""

    def request(
        self, scope: Scope, route: str, request_id: str
    ) -> AbstractContextManager[RequestSpan]:
        """The span of a request; spans of stages that begin inside are its children."""

    def stage(self, name: str, **attributes: int) -> AbstractContextManager[None]:
        """The span of a stage of the request that is at work."""

    def close(self) -> None:
        """Send what is not sent."""


class NoTracing:
    """Spans go nowhere."""

    def request(
        self,
        scope: Scope,  # noqa: ARG002
        route: str,  # noqa: ARG002
        request_id: str,  # noqa: ARG002
    ) -> AbstractContextManager[RequestSpan]:
        """No span."""
        return nullcontext(RequestSpan())

    def stage(self, name: str, **attributes: int) -> AbstractContextManager[None]:  # noqa: ARG002
        """No span."""
        return nullcontext()

    def close(self) -> None:
        """Nothing is to be sent."""


class OpenTelemetry:
    """Spans go to a provider of OpenTelemetry's SDK.

    Args:
        provider: has the exporter; it is shut down by `close`.

    Raises:
        ValueError: OpenTelemetry is not installed.
    """

    def __init__(self, provider: TracerProvider) -> None:
        with needs_extra("otel_endpoint"):
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        self._provider, self._trace = provider, trace
        self._tracer = provider.get_tracer(_SERVICE, __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, scope: Scope, route: str, request_id: str) -> Iterator[RequestSpan]:
        """The span of a request, a child of the caller's span where `traceparent` names one."""
        headers = Headers(scope=scope)
        carrier = {name: headers[name] for name in _PROPAGATED if name in headers}
        attributes = {
            "http.request.method": scope["method"],
            "http.route": route,
            "bpr.request_id": request_id,
        }
        with self._tracer.start_as_current_span(
            f"{scope['method']} {route}",
            self._propagator.extract(carrier),
            self._trace.SpanKind.SERVER,
            attributes,
        ) as span:
            trace_id = self._trace.format_trace_id(span.get_span_context().trace_id)
            failed = self._trace.Status(self._trace.StatusCode.ERROR)

            class Ours(RequestSpan):
                def finish(self, status: int) -> None:
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_status(failed)

            ours = Ours()
            ours.trace_id = trace_id
            yield ours

    @contextmanager
    def stage(self, name: str, **attributes: int) -> Iterator[None]:
        """The span of a stage."""
        named = {f"bpr.{key}": value for key, value in attributes.items()}
        with self._tracer.start_as_current_span(name, attributes=named):
            yield

    def close(self) -> None:
        """Send what is not sent."""
        self._provider.shutdown()


def start_tracing(settings: ServiceSettings) -> Tracing:
    """Where the settings send spans.

    Raises:
        ValueError: OpenTelemetry is wanted and not installed.
    """
    if settings.otel_endpoint is None:
        return NoTracing()
    with needs_extra("otel_endpoint"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    resource = Resource.create({SERVICE_NAME: _SERVICE, SERVICE_VERSION: __version__})
    provider = TracerProvider(resource=resource)
    exporter = OTLPSpanExporter(f"{settings.otel_endpoint}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return OpenTelemetry(provider)
