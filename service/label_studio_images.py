"""Images of Label Studio's tasks, from where it keeps them and from nowhere else.

A task may name any address; only those of Label Studio itself, and origins that the operator
names, are asked.
"""

from __future__ import annotations

import base64
import binascii
import json
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from bpr.service.problems import Problem, too_large, unusable
from bpr.service.settings import ServiceSettings

_CLOUD = ("s3://", "gs://", "azure-blob://")
_PAT_DOTS = 2  # a personal access token is a JWT: three parts
_TRIES_S = 30.0


def fetch_image(address: str, task_id: Any, settings: ServiceSettings, seconds: float) -> bytes:
    """The file of an image.

    Args:
        address: as a task's data has it: below Label Studio, in cloud storage that Label Studio
            opens, of another origin that is allowed, or a data: address.
        task_id: of the task.
        settings: where Label Studio is, and limits.
        seconds: how long it may take.

    Raises:
        Problem: 422 an address that is not allowed or answers otherwise, 413 too large.
    """
    if address.startswith("data:"):
        return _read_data(address)
    home = settings.label_studio_url or ""
    if address.startswith(_CLOUD):
        # Label Studio answers with a redirection to a signed address of the store
        coded = base64.urlsafe_b64encode(address.encode()).decode()
        address = f"/tasks/{quote(str(task_id))}/presign/?fileuri={coded}"
    if address.startswith(("upload/", "/upload/")):
        address = f"/data/{address.lstrip('/')}"
    if "://" not in address:
        address = f"{home}/{address.lstrip('/')}"
    origin = _origin(address)
    is_home = origin == _origin(home)
    allowed = settings.label_studio_origins
    if not is_home and "*" not in allowed and origin not in map(_origin, allowed):
        raise unusable(
            f"image: expected an address of {home} or of label_studio_origins, got one of "
            f"{origin}; allow it with --label-studio-origins {origin}"
        )
    timeout = min(seconds, _TRIES_S)
    return _get(address, _authorization(settings, timeout) if is_home else None, settings, timeout)


def _get(
    address: str, authorization: str | None, settings: ServiceSettings, timeout: float
) -> bytes:
    request = urllib.request.Request(address)
    if authorization is not None:
        # not sent to where Label Studio redirects: a store has signatures of its own
        request.add_unredirected_header("Authorization", authorization)
    limit = settings.max_body_bytes
    try:
        with _OPENER.open(request, timeout=timeout) as answer:
            content: bytes = answer.read(limit + 1)
    except urllib.error.HTTPError as error:
        error.close()
        advice = (
            "; check --label-studio-api-key"
            if error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
            else ""
        )
        raise unusable(
            f"image: expected a file at {_shown(address)}, got status {error.code}{advice}"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise unusable(f"image: expected an answer from {_shown(address)}, got: {reason}") from None
    if len(content) > limit:
        raise too_large(f"image: expected at most {limit} bytes, got more", "body_bytes")
    return content


class _NoFiles(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but only to HTTP."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if urlsplit(newurl).scheme not in ("http", "https"):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


# no FileHandler, no FTPHandler, no proxies of the environment
_OPENER = urllib.request.OpenerDirector()
for _handler in (
    urllib.request.HTTPHandler(),
    urllib.request.HTTPSHandler(),
    urllib.request.HTTPDefaultErrorHandler(),
    urllib.request.HTTPErrorProcessor(),
    _NoFiles(),
):
    _OPENER.add_handler(_handler)


def _authorization(settings: ServiceSettings, timeout: float) -> str | None:
    if settings.label_studio_api_key is None:
        return None
    key = settings.label_studio_api_key.get_secret_value()
    if key.count(".") != _PAT_DOTS:
        return f"Token {key}"
    # a personal access token only opens for tokens that last some minutes
    request = urllib.request.Request(
        urljoin(f"{settings.label_studio_url}/", "api/token/refresh"),
        json.dumps({"refresh": key}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with _OPENER.open(request, timeout=timeout) as answer:
            return f"Bearer {json.loads(answer.read(1 << 20))['access']}"
    except (OSError, ValueError, LookupError, TypeError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise Problem(
            HTTPStatus.BAD_GATEWAY,
            f"Label Studio does not take label_studio_api_key: {getattr(error, 'code', error)}.",
            "label_studio",
        ) from None


def _read_data(address: str) -> bytes:
    head, _, content = address.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError(head)
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise unusable("image: expected data in base64, got another data: address") from None


def _origin(address: str) -> str:
    try:
        parts = urlsplit(address)
        return f"{parts.scheme}://{parts.netloc}".lower()
    except ValueError:
        raise unusable("image: expected an address, got one that is none") from None


def _shown(address: str) -> str:
    """Without its query: there may be signatures in it."""
    return address.partition("?")[0][:200]
