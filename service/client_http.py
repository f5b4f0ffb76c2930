"""Requests of the client, tried again while the service is busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus

from bpr._extras import needs_extra

with needs_extra("bpr.Client"):
    import httpx

_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_RETRY_AFTER_S = 2.0  # where an answer does not say


class ServiceError(Exception):
    """The service has refused a request.

    Attributes:
        status: of HTTP.
        detail: description of what was expected and what came.
        request_id: finds the request in the service's log.
    """

    def __init__(self, status: int, detail: str, request_id: str) -> None:
        super().__init__(f"{detail} (status {status}, request {request_id})")
        self.status, self.detail, self.request_id = status, detail, request_id


class Connection:
    """Connections to one service.

    Args:
        url: of the service.
        key: API key, where the service wants one.
        timeout_s: how long one try may take.
        max_wait_s: how long to go on trying while the service is busy, in all.
    """

    def __init__(self, url: str, key: str | None, timeout_s: float, max_wait_s: float) -> None:
        headers = {} if key is None else {"X-API-Key": key}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)
        self._max_wait_s = max_wait_s

    def until_taken(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        """Send a request, again at the times that a busy service names.

        Raises:
            ServiceError: the service refuses, or is busy for longer than `max_wait_s`.
            httpx.TransportError: there is no such service.
        """
        end = time.monotonic() + self._max_wait_s
        while True:
            answer = send()
            if answer.is_success:
                return answer
            wait_s = _retry_after(answer)
            if answer.status_code not in _BUSY or time.monotonic() + wait_s > end:
                raise as_error(answer)
            time.sleep(wait_s)


def as_error(answer: httpx.Response) -> ServiceError:
    """An answer that is a refusal, as an exception."""
    answer.read()
    try:
        problem = answer.json()
        detail, request_id = str(problem["detail"]), str(problem["request_id"])
    except (ValueError, LookupError, TypeError):  # a proxy's own page
        detail, request_id = answer.reason_phrase, answer.headers.get("x-request-id", "unknown")
    return ServiceError(answer.status_code, detail, request_id)


def _retry_after(answer: httpx.Response) -> float:
    try:
        return max(float(answer.headers["retry-after"]), 0.0)
    except (KeyError, ValueError):
        return _RETRY_AFTER_S
