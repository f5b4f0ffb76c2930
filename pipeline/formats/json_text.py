"""A json's text with some values replaced: every other byte stays as its program wrote it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]
from typing import Any

Span = tuple[int, int]
"""Where a value begins and ends in a text."""

_decode = json.JSONDecoder().raw_decode


def root_of(text: str) -> int:
    """Where the only value of a text begins."""
    return _skip(text, 0)


def members(text: str, start: int) -> dict[str, Span]:
    """The spans of the values of an object, by name; the last one counts, as in `json.loads`.

    Args:
        text: json.
        start: position of the object's brace.
    """
    found: dict[str, Span] = {}
    position = _skip(text, start + 1)
    while text[position] != "}":
        if text[position] == ",":
            position = _skip(text, position + 1)
        name, position = scanstring(text, position + 1)
        begin = _skip(text, _skip(text, position) + 1)  # behind the colon
        _, end = _decode(text, begin)
        found[name] = (begin, end)
        position = _skip(text, end)
    return found


def items(text: str, start: int) -> Iterator[Span]:
    """The spans of the items of a list, whose bracket is at `start`."""
    position = _skip(text, start + 1)
    while text[position] != "]":
        if text[position] == ",":
            position = _skip(text, position + 1)
        _, end = _decode(text, position)
        yield position, end
        position = _skip(text, end)


def find(text: str, path: Iterable[str | int]) -> Span:
    """The span of the value behind names and positions.

    Raises:
        KeyError: there is none.
    """
    begin, end = root_of(text), len(text)
    for step in path:
        try:
            if isinstance(step, str):
                begin, end = members(text, begin)[step]
            else:
                begin, end = next(islice(items(text, begin), step, None))
        except StopIteration:
            raise KeyError(step) from None
    return begin, end


def splice(text: str, changes: Iterable[tuple[Span, str]]) -> Iterator[str]:
    """The pieces of a text in which spans are replaced.

    Args:
        text: as it was.
        changes: spans that do not overlap, in order, and what takes their places.
    """
    position = 0
    for (begin, end), new in changes:
        yield text[position:begin]
        yield new
        position = end
    yield text[position:]


def dump(value: Any) -> str:
    """A value as text; characters stay as they are."""
    return json.dumps(value, ensure_ascii=False)


def changed_members(text: str, start: int, new: dict[str, Any]) -> list[tuple[Span, str]]:
    """Changes that give members of an object other values; members that it lacks are added.

    Args:
        text: json.
        start: position of the object's brace.
        new: values by name.
    """
    spans = members(text, start)
    changes = [(spans[name], dump(value)) for name, value in new.items() if name in spans]
    added = [f"{dump(name)}: {dump(value)}" for name, value in new.items() if name not in spans]
    if added:
        place = start + 1
        tail = ", " if spans else ""
        changes.append(((place, place), ", ".join(added) + tail))
    return sorted(changes)


def _skip(text: str, position: int) -> int:
    """The next position that is not blank."""
    found = WHITESPACE.match(text, position)
    assert found is not None  # it matches nothing, too
    return int(found.end())
