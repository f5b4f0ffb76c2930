"""A job that also draws what was found in each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.batch.job import ImageJob, Loaded
from bpr.pipeline.batch.wrapped_job import WrappedJob
from bpr.pipeline.files import write_atomically
from bpr.pipeline.formats.images import encode_png
from bpr.pipeline.instance import Prediction
from bpr.pipeline.instance_pictures import draw_instances

_PICTURE = "picture"


class DrawnJob(WrappedJob[ImageJob]):
    """Does what another job does, and writes a picture of each image into a folder.

    Args:
        job: that reads and writes.
        categories: names by label.
        folder: for the pictures, `<key>.png` in subfolders as the images.
    """

    def __init__(self, job: ImageJob, categories: Mapping[int, str], folder: AnyPath) -> None:
        super().__init__(job)
        self._categories, self._folder = categories, folder

    def read(self, key: str) -> Loaded:
        """Read the image, and keep it to draw on."""
        loaded = super().read(key)
        return replace(loaded, source=(loaded.source, loaded.image))

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Write the prediction, then its picture."""
        inner, image = source
        entry = super().write(key, inner, prediction)
        name = PurePosixPath(key).with_suffix("").as_posix() + ".png"
        drawn = draw_instances(image, prediction, self._categories)
        write_atomically(self._folder / name, encode_png(drawn), self.work)
        return {**entry, _PICTURE: name}

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """The job's files and the picture are there."""
        return (
            _PICTURE in entry
            and (self._folder / entry[_PICTURE]).is_file()
            and super().is_written(entry)
        )
