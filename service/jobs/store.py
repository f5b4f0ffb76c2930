"""Which jobs there are: a table in SQLite beside their folders.

Each call opens the database anew, so that every thread, and every process that shares the folder,
may use it. What a call has written is on the disk when it returns.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

DATABASE = "jobs.sqlite"
_BUSY_S = 30.0  # for another process to finish its transaction

JobStatus = Literal["queued", "running", "done", "failed"]
UNFINISHED = ("queued", "running")


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """One job. Times are seconds since 1970."""

    id: str
    client: str  # key or address that sent it
    key_name: str | None  # of the API key that may see it; None: there was none
    status: JobStatus
    created: float
    finished: float | None = None
    images: int | None = None  # in all; None until they are counted
    images_done: int = 0
    images_failed: int = 0
    seconds_left: float | None = None
    detail: str | None = None  # why it failed
    result_url: str | None = None  # where the files are that lie in an object store
    deaths: int = 0  # of the process that worked on it, without an image done in between


_COLUMNS = tuple(field.name for field in fields(JobRow))
_TABLE = f"""
CREATE TABLE IF NOT EXISTS jobs (
    {", ".join(name + (" TEXT PRIMARY KEY" if name == "id" else "") for name in _COLUMNS)}
)
"""


class JobStore:
    """The table of jobs in a folder, which is made if it is missing.

    Raises:
        ValueError: the folder cannot be written, or the database is another one's.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / DATABASE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._open() as database:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute(_TABLE)
                found = tuple(row[1] for row in database.execute("PRAGMA table_info(jobs)"))
        except (OSError, sqlite3.Error) as error:
            raise ValueError(f"jobs_folder: expected a folder to write to, got {error}") from None
        if found != _COLUMNS:
            raise ValueError(
                f"jobs_folder: expected the jobs of this version in {self._path}, got those of "
                "another one; name another folder"
            )

    def add(self, job: JobRow, max_unfinished: int) -> bool:
        """Put a job in line, unless its client has as many unfinished ones as it may."""
        with self._open() as database:
            count = "SELECT count(*) FROM jobs WHERE client = ? AND status IN (?, ?)"
            if database.execute(count, (job.client, *UNFINISHED)).fetchone()[0] >= max_unfinished:
                return False
            places = ", ".join("?" * len(_COLUMNS))
            values = tuple(getattr(job, name) for name in _COLUMNS)
            database.execute(f"INSERT INTO jobs VALUES ({places})", values)
        return True

    def find(self, job_id: str) -> JobRow | None:
        """A job by its id."""
        rows = self._select("WHERE id = ?", job_id)
        return rows[0] if rows else None

    def unfinished(self) -> list[JobRow]:
        """Jobs that are queued or running, the oldest first."""
        return self._select("WHERE status IN (?, ?) ORDER BY created, id", *UNFINISHED)

    def ahead(self, job: JobRow) -> int:
        """Unfinished jobs that came before this one."""
        earlier = "WHERE status IN (?, ?) AND (created, id) < (?, ?)"
        with self._open() as database:
            row = database.execute(
                f"SELECT count(*) FROM jobs {earlier}", (*UNFINISHED, job.created, job.id)
            ).fetchone()
        return int(row[0])

    def change(self, job_id: str, **values: object) -> bool:
        """Change columns of a job; False where it was deleted."""
        assert values.keys() <= set(_COLUMNS)
        changes = ", ".join(f"{name} = ?" for name in values)
        with self._open() as database:
            done = database.execute(
                f"UPDATE jobs SET {changes} WHERE id = ?", (*values.values(), job_id)
            )
            return done.rowcount == 1

    def finish(self, job_id: str, status: JobStatus, detail: str | None = None) -> bool:
        """Note the end of a job; False where it was deleted."""
        return self.change(
            job_id, status=status, detail=detail, finished=time.time(), seconds_left=None
        )

    def delete(self, job_id: str) -> bool:
        """Forget a job; False where there is none."""
        with self._open() as database:
            return database.execute("DELETE FROM jobs WHERE id = ?", (job_id,)).rowcount == 1

    def finished_before(self, moment: float) -> list[JobRow]:
        """Jobs that ended before a time."""
        return self._select("WHERE finished < ?", moment)

    def _select(self, where: str, *values: object) -> list[JobRow]:
        with self._open() as database:
            rows = database.execute(f"SELECT {', '.join(_COLUMNS)} FROM jobs {where}", values)
            return [JobRow(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level="IMMEDIATE")
        with closing(connection), connection:
            yield connection
