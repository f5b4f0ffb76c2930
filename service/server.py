"""uvicorn, with an end in good order: SIGTERM lets requests in the process finish first."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from bpr.service.gate import Gate
from bpr.service.guard import CONNECTION
from bpr.service.problems import problem_response
from bpr.service.settings import ServiceSettings

logger = logging.getLogger(__name__)

# before the end: a client that just got its answer may send another request
_QUIET_TICKS = 5  # of a tenth of a second
_LAST_WORD_S = 1.0  # for a client that has connected and not yet asked
_LAST_BYTES_S = 5  # for connections to end after the drain
_FREE_PIECES, _CRUMB_BYTES = 500, 32  # beyond so many, pieces of bodies are larger on average
_UNREAD_S = 10.0  # for a client to take what was sent to it, a piece of an answer at a time


class DrainingServer(uvicorn.Server):
    """Refuses new requests from the first SIGTERM or SIGINT on, in words, and ends when it is idle.

    uvicorn alone would close its sockets at once: a client could not tell a service that
    restarts from one that is gone. A second signal ends it without waiting.

    Args:
        app: of `create_app`.
        settings: limits in time.
    """

    def __init__(self, app: FastAPI, settings: ServiceSettings) -> None:
        config = uvicorn.Config(
            app,
            http=_impatient(settings.upload_timeout_s),
            ws="none",
            lifespan="on",
            access_log=False,  # the guard writes it
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=_LAST_BYTES_S,  # the drain came before
        )
        super().__init__(config)
        self._gate: Gate = app.state.gate
        self._timeout_s = settings.drain_timeout_s
        self._drain_until: float | None = None
        self._quiet_ticks = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin to drain; give up at the second signal."""
        if self._drain_until is not None:
            self.should_exit = self.force_exit = True
            return
        self._drain_until = time.monotonic() + self._timeout_s
        self._gate.drain()

    async def on_tick(self, counter: int) -> bool:
        """End when nothing is left to do. Called ten times a second."""
        if self._drain_until is not None and not self.should_exit:
            is_late = time.monotonic() >= self._drain_until
            if is_late:
                logger.warning("ending with %d requests unfinished", self._gate.in_process)
            self._quiet_ticks = 0 if self._gate.in_process else self._quiet_ticks + 1
            self.should_exit = is_late or self._quiet_ticks > _QUIET_TICKS
        if self._gate.failure is not None:
            self.should_exit = True
        return await super().on_tick(counter)


def serve(app: FastAPI, listener: socket.socket, settings: ServiceSettings) -> None:
    """Run an app of `create_app` until SIGTERM or SIGINT.

    Raises:
        Exception: what loading the networks ended with.
    """
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    logger.info("listening", extra={"url": f"http://{shown}:{port}"})
    DrainingServer(app, settings).run([listener])
    loading = app.state.loading
    if loading is not None and not loading.done():
        # a thread is inside a library that loads weights: Python's own end would abort it
        logging.shutdown()
        os._exit(0)
    failure: Exception | None = app.state.gate.failure
    if failure is not None:
        raise failure


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address. uvicorn's own way ends the process where that fails.

    Raises:
        OSError: the port is taken or the address not ours; it names both.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        error.filename = f"{host}:{port}"
        raise


class _NoCrumbs(h11.Connection):
    """Refuses bodies in very small pieces: each costs as much as a large one, all at one time."""

    _pieces = 0
    _bytes = 0

    def next_event(self) -> Any:
        """The next event of what was received.

        Raises:
            h11.RemoteProtocolError: it is not HTTP, or a body of crumbs.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > _FREE_PIECES and self._bytes < _CRUMB_BYTES * self._pieces:
                raise h11.RemoteProtocolError("a body in very small pieces")
        return event


class Connection:
    """What the guard needs of the connection of a request."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    @property
    def is_lost(self) -> bool:
        """Whether it ended before the whole answer was handed over."""
        return self._cycle.disconnected

    def abort(self) -> None:
        """Cut it. Bytes that are not sent are dropped."""
        self._cycle.transport.abort()


def _impatient(timeout_s: float) -> type[H11Protocol]:
    """HTTP that hangs up on clients that stop in mid-request, or do not take their answers.

    The headers of every request must come within `timeout_s`, not only those of the first. What
    was written must be taken within _UNREAD_S (or `timeout_s`, if that is shorter); the guard
    writes answers in pieces. At the end of the service a client that has only just connected is
    still told so.
    """

    class ImpatientProtocol(H11Protocol):
        _headers_timer: asyncio.TimerHandle | None = None
        _unread_timer: asyncio.TimerHandle | None = None
        _known: RequestResponseCycle | None = None  # the cycle whose scope has its connection

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.conn = _NoCrumbs(h11.SERVER)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=0)  # `pause_writing` when anything is unsent
            self._watch_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_headers_timer()
            self._stop_unread_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch_headers()

        def handle_events(self) -> None:
            super().handle_events()
            if self.cycle is not None and self.cycle is not self._known:
                self._known = self.cycle
                extensions: dict[str, Any] = {CONNECTION: Connection(self.cycle)}
                self.cycle.scope["extensions"] = extensions

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._unread_timer is None:
                seconds = min(timeout_s, _UNREAD_S)
                self._unread_timer = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_unread_timer()

        def shutdown(self) -> None:
            """Called for each connection when the service ends."""
            if self.cycle is None:
                self.loop.call_later(_LAST_WORD_S, self._hang_up_if_silent)
            else:
                super().shutdown()

        def send_400_response(self, msg: str) -> None:
            """Answer bytes that are no HTTP; uvicorn would do so on top of an answer too."""
            cycle = self.cycle
            if cycle is not None and not cycle.response_complete:
                # as for a client that has left: the app must not answer any more
                cycle.disconnected = True
                cycle.message_event.set()
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self._send_problem(msg)
            self.transport.close()

        def _send_problem(self, msg: str) -> None:
            scope: Scope = {"state": {"request_id": uuid.uuid4().hex[:16]}}
            detail = f"{msg} Expected HTTP/1.1."
            response = problem_response(400, detail, scope, {"Connection": "close"})
            head = h11.Response(
                status_code=400, headers=response.raw_headers, reason=b"Bad Request"
            )
            for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))

        def _watch_headers(self) -> None:
            """Start the time for a request's headers, or stop it when they are there."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_headers_timer()
            elif self._headers_timer is None:
                self._headers_timer = self.loop.call_later(timeout_s, self._hang_up_if_silent)

        def _hang_up_if_silent(self) -> None:
            is_idle = self.cycle is None or self.cycle.response_complete
            if is_idle and not self.transport.is_closing():
                self.transport.close()

        def _stop_headers_timer(self) -> None:
            if self._headers_timer is not None:
                self._headers_timer.cancel()
            self._headers_timer = None

        def _stop_unread_timer(self) -> None:
            if self._unread_timer is not None:
                self._unread_timer.cancel()
            self._unread_timer = None

    return ImpatientProtocol
