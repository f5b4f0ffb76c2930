"""A job that also writes the probabilities of each refined mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path, PurePosixPath
from typing import Any

from bpr.pipeline.batch.job import Job, Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.batch.output_folder import OutputFolder
from bpr.pipeline.files import write_atomically
from bpr.pipeline.formats.images import encode_soft_mask
from bpr.pipeline.instance import Prediction

_SOFT = "soft"


def soft_folder(out: Path) -> Path:
    """Where the probabilities beside an output go: `soft` in a folder, `<stem>_soft` of a json."""
    return out.with_name(f"{out.stem}_{_SOFT}") if out.suffix else out / _SOFT


class SoftJob:
    """Does what another job does, and writes `<key>_<n>.png` for the n-th mask of each image.

    Args:
        job: that reads and writes.
        folder: for the PNGs, in subfolders as the images.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        self._job, self._folder = job, folder
        self.source, self.work, self.report = job.source, job.work, job.report

    @property
    def remarks(self) -> Sequence[str]:
        """Those of the job."""
        return self._job.remarks

    def keys(self) -> Sequence[str]:
        """Those of the job."""
        return self._job.keys()

    def part(self, key: str) -> SoftJob:
        """The job with one image."""
        return SoftJob(self._job.part(key), self._folder)

    def stamp(self, key: str) -> str:
        """That of the job."""
        return self._job.stamp(key)

    def read(self, key: str) -> Loaded:
        """As the job does."""
        return self._job.read(key)

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Write the prediction, then its probabilities."""
        entry = self._job.write(key, source, prediction)
        stem = PurePosixPath(key).with_suffix("").as_posix()
        digests = {
            name: write_atomically(self._folder / name, encode_soft_mask(soft), self.work)
            for name, soft in (
                (f"{stem}_{number}.png", instance.soft)
                for number, instance in enumerate(prediction.instances)
            )
            if soft is not None
        }
        return {**entry, _SOFT: digests}

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """The job's files and the probabilities are there."""
        are_there = OutputFolder(self._folder).holds(entry.get(_SOFT, {}))
        return _SOFT in entry and are_there and self._job.is_written(entry)

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """As the job says."""
        return self._job.leaves_files(entry)

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """As the job does."""
        self._job.finish(journal, failed)

    def existing_output(self) -> Path | None:
        """That of the job."""
        return self._job.existing_output()
