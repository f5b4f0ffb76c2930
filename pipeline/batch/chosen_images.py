"""A job with some of its images alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from fnmatch import fnmatchcase
from typing import Any

from bpr.pipeline.batch.job import Job
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.batch.wrapped_job import WrappedJob


class ChosenImages(WrappedJob[Job]):
    """The job with some of its images; what belongs to the others stays as it is.

    Args:
        job: the whole job.
        pattern: of the keys to keep, as a shell has it ("city/*"); None keeps all.
        limit: keep so many of these, the first ones; None keeps all.

    Raises:
        ValueError: nothing is left, or a limit below 1.
    """

    def __init__(self, job: Job, pattern: str | None, limit: int | None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"--limit: expected an int > 0, got {limit}")
        keys = [key for key in list(job.keys()) if pattern is None or fnmatchcase(key, pattern)]
        if not keys:
            some = ", ".join(list(job.keys())[:3])
            raise ValueError(f"--include {pattern!r}: expected some of {some} ..., found none")
        super().__init__(job)
        self._keys = keys[:limit]
        self._others = frozenset(job.keys()) - frozenset(self._keys)

    @property
    def remarks(self) -> Sequence[str]:
        """Those of the job, and how many images are left out."""
        return [*super().remarks, f"{len(self._others)} images are not chosen"]

    def keys(self) -> Sequence[str]:
        """The keys that are kept."""
        return self._keys

    def part(self, key: str) -> Job:
        """The job with one image."""
        return self._job.part(key)

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """Never: images that are not chosen are no failures."""
        return False

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """As in the job; images that no run has done stay as they are."""
        undone = frozenset(key for key in self._others if key not in journal)
        super().finish(journal, failed | undone)
