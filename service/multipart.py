"""A multipart body as parts in memory or in files, complete or refused.

Starlette's own parser writes parts to disk, and takes a body that ends in mid-part for one
without that part: a mask would be lost silently.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from bpr.service.problems import Problem, bad_request, too_large

_MAX_HEADER_BYTES = 8192  # of one part


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a body."""

    name: str
    file_name: str  # "" where it has none
    content: bytes


@dataclass(frozen=True)
class StoredPart:
    """One part of a body, in a file."""

    name: str
    file_name: str  # "" where it has none
    path: Path


async def read_parts(stream: AsyncIterable[bytes], content_type: str, max_parts: int) -> list[Part]:
    """Read a body to its end.

    Args:
        stream: pieces of the body; whoever gives them limits their sum.
        content_type: of the request; multipart/form-data.
        max_parts: more are refused.

    Raises:
        Problem: 400 it is not as multipart bodies are, or incomplete; 413 too many parts.
    """
    contents: list[io.BytesIO] = []

    def in_memory(_: int) -> io.BytesIO:
        contents.append(io.BytesIO())
        return contents[-1]

    collector = _Collector(max_parts, in_memory)
    parser = _parser(content_type, collector)
    try:
        async for piece in stream:
            parser.write(piece)
    except FormParserError:
        raise _other_bytes() from None
    _finish(parser, collector)
    return [
        Part(name, file_name, content.getvalue())
        for (name, file_name), content in zip(collector.parts, contents, strict=True)
    ]


async def store_parts(
    stream: AsyncIterable[bytes], content_type: str, max_parts: int, folder: Path
) -> list[StoredPart]:
    """Write the parts of a body into a folder as they come, as files named 0, 1, ...

    Args:
        stream: as for `read_parts`.
        content_type: as for `read_parts`.
        max_parts: as for `read_parts`.
        folder: is there and empty.

    Raises:
        Problem: as `read_parts`.
        OSError: the disk is full.
    """
    with closing(_Files(folder)) as files:
        collector = _Collector(max_parts, files.open)
        parser = _parser(content_type, collector)
        try:
            async for piece in stream:
                await asyncio.to_thread(parser.write, piece)  # a disk may take its time
        except FormParserError:
            raise _other_bytes() from None
        _finish(parser, collector)
    return [
        StoredPart(name, file_name, folder / str(number))
        for number, (name, file_name) in enumerate(collector.parts)
    ]


def _parser(content_type: str, collector: _Collector) -> MultipartParser:
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:  # RFC 2046
        raise bad_request(
            "Content-Type: expected multipart/form-data with a boundary of 1 to 70 characters"
        )
    return MultipartParser(
        boundary,
        {
            "on_part_begin": collector.begin,
            "on_header_field": collector.add_to_field,
            "on_header_value": collector.add_to_value,
            "on_header_end": collector.end_header,
            "on_headers_finished": collector.end_headers,
            "on_part_data": collector.add_data,
            "on_part_end": collector.end,
            "on_end": collector.finish,
        },
    )


def _finish(parser: MultipartParser, collector: _Collector) -> None:
    try:
        parser.finalize()
    except FormParserError:
        raise _other_bytes() from None
    if not collector.is_complete:
        raise bad_request("body: expected the boundary's end mark, got a body that ends before it")


def _other_bytes() -> Problem:
    return bad_request("body: expected parts as in multipart/form-data, got other bytes")


class _Files:
    """Opens one file after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None

    def open(self, number: int) -> BinaryIO:
        self.close()
        self._file = (self._folder / str(number)).open("xb")
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Collector:
    """Puts together what the parser finds.

    Args:
        max_parts: more are refused.
        open_content: opens what the content of a part is written to, given the part's number.
    """

    def __init__(self, max_parts: int, open_content: Callable[[int], BinaryIO]) -> None:
        self.parts: list[tuple[str, str]] = []  # names and file names
        self.is_complete = False
        self._max_parts, self._open_content = max_parts, open_content
        self._field, self._value = b"", b""
        self._disposition = b""
        self._header_bytes = 0
        self._name, self._file_name = "", ""

    def begin(self) -> None:
        if len(self.parts) == self._max_parts:
            raise too_large(f"body: expected at most {self._max_parts} parts", "instances")
        self._disposition, self._header_bytes = b"", 0
        self._content = self._open_content(len(self.parts))

    def add_to_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]
        self._count(end - start)

    def add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._count(end - start)

    def end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field, self._value = b"", b""

    def end_headers(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise bad_request(
                "body: expected parts with Content-Disposition: form-data; name=..., "
                "got one without"
            )
        self._name = options[b"name"].decode("utf-8", "replace")
        self._file_name = options.get(b"filename", b"").decode("utf-8", "replace")

    def add_data(self, data: bytes, start: int, end: int) -> None:
        self._content.write(memoryview(data)[start:end])

    def end(self) -> None:
        self.parts.append((self._name, self._file_name))

    def finish(self) -> None:
        self.is_complete = True

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MAX_HEADER_BYTES:
            raise bad_request(
                f"body: expected at most {_MAX_HEADER_BYTES} bytes of headers in a part, got more"
            )
