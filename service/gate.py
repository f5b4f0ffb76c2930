"""Who is let in: a bounded number of requests, none before the model is warm or while draining."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Literal

from starlette.datastructures import Headers

from bpr.service.problems import RETRY_AFTER_S, Problem, draining, too_large, unavailable
from bpr.service.settings import ServiceSettings


class Gate:
    """State of the service as its clients see it. Used by the event loop's thread only."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.in_process = 0  # requests let in and not finished
        self.status: Literal["loading", "ok", "draining"] = "loading"
        self._limit = settings.max_requests
        self._max_body_bytes = settings.max_body_bytes
        self._keys = [_digest(key.get_secret_value().encode()) for key in settings.api_keys]

    def open(self) -> None:
        """The model is warm."""
        if self.status == "loading":
            self.status = "ok"

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
    def enter(self, headers: Headers) -> Iterator[None]:
        """Let a request in, before its body is read, and out again.

        Raises:
            Problem: 401 no or a wrong key, 413 a body announced that is too large, 429 full,
                503 not ready.
        """
        self._check_key(headers)
        self.check_ready()
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._max_body_bytes:
            raise body_too_large(self._max_body_bytes)
        if self.in_process >= self._limit:
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"All {self._limit} places are taken. Try again in {RETRY_AFTER_S} s.",
                "full",
                {"Retry-After": str(RETRY_AFTER_S)},
            )
        self.in_process += 1
        try:
            yield
        finally:
            self.in_process -= 1

    def _check_key(self, headers: Headers) -> None:
        if not self._keys:
            return
        given = headers.get("x-api-key", "")
        authorization = headers.get("authorization", "")
        if not given and authorization[:7].lower() == "bearer ":
            given = authorization[7:].strip()
        elif not given and authorization[:6].lower() == "basic ":
            given = _password(authorization[6:])
        digest = _digest(given.encode("latin-1"))  # the bytes that were sent
        # every key is compared, whichever fits: time tells nothing
        if not sum(hmac.compare_digest(digest, key) for key in self._keys):
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "Expected an API key in the header X-API-Key (or Authorization: Bearer), got "
                + ("a wrong one." if given else "none."),
                "key",
                {"WWW-Authenticate": "Bearer"},
            )


def body_too_large(limit: int) -> Problem:
    """413 for a body of more bytes than the limit."""
    return too_large(f"body: expected at most {limit} bytes, got more", "body_bytes")


def _password(basic: str) -> str:
    """Of HTTP's basic authentication, which is all that Label Studio offers; the name is not used.

    In latin-1, as headers are.
    """
    try:
        return base64.b64decode(basic.strip(), validate=True).decode("latin-1").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
