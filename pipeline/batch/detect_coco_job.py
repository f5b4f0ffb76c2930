"""A folder of images, detected into a COCO results json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from bpr.pipeline.batch.job import Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.files import stamp, write_atomically
from bpr.pipeline.formats import coco
from bpr.pipeline.formats.images import read_image
from bpr.pipeline.instance import Prediction, Size


class DetectCocoJob:
    """Reads images of a folder; keys are their ids as text.

    Records wait in the journal until all images are done: the results json appears as a whole.

    Args:
        images: folder of images.
        images_json: any COCO json with `images`, for the id of each file: only its images are
            read. Without it all are, and the id is the stem: a number where it is one, plain or
            with leading zeros to 12 digits.
        out: results json to write.

    Raises:
        ValueError: a file or folder is missing or not what it should be, or two images have one
            id.
    """

    def __init__(self, images: Path, images_json: Path | None, out: Path) -> None:
        if out.is_dir():
            raise ValueError(f"{out}: expected a json file for COCO results, got a folder")
        self.source, self.out = images, out
        self.work = out.parent / f".{out.name}.bpr"
        self.report = out.with_name(f"{out.stem}.report.json")
        self._index = ImageIndex(images)
        self._entries = coco.load_images(images_json) if images_json else None
        self._ids: dict[str, coco.ImageId] = {}
        self._paths: dict[str, Path] = {}
        if self._entries is not None:
            self._ids = {str(image_id): image_id for image_id in self._entries}
            if not self._ids:
                raise ValueError(f"{images_json}: expected images, got none")
            if len(self._ids) < len(self._entries):
                raise ValueError(f"{images_json}: expected image ids all ints or all text")
            return
        for path in self._index.files():
            image_id = _image_id(path.stem)
            other = self._paths.setdefault(str(image_id), path)
            if other != path:
                raise ValueError(
                    f"{images}: expected images of different ids (stems), got {image_id} for "
                    f"{other.relative_to(images)} and {path.relative_to(images)}"
                )
            self._ids[str(image_id)] = image_id

    def keys(self) -> Sequence[str]:
        """Image ids in the order of the images json, or of the files."""
        return list(self._ids)

    def stamp(self, key: str) -> str:
        """Changes when the image does."""
        try:
            return stamp(self._path(key))
        except ValueError as error:
            return str(error)

    def read(self, key: str) -> Loaded:
        """Read the image."""
        claimed = self._claimed_size(key)
        photograph = read_image(self._path(key), claimed)
        size = (photograph.pixels.shape[0], photograph.pixels.shape[1])
        if claimed not in (None, size):
            raise ValueError(
                f"{self._path(key)}: expected {claimed} pixels (height, width) as the images json "
                f"says, got {size}"
            )
        return Loaded(photograph.pixels, Prediction(size, ()), photograph.notes)

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Nothing is written yet; the journal keeps the records."""
        image_id = self._ids[key]
        return {
            "records": [
                coco.detected_record(image_id, instance) for instance in prediction.instances
            ]
        }

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """The journal itself holds the records."""
        return "records" in entry

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """Never: an image that failed is left out in `finish`."""
        return False

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """Write the results json in the order of the images."""

        def records() -> Iterator[Mapping[str, Any]]:
            for key in self._ids:
                if key not in failed:
                    yield from journal.read(key)["records"]

        text = coco.encode_results(records())
        write_atomically(self.out, (piece.encode() for piece in text), self.work)

    def existing_output(self) -> Path | None:
        """The results json, where it exists."""
        return self.out if self.out.exists() else None

    def _path(self, key: str) -> Path:
        if self._entries is None:
            return self._paths[key]
        return self._index.find_name(self._entries[self._ids[key]].file_name)

    def _claimed_size(self, key: str) -> Size | None:
        return None if self._entries is None else self._entries[self._ids[key]].size


def _image_id(stem: str) -> coco.ImageId:
    """The id that `bpr refine` and `bpr evaluate` look for under this stem."""
    if stem.isascii() and stem.isdigit() and stem in (str(int(stem)), f"{int(stem):012}"):
        return int(stem)
    return stem
