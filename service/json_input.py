"""Json that a client sends, bounded before it becomes Python objects."""

from __future__ import annotations

import threading
import time
from typing import Any

import pydantic_core

from bpr.service.problems import bad_request, too_large
from bpr.service.settings import ServiceSettings

# Parsing holds Python's lock. On one core of an EPYC, 8 MB of "[]," took 1.9 s, of numbers with
# one digit 0.5 s. Within these limits it is 0.2 s at most.
_MAX_CONTAINERS = 200_000  # objects and lists
_MAX_VALUES = 1_500_000
# one large text at a time: threads that parse one after the other would keep the event loop waiting
_LARGE = 100_000  # bytes
_PARSING = threading.Lock()
_BREATH_S = 0.002  # for the event loop, between two of them


def parse_json(content: bytes, name: str, limits: ServiceSettings) -> Any:
    """Read json, strictly: no NaN, no Infinity, no deeper nesting than about 200 levels.

    Args:
        content: UTF-8.
        name: of what is read, for messages.
        limits: with `max_json_bytes`.

    Raises:
        Problem: 413 too many bytes or values, 400 no json.
    """
    if len(content) > limits.max_json_bytes:
        raise too_large(
            f"{name}: expected at most {limits.max_json_bytes} bytes, got {len(content)}",
            "json_bytes",
        )
    # those in strings are counted too: no sensible file has so many there
    if content.count(b"[") + content.count(b"{") > _MAX_CONTAINERS:
        raise too_large(
            f"{name}: expected at most {_MAX_CONTAINERS} objects and lists, got more", "json_values"
        )
    if content.count(b",") > _MAX_VALUES:
        raise too_large(f"{name}: expected at most {_MAX_VALUES} values, got more", "json_values")
    try:
        if len(content) < _LARGE:
            return _parse(content)
        with _PARSING:
            value = _parse(content)
            time.sleep(_BREATH_S)
        return value
    except ValueError as error:
        raise bad_request(f"{name}: expected json, got: {error}") from None


def _parse(content: bytes) -> Any:
    # stops at nesting that no COCO json has; Python's own parser takes NaN
    return pydantic_core.from_json(content, allow_inf_nan=False, cache_strings="keys")
