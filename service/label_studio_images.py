"""Images of Label Studio's tasks, from where it keeps them and from nowhere else.

A task may name any address. Only Label Studio itself and the origins that the operator names are
asked. Label Studio may redirect to a store of files, but not into the operator's network.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import json
import logging
import re
import socket
import ssl
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httpx

from bpr.service.problems import Problem, too_large, unusable
from bpr.service.settings import ServiceSettings

logger = logging.getLogger(__name__)

_CLOUD = ("s3://", "gs://", "azure-blob://")
_PAT_DOTS = 2  # a personal access token is a JWT: three parts
_TRIES_S = 30.0  # for all of an image, redirections included
_MAX_REDIRECTS = 5
_MAX_ADDRESS = 4096  # characters
_TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WORDS = {
    HTTPStatus.UNAUTHORIZED: "; check --label-studio-api-key",
    HTTPStatus.FORBIDDEN: "; check --label-studio-api-key",
    HTTPStatus.NOT_FOUND: "; check --label-studio-api-key",
}


async def fetch_image(
    address: str, task_id: Any, settings: ServiceSettings, seconds: float
) -> bytes:
    """The file of an image.

    Args:
        address: as a task's data has it: below Label Studio, in cloud storage that Label Studio
            opens, of another origin that is allowed, or a data: address.
        task_id: of the task.
        settings: where Label Studio is, and limits.
        seconds: how long it may take in all, at most 30.

    Raises:
        Problem: 422 an address that is not allowed or answers otherwise, 413 too large.
    """
    if address.startswith("data:"):
        return await asyncio.to_thread(_read_data, address)
    try:
        return await asyncio.wait_for(
            _fetch(_complete(address, task_id, settings), settings), min(seconds, _TRIES_S)
        )
    except asyncio.TimeoutError:
        raise unusable("image: expected all of it in time, got a part or nothing") from None


def _complete(address: str, task_id: Any, settings: ServiceSettings) -> httpx.URL:
    """The whole address, checked."""
    home = settings.label_studio_url or ""
    if len(address) > _MAX_ADDRESS:
        raise unusable(f"image: expected an address of at most {_MAX_ADDRESS} characters")
    if address.startswith(_CLOUD):
        # Label Studio answers with a redirection to a signed address of the store
        if not _TASK_ID.fullmatch(str(task_id)):
            raise unusable("task: expected an id of letters and digits, got another one")
        coded = base64.urlsafe_b64encode(address.encode("utf-8", "replace")).decode()
        address = f"/tasks/{task_id}/presign/?fileuri={coded}"
    if address.startswith(("upload/", "/upload/")):
        address = f"/data/{address.lstrip('/')}"
    if "://" not in address:
        address = f"{home}/{address.lstrip('/')}"
    url = _parse(address)
    allowed = [_origin(_parse(home)), *_allowed(settings)]
    if "*" not in settings.label_studio_origins and _origin(url) not in allowed:
        raise unusable(
            f"image: expected an address of {home} or of label_studio_origins, got one of "
            f"{_origin(url)}; allow it with --label-studio-origins {_origin(url)}"
        )
    return url


@cache
def tls_context() -> ssl.SSLContext:
    """What is trusted. Reading all authorities takes 50 ms, in which the event loop would wait."""
    return httpx.create_ssl_context(trust_env=False)


async def _fetch(url: httpx.URL, settings: ServiceSettings) -> bytes:
    home = _origin(_parse(settings.label_studio_url or ""))
    async with httpx.AsyncClient(verify=tls_context(), trust_env=False, timeout=None) as client:
        headers: Mapping[str, str] = {}
        if _origin(url) == home:
            headers = await _authorization(client, settings)
        for _ in range(_MAX_REDIRECTS + 1):
            try:
                async with client.stream("GET", url, headers=headers) as answer:
                    _check_peer(answer, url, settings)
                    if answer.status_code == HTTPStatus.OK:
                        return await _read(answer, settings.max_body_bytes)
                    location = answer.headers.get("location")
                    if not answer.is_redirect or location is None:
                        advice = _WORDS.get(HTTPStatus(answer.status_code), "")
                        raise unusable(
                            f"image: expected a file at {_shown(url)}, got status "
                            f"{answer.status_code}{advice}"
                        )
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
                # what it was tells about the operator's network: that is for the log
                logger.warning("image: %s: %r", _shown(url), error)
                raise unusable(
                    f"image: expected a file at {_shown(url)}, got no answer that can be read"
                ) from None
            url = await _follow(url, location, settings)
            headers = {}  # no token: a store has signatures of its own
    raise unusable(f"image: expected at most {_MAX_REDIRECTS} redirections, got more")


async def _read(answer: httpx.Response, limit: int) -> bytes:
    pieces, size = [], 0
    async for piece in answer.aiter_bytes():
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise too_large(f"image: expected at most {limit} bytes, got more", "body_bytes")
    return b"".join(pieces)


async def _follow(url: httpx.URL, location: str, settings: ServiceSettings) -> httpx.URL:
    """Where a redirection leads, if that is Label Studio, an allowed origin or a public address."""
    target = _parse(str(url.join(_parse(location, is_whole=False))))
    if _is_named(target, settings):
        return target
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        is_public = all(_is_public(str(address[4][0])) for address in found)
    except (OSError, ValueError):
        is_public = False
    if not is_public:
        raise unusable(
            "image: expected a redirection to an allowed origin or a public address, got another"
        )
    return target


def _check_peer(answer: httpx.Response, url: httpx.URL, settings: ServiceSettings) -> None:
    """A name may lead elsewhere than a moment ago: look at where the connection went."""
    if _is_named(url, settings):
        return
    stream = answer.extensions.get("network_stream")
    peer = stream.get_extra_info("server_addr") if stream is not None else None
    if peer is None or not _is_public(peer[0]):
        raise ValueError("expected a public address")


def _is_named(url: httpx.URL, settings: ServiceSettings) -> bool:
    """Whether the operator has named the origin of an address."""
    home = _origin(_parse(settings.label_studio_url or ""))
    return _origin(url) in (home, *_allowed(settings))


def _is_public(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_global


async def _authorization(client: httpx.AsyncClient, settings: ServiceSettings) -> Mapping[str, str]:
    if settings.label_studio_api_key is None:
        return {}
    key = settings.label_studio_api_key.get_secret_value()
    if key.count(".") != _PAT_DOTS:
        return {"Authorization": f"Token {key}"}
    # a personal access token only opens for tokens that last some minutes
    try:
        answer = await client.post(
            f"{settings.label_studio_url}/api/token/refresh", json={"refresh": key}
        )
        answer.raise_for_status()
        return {"Authorization": f"Bearer {json.loads(answer.content)['access']}"}
    except (httpx.HTTPError, OSError, ValueError, LookupError, TypeError) as error:
        logger.warning("token of Label Studio: %r", error)
        raise Problem(
            HTTPStatus.BAD_GATEWAY,
            "Label Studio does not take label_studio_api_key, or does not answer.",
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


def _parse(address: str, is_whole: bool = True) -> httpx.URL:
    """An address of HTTP without dot segments, which a server would resolve."""
    try:
        url = httpx.URL(address)
        segments = re.split(r"[/\\]", unquote(url.raw_path.decode("ascii").partition("?")[0]))
        written = re.split(r"[/\\]", unquote(unquote(address.partition("?")[0])))
    except (httpx.InvalidURL, ValueError):
        raise unusable("image: expected an address, got one that cannot be read") from None
    if is_whole and (url.scheme not in ("http", "https") or not url.host):
        raise unusable(
            "image: expected an address of http or https, got one of "
            f"{url.scheme[:20]}:// without allowing it"
        )
    if is_whole and ".." in (*segments, *written):
        raise unusable("image: expected an address without .. in its path, got one with it")
    return url


def _allowed(settings: ServiceSettings) -> list[str]:
    return [_origin(_parse(o)) for o in settings.label_studio_origins if o != "*"]


def _origin(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _shown(url: httpx.URL) -> str:
    """Without its query: there may be signatures in it."""
    return str(url.copy_with(query=None))[:200]
