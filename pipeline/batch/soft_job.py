"""A job that also writes the probabilities of each refined mask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.batch.job import Job
from bpr.pipeline.batch.output_folder import OutputFolder
from bpr.pipeline.batch.wrapped_job import WrappedJob
from bpr.pipeline.files import write_atomically
from bpr.pipeline.formats.images import encode_soft_mask
from bpr.pipeline.instance import Prediction

_SOFT = "soft"


def soft_folder(out: AnyPath) -> AnyPath:
    """Where the probabilities beside an output go: `soft` in a folder, `<stem>_soft` of a json."""
    return out.with_name(f"{out.stem}_{_SOFT}") if out.suffix else out / _SOFT


class SoftJob(WrappedJob[Job]):
    """Does what another job does, and writes `<key>_<n>.png` for the n-th mask of each image.

    Args:
        job: that reads and writes.
        folder: for the PNGs, in subfolders as the images.
    """

    def __init__(self, job: Job, folder: AnyPath) -> None:
        super().__init__(job)
        self._folder = folder

    def part(self, key: str) -> SoftJob:
        """The job with one image."""
        return SoftJob(self._job.part(key), self._folder)

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Write the prediction, then its probabilities."""
        entry = super().write(key, source, prediction)
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
        return _SOFT in entry and are_there and super().is_written(entry)
