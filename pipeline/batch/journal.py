"""What a run has finished: one json line per image, so that a rerun goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Entry = Mapping[str, Any]


class Journal:
    """An append-only file of finished images. Entries stay on disk; memory holds positions.

    The first line says how the run was set up. A last line torn by a kill is dropped.

    Args:
        path: of the file; made, with its folder, if missing.
        header: how this run is set up, json-ready.

    Raises:
        ValueError: the file belongs to a run that was set up in another way.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self._positions: dict[str, int] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        found = self._load()
        if found is None:
            self._append(header)
        elif found != json.loads(json.dumps(header)):
            self._file.close()
            raise ValueError(_difference(found, header))

    def __contains__(self, key: str) -> bool:
        return key in self._positions

    def read(self, key: str) -> Entry:
        """The last entry of a key."""
        self._file.seek(self._positions[key])
        entry: Entry = json.loads(self._file.readline())
        return entry

    def entries(self) -> Iterator[Entry]:
        """All entries in order of their keys' first appearance."""
        for key in self._positions:
            yield self.read(key)

    def append(self, key: str, entry: Entry) -> None:
        """Add an entry; it is safe from a kill of this process when the call returns."""
        self._positions[key] = self._append({"key": key, **entry})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, value: Mapping[str, Any]) -> int:
        position = self._file.seek(0, 2)
        self._file.write(json.dumps(value).encode() + b"\n")
        self._file.flush()
        return position

    def _load(self) -> Entry | None:
        """Read the positions of all entries and cut off a torn end; returns the header."""
        self._file.seek(0)
        header, end = None, 0
        for line in self._file:
            try:
                value = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                value = None
            if not isinstance(value, dict):
                break
            if header is None:
                header = value
            else:
                self._positions[value["key"]] = end
            end += len(line)
        self._file.truncate(end)
        return header


def _difference(found: Entry, wanted: Entry) -> str:
    changes = [
        f"{name} was {found.get(name)!r}, is {wanted.get(name)!r}"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]
    return "; ".join(changes)
