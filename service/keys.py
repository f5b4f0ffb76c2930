"""API keys: who may ask, under which name, how much at a time.

Keys of the setting `api_keys` have no names of their own and are called key-1, key-2, ... Keys of
the file `api_keys_file` have names and may have limits. The file is read again when it changes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers

from bpr.service.problems import Problem
from bpr.service.settings import ServiceSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 1.0  # the least time between two looks at the file
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")  # names are labels of metrics and words of the log
_LIMITS = ("max_requests", "requests_per_minute")


@dataclass(frozen=True)
class Key:
    """One API key. The key itself is not kept."""

    name: str
    sha256: bytes  # of the key
    max_requests: int | None = None  # at one time
    requests_per_minute: int | None = None


class Keys:
    """The keys that are valid now.

    Args:
        settings: with `api_keys` and `api_keys_file`.

    Raises:
        ValueError: the file cannot be read. Later, when it changes, an error is logged and the
            keys of before stay valid.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._own = tuple(
            Key(f"key-{number}", _digest(key.get_secret_value().encode()))
            for number, key in enumerate(settings.api_keys, start=1)
        )
        self._file = settings.api_keys_file
        self._seen: object = None
        self._looked = time.monotonic()
        self._named: tuple[Key, ...] = ()
        if self._file is not None:
            self._seen, self._named = _stamp(self._file), read_keys(self._file)

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return not self._own and self._file is None

    def check(self, headers: Headers) -> Key | None:
        """The key that a request came with; None where no key is needed.

        Raises:
            Problem: 401 no key or a wrong one.
        """
        if self.is_open:
            return None
        given = _given(headers)
        digest = _digest(given.encode("latin-1"))  # the bytes that were sent
        # compare every key, so that timing does not reveal which one matched
        found = [key for key in self._current() if hmac.compare_digest(digest, key.sha256)]
        if not found:
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "Expected an API key in the header X-API-Key (or Authorization: Bearer), got "
                + ("a wrong one." if given else "none."),
                "key",
                {"WWW-Authenticate": "Bearer"},
            )
        return found[0]

    def _current(self) -> Sequence[Key]:
        if self._file is not None and time.monotonic() - self._looked > _LOOK_AGAIN_S:
            self._looked = time.monotonic()
            stamp = _stamp(self._file)
            if stamp != self._seen:
                self._seen = stamp
                try:
                    self._named = read_keys(self._file)
                except ValueError as error:
                    logger.error("keys stay as they were: %s", error)
                else:
                    logger.info("keys read again", extra={"keys": len(self._named)})
        return (*self._own, *self._named)


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a file of keys: TOML, one table for each name.

    [ada]
    key = "a long random text"   # or sha256 = its SHA-256 in hexadecimal
    max_requests = 4             # optional: at one time
    requests_per_minute = 60     # optional

    Raises:
        ValueError: the file cannot be read; the message never shows a key.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no TOML"
        raise ValueError(f"api_keys_file: expected a readable TOML file, got {reason}") from None
    return tuple(_read_key(path, name, table) for name, table in tables.items())


def _read_key(path: Path, name: str, table: Any) -> Key:
    where = f"{path}, [{name[:64]}]"
    if not _NAME.fullmatch(name) or not isinstance(table, Mapping):
        raise ValueError(f"{where}: expected a table with a name of letters, digits and ._-")
    if unknown := table.keys() - {"key", "sha256", *_LIMITS}:
        raise ValueError(f"{where}: expected key, sha256 or limits, got {min(unknown)}")
    limits = {limit: table.get(limit) for limit in _LIMITS}
    for limit, value in limits.items():
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"{where}: {limit}: expected a number > 0")
    key, sha256 = table.get("key"), table.get("sha256")
    if isinstance(key, str) and key and sha256 is None:
        return Key(name, _digest(key.encode()), **limits)
    if key is None and isinstance(sha256, str) and re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        return Key(name, bytes.fromhex(sha256), **limits)
    raise ValueError(f'{where}: expected either key = "..." or sha256 = 64 hexadecimal digits')


def _stamp(path: Path) -> object:
    """Changes when the file does; None where there is no file."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino


def _given(headers: Headers) -> str:
    """The key that a request came with, or nothing."""
    given = headers.get("x-api-key", "")
    authorization = headers.get("authorization", "")
    if not given and authorization[:7].lower() == "bearer ":
        return authorization[7:].strip()
    if not given and authorization[:6].lower() == "basic ":
        return _password(authorization[6:])
    return given


def _password(basic: str) -> str:
    """The password of HTTP's basic authentication, which is all that Label Studio offers.

    In latin-1, as headers are. The user's name is not used.
    """
    try:
        return base64.b64decode(basic.strip(), validate=True).decode("latin-1").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
