"""A job that also draws what was found in each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from bpr.pipeline.batch.job import ImageJob, Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.files import write_atomically
from bpr.pipeline.formats.images import encode_png
from bpr.pipeline.instance import Prediction
from bpr.pipeline.instance_pictures import draw_instances

_PICTURE = "picture"


class DrawnJob:
    """Does what another job does, and writes a picture of each image into a folder.

    Args:
        job: that reads and writes.
        categories: names by label.
        folder: for the pictures, `<key>.png` in subfolders as the images.
    """

    def __init__(self, job: ImageJob, categories: Mapping[int, str], folder: Path) -> None:
        self._job, self._categories, self._folder = job, categories, folder
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
        """Read the image, and keep it to draw on."""
        loaded = self._job.read(key)
        return replace(loaded, source=(loaded.source, loaded.image))

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Write the prediction, then its picture."""
        inner, image = source
        entry = self._job.write(key, inner, prediction)
        name = PurePosixPath(key).with_suffix("").as_posix() + ".png"
        drawn = draw_instances(image, prediction, self._categories)
        write_atomically(self._folder / name, encode_png(drawn), self.work)
        return {**entry, _PICTURE: name}

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """The job's files and the picture are there."""
        return (
            _PICTURE in entry
            and (self._folder / entry[_PICTURE]).is_file()
            and self._job.is_written(entry)
        )

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """As the job says."""
        return self._job.leaves_files(entry)

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """As the job does."""
        self._job.finish(journal, failed)

    def existing_output(self) -> Path | None:
        """That of the job."""
        return self._job.existing_output()
