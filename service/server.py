"""uvicorn, with an end in good order: SIGTERM lets requests in the process finish first."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from types import FrameType

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from bpr.service.gate import Gate
from bpr.service.settings import ServiceSettings

logger = logging.getLogger(__name__)

# the end waits for this long without work: who heard the last answer may be asking again
_QUIET_TICKS = 5  # of a tenth of a second
_LAST_WORD_S = 1.0  # for a client that has connected and not yet asked


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
            timeout_graceful_shutdown=max(int(settings.drain_timeout_s), 1),
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
        return await super().on_tick(counter)


def serve(app: FastAPI, listener: socket.socket, settings: ServiceSettings) -> None:
    """Run an app of `create_app` until SIGTERM or SIGINT."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    logger.info("listening", extra={"url": f"http://{shown}:{port}"})
    DrainingServer(app, settings).run([listener])


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


def _impatient(timeout_s: float) -> type[H11Protocol]:
    """HTTP that hangs up on a client which does not finish its first headers in time.

    At the end of the service a client that has only just connected is still told so.
    """

    class ImpatientProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.loop.call_later(timeout_s, self._hang_up_if_silent)

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
                super().send_400_response(msg)
            else:
                self.transport.close()

        def _hang_up_if_silent(self) -> None:
            if self.cycle is None and not self.transport.is_closing():
                self.transport.close()

    return ImpatientProtocol
