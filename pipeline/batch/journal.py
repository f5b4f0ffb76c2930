"""What a run has finished: one json line per image, so that a rerun goes on where it stopped."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from bpr._paths import AnyPath, is_local
from bpr.pipeline.files import claim, find_files, read_if_there, write_atomically

Entry = Mapping[str, Any]


class OtherSetup(ValueError):
    """A journal has entries of a run with another header; the message says what differs."""


class Journal:
    """An append-only file of finished images. Entries stay on disk; memory holds positions.

    The first line says how the run was set up. A last line torn by a kill is dropped. Several
    threads may use one journal; two processes may not.

    Args:
        path: of the file; made, with its folder, if missing.
        header: how this run is set up, json-ready.
        start_over: forget what is there.

    Raises:
        OtherSetup: the file has entries of a run that was set up in another way.
        ValueError: another process uses the file.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], start_over: bool = False) -> None:
        self.path = path
        self._positions: dict[str, int] = {}
        self._lock = threading.Lock()  # one position in the file serves all threads
        path.parent.mkdir(parents=True, exist_ok=True)
        # unbuffered: what did not fit on the disk must not be tried again on closing
        self._end = path.open("ab", buffering=0)
        self._file = path.open("rb")
        try:
            claim(self._end, str(path.parent))
            found = None if start_over else self._load()
            if found is not None and not self._is_same(found, header):
                if self._positions:
                    raise OtherSetup(_difference(found, header))
                found = None  # nothing was finished: nothing is lost
            if found is None:
                self._positions.clear()
                self._end.truncate(0)
                self._append(header)
        except BaseException:
            self.close()
            raise

    def __contains__(self, key: str) -> bool:
        return key in self._positions

    def read(self, key: str) -> Entry:
        """The last entry of a key."""
        with self._lock:
            self._file.seek(self._positions[key])
            line = self._file.readline()
        entry: Entry = json.loads(line)
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._positions))

    def append(self, key: str, entry: Entry) -> None:
        """Add an entry; it is safe from a kill of this process when the call returns."""
        self._positions[key] = self._append({"key": key, **entry})

    def close(self) -> None:
        """Close the file and let other processes in."""
        self._file.close()
        self._end.close()

    def _append(self, value: Mapping[str, Any]) -> int:
        line = json.dumps(value).encode() + b"\n"
        with self._lock:
            position = os.fstat(self._end.fileno()).st_size
            try:
                while line:
                    line = line[self._end.write(line) :]
            except OSError as error:
                error.filename = str(self.path)
                raise
        return position

    @staticmethod
    def _is_same(found: Entry, header: Entry) -> bool:
        same: bool = found == json.loads(json.dumps(header))
        return same

    def _load(self) -> Entry | None:
        """Read the positions of all entries and cut off a torn end; returns the header."""
        self._file.seek(0)
        header, end = None, 0
        for line in self._file:
            try:
                value = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                value = None
            if not isinstance(value, dict) or (header is not None and "key" not in value):
                break
            if header is None:
                header = value
            else:
                self._positions[value["key"]] = end
            end += len(line)
        self._end.truncate(end)
        return header


class ObjectJournal:
    """The same in an object store, where nothing can be appended: an object for each entry.

    Nothing keeps a second process out.

    Args:
        path: of the object with the header; entries lie beside it, below `entries/`.
        header: how this run is set up, json-ready.
        start_over: forget what is there.

    Raises:
        OtherSetup: there are entries of a run that was set up in another way.
    """

    def __init__(self, path: AnyPath, header: Mapping[str, Any], start_over: bool = False) -> None:
        self.path = path
        self._folder = path.parent / "entries"
        self._keys = {unquote(file.name): None for file in find_files(self._folder)}
        content = read_if_there(path)
        found = json.loads(content) if content and not start_over else None
        if self._keys and found is not None and found != json.loads(json.dumps(header)):
            raise OtherSetup(_difference(found, header))
        if found is None:
            for key in self._keys:
                self._entry(key).unlink()
            self._keys.clear()
        write_atomically(path, json.dumps(header).encode())

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def read(self, key: str) -> Entry:
        """The last entry of a key."""
        entry: Entry = json.loads(self._entry(key).read_bytes())
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._keys))

    def append(self, key: str, entry: Entry) -> None:
        """Add an entry; it is safe when the call returns."""
        write_atomically(self._entry(key), json.dumps({"key": key, **entry}).encode())
        self._keys[key] = None

    def close(self) -> None:
        """Nothing is open."""

    def _entry(self, key: str) -> AnyPath:
        return self._folder / quote(key, safe="")


AnyJournal = Journal | ObjectJournal


def open_journal(path: AnyPath, header: Mapping[str, Any], start_over: bool = False) -> AnyJournal:
    """The journal at a path, wherever it is; see `Journal`."""
    if is_local(path):
        return Journal(path, header, start_over)
    return ObjectJournal(path, header, start_over)


def _difference(found: Entry, wanted: Entry) -> str:
    changes = [
        f"{name} was {found.get(name)!r}, is {wanted.get(name)!r}"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]
    return "; ".join(changes)
