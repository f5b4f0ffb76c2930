"""Works on the jobs of a folder, one after the other, each in a process of its own.

A job is claimed by a lock on a file in its folder. The process that works on it inherits the lock,
so that a service which was killed, and one that shares the folder, never work on it twice.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from bpr.pipeline.files import claim
from bpr.service.jobs.run import REFUSED
from bpr.service.jobs.spec import INPUT, LOCK, OUTPUT, PARTIAL_INPUT, PARTS
from bpr.service.jobs.store import JobRow, JobStore
from bpr.service.jobs.unpack import remove_folder
from bpr.service.metrics import Metrics

logger = logging.getLogger(__name__)

_LOOK_S = 1.0  # between searches for new, abandoned and expired jobs
_MAX_DEATHS = 3  # of a job's process, without an image done in between
_DAY_S = 86400.0
_TIDY_S = 60.0
_ABANDONED_S = 3600.0  # folders without a job are uploads for so long at most
_STDERR = "stderr.txt"
_REPORTED = ("images", "images_done", "images_failed", "seconds_left", "result_url")


class JobQueue:
    """Runs jobs in a thread until it is closed.

    Args:
        store: which jobs there are.
        folder: in which each job has a folder named by its id.
        days: until a finished job is deleted.
        upload_timeout_s: how long a job may take to come in.
        metrics: told of every job that ends.
    """

    def __init__(
        self, store: JobStore, folder: Path, days: float, upload_timeout_s: float, metrics: Metrics
    ) -> None:
        self._store, self._folder, self._metrics = store, folder, metrics
        self._keep_s = days * _DAY_S
        self._abandoned_s = upload_timeout_s + _ABANDONED_S
        self._wake = threading.Event()
        self._is_closed = False
        self._tidy_at = 0.0
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There is something new to do."""
        self._wake.set()

    def close(self) -> None:
        """Stop. A running job resumes when a service is started again."""
        self._is_closed = True
        self._wake.set()
        if self._process is not None:
            self._process.kill()
        if self._thread.is_alive():
            self._thread.join()

    def discard(self, job_id: str) -> None:
        """Remove the folder of a deleted job, unless a process works in it: it does so later."""
        folder = self._folder / job_id
        lock = _lock(folder)
        if lock is not None:
            with lock:
                remove_folder(folder)

    def _run(self) -> None:
        while not self._is_closed:
            self._wake.clear()
            try:
                self._tidy()
                if not self._do_one():
                    self._wake.wait(_LOOK_S)
            except Exception:
                logger.exception("the queue of jobs failed; it tries again")
                self._wake.wait(_LOOK_S)

    def _do_one(self) -> bool:
        """Work on the first job that nobody works on; False where there is none."""
        for job in self._store.unfinished():
            lock = _lock(self._folder / job.id)
            if lock is None:
                continue
            with lock:
                self._do(job, lock)
            return True
        return False

    def _do(self, job: JobRow, lock: IO[bytes]) -> None:
        folder = self._folder / job.id
        if not self._store.change(job.id, status="running"):
            remove_folder(folder)
            return
        logger.info("a job begins", extra={"job": job.id, "client": job.client})
        last, status = self._work(job, folder, lock)
        if self._is_closed:
            self._store.change(job.id, status="queued", seconds_left=None)
            return
        if self._store.find(job.id) is None:
            logger.info("a job was deleted", extra={"job": job.id})
            remove_folder(folder)
        elif status == 0:
            self._end(job, "done", None)
        elif status == REFUSED and "error" in last:
            self._end(job, "failed", last["error"])
        else:
            self._mourn(job, folder, status)

    def _work(self, job: JobRow, folder: Path, lock: IO[bytes]) -> tuple[dict[str, Any], int]:
        """Run the process of a job; its last words and its exit status."""
        last: dict[str, Any] = {}
        command = [sys.executable, "-m", "bpr.service.jobs.run", str(folder.resolve())]
        with (folder / _STDERR).open("wb") as stderr:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,  # Ctrl-C in a terminal is for the service
                pass_fds=(lock.fileno(),),
            )
            self._process = process
            assert process.stdout is not None
            if self._is_closed:
                process.kill()
            with process:
                for line in process.stdout:
                    last = json.loads(line)
                    seen = {name: last[name] for name in _REPORTED if name in last}
                    if last.get("images_done", 0) > job.images_done:
                        seen["deaths"] = 0
                    if not self._store.change(job.id, status="running", **seen):
                        process.kill()  # it was deleted
            self._process = None
        return last, process.returncode

    def _end(self, job: JobRow, status: str, detail: str | None) -> None:
        if status == "failed":
            for name in (PARTS, PARTIAL_INPUT, INPUT, OUTPUT):
                remove_folder(self._folder / job.id / name)
        self._store.finish(job.id, "done" if status == "done" else "failed", detail)
        self._metrics.jobs.labels(status).inc()
        extra = {"job": job.id, "client": job.client, "status": status}
        logger.info("a job ended", extra={**extra, **({"detail": detail} if detail else {})})

    def _mourn(self, job: JobRow, folder: Path, status: int) -> None:
        """The process of a job died: once more, unless it always does."""
        now = self._store.find(job.id)
        deaths = (now.deaths if now is not None else 0) + 1
        said = (folder / _STDERR).read_text(encoding="utf-8", errors="replace")[-4000:]
        logger.error(
            "the process of a job died", extra={"job": job.id, "exit": status, "said": said}
        )
        if deaths >= _MAX_DEATHS:
            words = (
                f"The process that worked on the job died {deaths} times, perhaps for want of "
                "memory. The operator's log says more."
            )
            self._end(job, "failed", words)
        else:
            self._store.change(job.id, status="queued", deaths=deaths)

    def _tidy(self) -> None:
        """Delete what is too old, and folders that have no job: of uploads that were cut off."""
        if time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + _TIDY_S
        now = time.time()
        for job in self._store.finished_before(now - self._keep_s):
            self._store.delete(job.id)
            self.discard(job.id)
        with os.scandir(self._folder) as entries:
            folders = [entry for entry in entries if entry.is_dir()]
        for entry in folders:
            is_old = now - entry.stat().st_mtime > self._abandoned_s
            if is_old and self._store.find(entry.name) is None:
                self.discard(entry.name)


def _lock(folder: Path) -> IO[bytes] | None:
    """The claim on a job's folder; None where another process has it, or there is no folder."""
    try:
        file = (folder / LOCK).open("ab")
    except OSError:
        return None
    try:
        claim(file, str(folder))
    except ValueError:
        file.close()
        return None
    return file
