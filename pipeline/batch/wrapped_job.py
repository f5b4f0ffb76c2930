"""A job that does what another job does: the base of those that write something more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, Generic, TypeVar

from bpr._paths import AnyPath
from bpr.pipeline.batch.job import ImageJob, Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.instance import Prediction

AnyJob = TypeVar("AnyJob", bound=ImageJob)


class WrappedJob(Generic[AnyJob]):
    """Passes everything on to a job.

    Args:
        job: that reads and writes.
    """

    def __init__(self, job: AnyJob) -> None:
        self._job = job
        self.source, self.work, self.report = job.source, job.work, job.report

    @property
    def remarks(self) -> Sequence[str]:
        """Those of the job."""
        return self._job.remarks

    def keys(self) -> Sequence[str]:
        """Those of the job."""
        return self._job.keys()

    def stamp(self, key: str) -> str:
        """That of the job."""
        return self._job.stamp(key)

    def read(self, key: str) -> Loaded:
        """As the job does."""
        return self._job.read(key)

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """As the job does."""
        return self._job.write(key, source, prediction)

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """As the job says."""
        return self._job.is_written(entry)

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """As the job says."""
        return self._job.leaves_files(entry)

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """As the job does."""
        self._job.finish(journal, failed)

    def existing_output(self) -> AnyPath | None:
        """That of the job."""
        return self._job.existing_output()
