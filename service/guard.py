"""What stands before every route: request ids, headers, the gate, body limit, deadlines, log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bpr.service.gate import Allowance, Gate, Place
from bpr.service.inputs import Patience
from bpr.service.metrics import Metrics
from bpr.service.problems import NOTHING_HERE, Problem, problem_response, unavailable
from bpr.service.settings import ServiceSettings
from bpr.service.tracing import Tracing

logger = logging.getLogger("bpr.service.requests")

CLIENT_LEFT = 499  # as nginx counts answers that nobody waits for
_LINGER_S = 2.0  # reading what a refused client still sends, so that it sees the answer
_WINDOW_S = 5.0  # in each, a body must grow by its share of `min_upload_bytes_per_s`
_PIECE = 65536  # bytes of an answer that are handed over at a time
CONNECTION = "bpr.connection"  # in a scope's extensions, where our own server runs the app
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SAFE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """ASGI middleware around the app.

    Args:
        app: what is guarded.
        settings: limits.
        gate: lets requests to the costly routes in.
        metrics: told of every answer.
        costly: what a POST to a path may take; None for paths that do not go through the gate.
        tracing: gets a span of every request to a costly path.
        running: filled with the requests that are past the gate, by request id.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServiceSettings,
        gate: Gate,
        metrics: Metrics,
        costly: Callable[[str], Allowance | None],
        tracing: Tracing,
        running: dict[str, Patience],
    ) -> None:
        self._app, self._settings, self._gate, self._metrics = app, settings, gate, metrics
        self._costly, self._tracing, self._running = costly, tracing, running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens in it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self._gate)
        allowance = self._costly(scope["path"]) if scope["method"] == "POST" else None
        if allowance is None:
            await self._answer(scope, receive, exchange, None)
            return
        with self._tracing.request(scope, allowance.route, exchange.request_id) as span:
            scope["state"]["trace_id"] = span.trace_id
            await self._answer(scope, receive, exchange, allowance)
            span.finish(exchange.status)

    async def _answer(
        self, scope: Scope, receive: Receive, exchange: _Exchange, allowance: Allowance | None
    ) -> None:
        try:
            if not scope["path"].isprintable():
                # routes match a path that ends in a line break; `costly` does not
                raise Problem(HTTPStatus.NOT_FOUND, NOTHING_HERE, "path")
            if allowance is not None:
                await self._run_costly(scope, receive, exchange, allowance)
            else:
                await self._app(scope, receive, exchange.send)
        except Problem as problem:
            await exchange.refuse(problem)
        except (ClientDisconnect, _ClientLeft):
            exchange.status = CLIENT_LEFT
        except MemoryError:
            await exchange.refuse(unavailable("There is not enough memory just now.", "memory"))
        except Exception:
            logger.exception("a request failed", extra={"request_id": exchange.request_id})
            await exchange.refuse(
                Problem(
                    HTTPStatus.INTERNAL_SERVER_ERROR,
                    "The service has an error. Please report the request_id to its operator.",
                    "error",
                )
            )
        finally:
            self._record(scope, exchange)

    async def _run_costly(
        self, scope: Scope, receive: Receive, exchange: _Exchange, allowance: Allowance
    ) -> None:
        with contextlib.ExitStack() as stack:
            headers = Headers(scope=scope)
            try:
                place = stack.enter_context(self._gate.enter(headers, address_of(scope), allowance))
            except Problem:
                if "expect" not in headers:  # with it, the client waits for a word first
                    await _discard(receive)
                raise
            exchange.place = place
            patience = Patience(allowance.timeout_s)
            scope["state"].update(patience=patience, client=place.client, key=place.key_name)
            self._running[exchange.request_id] = patience
            stack.callback(self._running.pop, exchange.request_id, None)
            body = _Body(receive, place, self._settings, allowance)
            await self._run_while_wanted(scope, body, exchange, patience)

    async def _run_while_wanted(
        self, scope: Scope, body: _Body, exchange: _Exchange, patience: Patience
    ) -> None:
        """Run the app until it is done, its client is gone, or its time is up."""
        work = asyncio.ensure_future(self._app(scope, body.receive, exchange.send))
        watch = asyncio.ensure_future(body.wait_for_disconnect())
        try:
            await asyncio.wait(
                {work, watch},
                timeout=patience.remaining_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if work.done():
                work.result()
            elif watch.done():
                raise _ClientLeft
            elif exchange.has_begun:
                exchange.abort()
                raise _ClientLeft
            else:
                raise patience.problem()
        finally:
            for task in (work, watch):
                task.cancel()
            # threads that work for the request end before its place is given to another
            await asyncio.gather(work, watch, return_exceptions=True)

    def _record(self, scope: Scope, exchange: _Exchange) -> None:
        seconds = time.perf_counter() - exchange.started
        allowance = self._costly(scope["path"])
        is_costly = allowance is not None
        if allowance is not None:
            route = allowance.route
        else:
            route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, str(exchange.status)).inc()
        self._metrics.latency.labels(route).observe(seconds)
        state = scope["state"]
        reason = "client_left" if exchange.status == CLIENT_LEFT else state.get("reason")
        if state.get("key"):
            self._metrics.client_requests.labels(state["key"], str(exchange.status)).inc()
        if reason and is_costly:
            self._metrics.rejections.labels(reason).inc()
        level = logging.INFO if is_costly else logging.DEBUG
        logger.log(
            level,
            "request",
            extra={
                "request_id": exchange.request_id,
                "client": address_of(scope),
                **{name: state[name] for name in ("key", "trace_id") if state.get(name)},
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": exchange.status,
                "seconds": round(seconds, 4),
                **({"reason": reason} if reason else {}),
                **state.get("log", {}),
            },
        )


class _ClientLeft(Exception):
    """Nobody waits for the answer."""


class _Exchange:
    """One request's answer on its way out."""

    def __init__(self, scope: Scope, send: Send, gate: Gate) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex[:16]
        self.started = time.perf_counter()
        self.status = CLIENT_LEFT  # until something was sent
        self._scope, self._send, self._gate = scope, send, gate
        self._connection = scope.get("extensions", {}).get(CONNECTION)
        self.place: Place | None = None  # of a request that went through the gate
        self._has_begun = False
        # of this request alone: what the server keeps there is shared by all
        scope["state"] = {**scope.get("state", {}), "request_id": self.request_id}

    @property
    def has_begun(self) -> bool:
        """Whether the answer's head was sent."""
        return self._has_begun

    async def send(self, message: Message) -> None:
        """Pass an answer on, with the headers that all answers have.

        It goes out in pieces, and each piece waits until the client has taken the one before.
        """
        if message["type"] == "http.response.start":
            self._has_begun = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.request_id
            if self._gate.model is not None:
                headers["X-Model-Name"] = quote(self._gate.model.name)
                headers["X-Model-Version"] = self._gate.model.version
            for name, value in _SAFE_HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
            if self._gate.status == "draining":
                headers["Connection"] = "close"
            if self.place is not None:
                self.place.begin_answer(self.abort)
        elif message["type"] == "http.response.body":
            body = memoryview(message.get("body", b""))
            while len(body) > _PIECE:
                piece = {**message, "body": bytes(body[:_PIECE]), "more_body": True}
                await self._send(piece)
                body = body[_PIECE:]
            message = {**message, "body": bytes(body)}
        await self._send(message)
        if self._connection is not None and self._connection.is_lost:
            self.status = CLIENT_LEFT

    def abort(self) -> None:
        """Cut the connection. Behind a proxy of Ray there is none to cut."""
        if self._connection is not None:
            self._connection.abort()

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem, unless an answer has begun."""
        self._scope["state"]["reason"] = problem.reason
        if self._has_begun:
            return
        # the rest of the body is not read, so the connection cannot be used again
        headers: Mapping[str, str] = {**(problem.headers or {}), "Connection": "close"}
        response = problem_response(problem.status_code, problem.detail, self._scope, headers)
        await response(self._scope, _nothing, self.send)


class _Body:
    """The body of a request as it comes in: not too large, not too slow."""

    def __init__(
        self, receive: Receive, place: Place, settings: ServiceSettings, allowance: Allowance
    ) -> None:
        self._receive, self._place = receive, place
        self._timeout_s = allowance.upload_timeout_s
        self._window = settings.min_upload_bytes_per_s * _WINDOW_S  # bytes
        self._deadline = time.monotonic() + self._timeout_s
        self._window_ends = time.monotonic() + _WINDOW_S
        self._in_window = 0
        self._is_complete = asyncio.Event()

    async def receive(self) -> Message:
        """The next piece. With the last one, the request takes its place for work.

        Raises:
            Problem: 413 too many bytes, whatever Content-Length said; 408 too slow; 429 no place.
        """
        if self._is_complete.is_set():
            await asyncio.Event().wait()  # `wait_for_disconnect` ends the request
        until = min(self._deadline, self._window_ends)
        try:
            message = await asyncio.wait_for(self._receive(), max(until - time.monotonic(), 0))
        except asyncio.TimeoutError:
            raise self._too_slow() from None
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            try:
                self._place.receive(size)
            except Problem:
                await _discard(self._receive)
                raise
            self._in_window += size
            if self._in_window >= self._window:
                self._in_window, self._window_ends = 0, time.monotonic() + _WINDOW_S
            if not message.get("more_body", False):
                self._place.begin_work()
                self._is_complete.set()
        return message

    def _too_slow(self) -> Problem:
        if time.monotonic() >= self._deadline:
            words = f"all of it within {self._timeout_s:g} s, got a part"
        else:
            words = f"at least {self._window / _WINDOW_S:g} bytes a second, got fewer"
        return Problem(
            HTTPStatus.REQUEST_TIMEOUT,
            f"body: expected {words}",
            "slow_upload",
            {"Connection": "close"},
        )

    async def wait_for_disconnect(self) -> None:
        """Return when the client has left after it sent everything."""
        await self._is_complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


def address_of(scope: Scope) -> str:
    """Address of the client; of what a proxy on this machine says in X-Forwarded-For."""
    client = scope.get("client")
    return str(client[0])[:64] if client else ""


async def _discard(receive: Receive) -> None:
    """Read what a client still sends: one whose upload is reset never reads the response."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_read_to_end(receive), _LINGER_S)


async def _read_to_end(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return


async def _nothing() -> MutableMapping[str, Any]:
    raise AssertionError("a finished answer reads no body")
