"""What Ray's proxies say themselves, as problems: Ray would answer 500 in plain text.

A proxy loads this where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it when Ray starts;
`bpr serve --ray-address local` sets that. It imports no Ray.
"""

from __future__ import annotations

import uuid
from http import HTTPStatus

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bpr.service.problems import RETRY_AFTER_S, problem_response

CALLBACK = "bpr.service.ray_proxy:middlewares"


class InWords:
    """ASGI middleware: an error of Ray itself becomes a 503 that says to try again.

    The answers of a replica pass through. They are never errors in plain text.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        is_replaced = False

        async def send_in_words(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start" and _is_rays_own(message):
                is_replaced = True
                await _sorry(scope)(scope, receive, send)
            elif not is_replaced:
                await send(message)

        await self._app(scope, receive, send_in_words)


def middlewares() -> list[Middleware]:
    """Called by Ray when a proxy starts."""
    return [Middleware(InWords)]


def _is_rays_own(message: Message) -> bool:
    types = [value for name, value in message["headers"] if name.lower() == b"content-type"]
    is_text = not types or types[0].startswith(b"text/plain")
    return bool(is_text and message["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR)


def _sorry(scope: Scope) -> ASGIApp:
    given = dict(scope.get("headers", [])).get(b"x-request-id", b"").decode("latin-1")[:64]
    request_id = given if given.isalnum() else uuid.uuid4().hex[:16]
    return problem_response(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The replica that worked on this request has ended. Try again.",
        {"state": {"request_id": request_id}},
        {"Retry-After": str(RETRY_AFTER_S)},
    )
