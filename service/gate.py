"""Who is let in: a bounded number of requests, none before the model is warm or while draining.

A request has one of three places in turn. While its body comes in it has a place for uploads, of
which there are many: a slow sender keeps nobody from working. Once the body is there, it has one
of the `max_requests` places for work. While its answer is sent it has a place for answers; where
these are all taken, the answer that has been sent for the longest time is cut off.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

from starlette.datastructures import Headers

from bpr.service.keys import Key, Keys
from bpr.service.problems import RETRY_AFTER_S, Problem, draining, too_large, unavailable
from bpr.service.schemas import Model
from bpr.service.settings import ServiceSettings

_MINUTE_S = 60.0
_MAX_WAIT_S = 30.0  # longest wait in Retry-After


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What a request to a costly address may take."""

    route: str  # as metrics name it
    max_bytes: int  # of the body
    upload_timeout_s: float  # for the body to come in
    timeout_s: float  # from the first byte to the answer
    is_on_disk: bool = False  # the body is written to disk as it comes: no memory, no work


def usual_allowance(settings: ServiceSettings, route: str) -> Allowance:
    """For a request whose body is held in memory and worked on at once."""
    return Allowance(
        route=route,
        max_bytes=settings.max_body_bytes,
        upload_timeout_s=settings.upload_timeout_s,
        timeout_s=settings.request_timeout_s,
    )


class Gate:
    """State of the service as its clients see it. Used by the event loop's thread only.

    Raises:
        ValueError: see `Keys`.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.keys = Keys(settings)
        self.status: Literal["loading", "ok", "draining"] = "loading"
        self.model: Model | None = None  # what answers, once it is loaded
        self.failure: Exception | None = None  # why the model could not be loaded
        self.uploads = 0  # requests whose body comes in
        self.working = 0  # requests whose body is there and whose answer is not
        self._backoff = _Backoff()
        self._answers: dict[Place, None] = {}  # the oldest first
        self._bytes = 0  # of all bodies
        self._of_client: Counter[str] = Counter()
        self._rates: dict[str, _Rate] = {}
        self._settings = settings

    @property
    def in_process(self) -> int:
        """Requests that were let in and are not finished."""
        return self.uploads + self.working + len(self._answers)

    def open(self) -> None:
        """The model is warm."""
        if self.status == "loading":
            self.status = "ok"

    def fail(self, error: Exception) -> None:
        """The model cannot be loaded: whoever runs the app ends with this error."""
        self.failure = error

    def drain(self) -> None:
        """Let nobody in any more."""
        self.status = "draining"

    def check_ready(self) -> None:
        """Problem (503) unless requests are taken."""
        if self.status == "loading":
            raise unavailable("The model is still loading. Try again in some seconds.", "loading")
        if self.status == "draining":
            raise draining()

    @contextmanager
    def enter(self, headers: Headers, address: str, allowance: Allowance) -> Iterator[Place]:
        """Let a request in, before its body is read, and out again.

        Args:
            headers: of the request.
            address: of the client, which counts as one client where there is no key.
            allowance: of the address that is asked.

        Raises:
            Problem: 401 no or a wrong key, 413 a body announced that is too large, 429 full or
                too much for one client, 503 not ready.
        """
        key = self.keys.check(headers)
        self.check_ready()
        limit = allowance.max_bytes
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > limit:
            raise body_too_large(limit)
        self._check_client(key, address)
        if not allowance.is_on_disk:
            self.check_work()
        if self.uploads >= self._settings.max_uploads:
            raise too_many("All places for uploads are taken.", "uploads")
        client = f"key {key.name}" if key else address
        place = Place(self, allowance, client, key.name if key else None)
        try:
            yield place
        finally:
            place.leave()

    def _check_client(self, key: Key | None, address: str) -> None:
        limit = self._settings.max_client_requests
        if key is None:
            if self._of_client[address] >= limit:
                raise too_many(
                    f"Your address has {limit} requests in the service already.", "client"
                )
            return
        limit = key.max_requests or limit
        if self._of_client[f"key {key.name}"] >= limit:
            raise too_many(f"Your key has {limit} requests in the service already.", "client")
        if key.requests_per_minute is not None:
            rate = self._rates.setdefault(key.name, _Rate())
            if wait_s := rate.take(key.requests_per_minute):
                raise too_many(
                    f"Your key may send {key.requests_per_minute} requests a minute.",
                    "rate",
                    wait_s,
                )

    def check_work(self) -> None:
        """Problem (429) where no place for work is free."""
        if self.working >= self._settings.max_requests:
            words = f"All {self._settings.max_requests} places are taken."
            raise too_many(words, "full", self._backoff.refuse())


class Place:
    """The place of one request: for its upload, then for work, then for its answer."""

    def __init__(self, gate: Gate, allowance: Allowance, client: str, key_name: str | None) -> None:
        self.client, self.key_name = client, key_name
        self._gate, self._allowance = gate, allowance
        self._stage: Literal["upload", "work", "answer", "gone"] = "upload"
        self._bytes = 0
        self._abort: Callable[[], None] = _nothing
        gate.uploads += 1
        gate._of_client[client] += 1

    def receive(self, size: int) -> None:
        """Count bytes of the body.

        Raises:
            Problem: 413 more than a body may have, 429 more than all bodies together may have.
        """
        gate, limit = self._gate, self._gate._settings.max_body_bytes
        self._bytes += size
        if self._bytes > self._allowance.max_bytes:
            raise body_too_large(self._allowance.max_bytes)
        if self._allowance.is_on_disk:
            return
        gate._bytes += size
        if gate._bytes > limit * gate._settings.max_requests:
            raise too_many("The service holds as many bytes as it may.", "uploads")

    def begin_work(self) -> None:
        """The body is there. Problem (429) where no place for work is free."""
        if self._allowance.is_on_disk:
            return
        self._gate.check_work()
        self._gate.uploads -= 1
        self._gate.working += 1
        self._stage = "work"

    def begin_answer(self, abort: Callable[[], None]) -> None:
        """The answer is there and is being sent. `abort` cuts the connection."""
        gate = self._gate
        if self._stage != "work":
            return
        if len(gate._answers) >= gate._settings.max_requests:
            oldest = next(iter(gate._answers))
            oldest.leave()
            oldest._abort()
        gate.working -= 1
        gate._backoff.done()
        gate._answers[self] = None
        self._stage, self._abort = "answer", abort

    def leave(self) -> None:
        """Give the place back. A second call does nothing."""
        gate = self._gate
        if self._stage == "gone":
            return
        if self._stage == "upload":
            gate.uploads -= 1
        elif self._stage == "work":
            gate.working -= 1
        else:
            del gate._answers[self]
        self._stage = "gone"
        if not self._allowance.is_on_disk:
            gate._bytes -= self._bytes
        gate._of_client[self.client] -= 1
        if not gate._of_client[self.client]:
            del gate._of_client[self.client]


def next_wait(wait_s: float, refused: int, done: int) -> float:
    """How long refused clients should wait: so that twice as many ask as places become free.

    Args:
        wait_s: what they were told lately, seconds.
        refused: requests since then that found no place.
        done: requests since then that gave their place back.
    """
    return min(max(wait_s * refused / (2 * max(done, 1)), RETRY_AFTER_S), _MAX_WAIT_S)


class _Backoff:
    """Learns how long clients that are refused should wait: refusals in a crowd cost time too."""

    def __init__(self) -> None:
        self._wait_s = float(RETRY_AFTER_S)
        self._refused = self._done = 0
        self._since = time.monotonic()

    def done(self) -> None:
        """A place has become free."""
        self._done += 1

    def refuse(self) -> float:
        """Seconds for a client that finds no place."""
        now = time.monotonic()
        self._refused += 1
        if now - self._since > self._wait_s:
            self._wait_s = next_wait(self._wait_s, self._refused, self._done)
            self._refused, self._done, self._since = 0, 0, now
        return self._wait_s


class _Rate:
    """A bucket that holds a minute's requests and fills evenly."""

    def __init__(self) -> None:
        self._free_at = time.monotonic() - _MINUTE_S  # the bucket was full a minute before

    def take(self, per_minute: int) -> float:
        """Take one request: 0, or the seconds until there is one."""
        now, each_s = time.monotonic(), _MINUTE_S / per_minute
        free_at = max(self._free_at, now - _MINUTE_S) + each_s
        if free_at > now:
            return free_at - now
        self._free_at = free_at
        return 0.0


def body_too_large(limit: int) -> Problem:
    """413 for a body of more bytes than the limit."""
    return too_large(f"body: expected at most {limit} bytes, got more", "body_bytes")


def too_many(detail: str, reason: str, wait_s: float = RETRY_AFTER_S) -> Problem:
    """429: another try may succeed after some seconds."""
    seconds = max(int(wait_s + 0.999), 1)
    return Problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"{detail} Try again in {seconds} s.",
        reason,
        {"Retry-After": str(seconds)},
    )


def _nothing() -> None:
    """Nothing to abort."""
