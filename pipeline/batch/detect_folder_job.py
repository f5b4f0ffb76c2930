"""Images, detected into a Cityscapes prediction folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.batch.job import Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.batch.output_folder import OutputFolder
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.files import stamp
from bpr.pipeline.formats import cityscapes
from bpr.pipeline.formats.images import MAX_PIXELS, read_image
from bpr.pipeline.instance import Prediction


class DetectFolderJob:
    """Reads an image, or all below a folder; keys are their relative paths.

    `<folder>/<stem>.*` becomes `<folder>/<stem>_pred.txt` and a PNG for each instance.

    Args:
        images: folder of images, subfolders included, or a single image.
        categories: names by label.
        out: folder for the predictions; images in it are results and not read.
        max_pixels: refuse larger images.

    Raises:
        ValueError: the images are missing, or `out` is their folder or image.
    """

    def __init__(
        self,
        images: AnyPath,
        categories: Mapping[int, str],
        out: AnyPath,
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        folder = images.parent if images.is_file() else images
        if out.resolve() == folder.resolve():
            raise ValueError(f"{out}: expected another folder than the images")
        self.source, self._categories, self._out = images, categories, OutputFolder(out)
        self.work, self.report = self._out.work, self._out.report
        self._index = ImageIndex.of_photographs(images, without=out)
        self._max_pixels = max_pixels
        self._paths = {path.relative_to(folder).as_posix(): path for path in self._index.files()}
        self._images_of = Counter(map(_text_file, self._paths))

    @property
    def remarks(self) -> Sequence[str]:
        """Files of the folder that were passed over."""
        return [self._index.passed_over] if self._index.passed_over else []

    def keys(self) -> Sequence[str]:
        """Relative paths of the images, sorted."""
        return list(self._paths)

    def stamp(self, key: str) -> str:
        """Changes when the image does."""
        return stamp(self._paths[key])

    def read(self, key: str) -> Loaded:
        """Read the image."""
        if self._images_of[_text_file(key)] > 1:
            raise ValueError(
                f"{self._paths[key]}: expected images of different stems in a folder, got several "
                f"for {_text_file(key)}"
            )
        photograph = read_image(self._paths[key], max_pixels=self._max_pixels)
        size = (photograph.pixels.shape[0], photograph.pixels.shape[1])
        return Loaded(
            image=photograph.pixels, prediction=Prediction(size, ()), notes=photograph.notes
        )

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Write the PNGs, then the txt; remove PNGs of an earlier detection that it leaves out."""
        path = Path(key)
        files = cityscapes.encode_detections(path.stem, prediction, self._categories)
        before = self._out.path / _text_file(key)
        old = cityscapes.detected_masks(before.read_bytes(), path.stem) if before.exists() else ()
        written = self._out.write(
            {(path.parent / name).as_posix(): data for name, data in files.items()}
        )
        for name in set(old) - set(files):
            (before.parent / name).unlink(missing_ok=True)
        return {"files": written}

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """All files of the image have the content that was written."""
        return self._out.holds(entry["files"])

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """One of the files is there."""
        return self._out.first_existing(entry["files"]) is not None

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """Nothing is left to write."""

    def existing_output(self) -> AnyPath | None:
        """The first file that a run would overwrite."""
        return self._out.first_existing([*self._images_of, self.report.name])


def _text_file(key: str) -> str:
    path = Path(key)
    return (path.parent / (path.stem + cityscapes.SUFFIX)).as_posix()
