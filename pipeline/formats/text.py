"""Text and json files, in whatever encoding their program wrote them."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any

from bpr._paths import AnyPath

_MARKS = (  # of UTF-32 first: it begins like UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode_text(content: bytes) -> str:
    """The text of a file: UTF-8, or what its byte-order mark says. The mark is left out.

    Raises:
        UnicodeDecodeError: other bytes.
    """
    mark, encoding = _mark_of(content)
    return content[len(mark) :].decode(encoding)


def encode_like(text: str, content: bytes) -> bytes:
    """Text in the encoding of another file's content, with its byte-order mark."""
    mark, encoding = _mark_of(content)
    return mark + text.encode(encoding, "surrogatepass")


def encode_pieces_like(pieces: Iterable[str], content: bytes) -> Iterator[bytes]:
    """As `encode_like`, of a text in pieces."""
    mark, encoding = _mark_of(content)
    yield mark
    for piece in pieces:
        yield piece.encode(encoding, "surrogatepass")


def _mark_of(content: bytes) -> tuple[bytes, str]:
    return next((found for found in _MARKS if content.startswith(found[0])), (b"", "utf-8"))


def read_text(path: AnyPath) -> tuple[bytes, str]:
    """The bytes and the text of a file.

    Raises:
        ValueError: it is missing, unreadable, or no text; the message names it.
    """
    try:
        content = path.read_bytes()
        return content, decode_text(content)
    except OSError as error:
        raise ValueError(f"{path}: expected a readable file, got: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected text in UTF-8, got other bytes") from None


def load_json(path: AnyPath) -> Any:
    """Read a json file.

    Raises:
        ValueError: missing or not json; the message names file and line.
    """
    try:
        return json.loads(decode_text(path.read_bytes()))
    except OSError as error:
        raise ValueError(f"{path}: expected a readable json file, got: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not json, not UTF-8, endless numbers
        raise ValueError(f"{path}: expected json, got: {error}") from None


def short(value: Any) -> str:
    """A value from a json file as an error message shows it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # ints of thousands of digits, endless nesting
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def kind_of(value: Any) -> str:
    """What a json calls the type of a value."""
    return {dict: "object", list: "list", str: "text", bool: "boolean", type(None): "null"}.get(
        type(value), "number"
    )
