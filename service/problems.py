"""Errors in words: RFC 9457 problem details."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from bpr.service.schemas import ProblemDetails

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
NOTHING_HERE = "There is nothing at this address. GET /docs lists what there is."


class Problem(HTTPException):
    """A request that cannot be answered, and what its sender can do about it.

    Args:
        status: of HTTP, 400 or above.
        detail: one or two sentences for people: what was expected, what came.
        reason: one word for the metrics, from a small set.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        reason: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.reason = reason


def bad_request(detail: str) -> Problem:
    """400: the request cannot be read at all."""
    return Problem(HTTPStatus.BAD_REQUEST, detail, "bad_request")


def too_large(detail: str, reason: str) -> Problem:
    """413: more than the settings allow."""
    # the rest of the body, if there is one, is not read
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, reason, {"Connection": "close"})


def wrong_type(detail: str) -> Problem:
    """415: a file of another type than is taken."""
    return Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, "media_type")


def unusable(detail: str) -> Problem:
    """422: files of the right type whose content cannot be used."""
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, "content")


def unavailable(detail: str, reason: str, wait_s: int = RETRY_AFTER_S) -> Problem:
    """503: not now; another try may succeed after some seconds."""
    headers = {"Retry-After": str(wait_s)}
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, reason, headers)


def draining() -> Problem:
    """503: the service ends."""
    return unavailable("The service is shutting down. Try another one.", "draining")


def problem_response(
    status: int, detail: str, scope: Scope, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer for a problem."""
    details = ProblemDetails(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        request_id=scope.get("state", {}).get("request_id", ""),
        error=detail if scope.get("path", "").startswith("/v2/") else None,
    )
    content = json.dumps(
        details.model_dump(exclude_none=True)
    )  # ASCII: names from outside may hold anything
    return Response(content, status, dict(headers or {}), MEDIA_TYPE)
