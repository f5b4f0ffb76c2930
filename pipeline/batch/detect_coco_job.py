"""Images, detected into a COCO results json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.batch.job import Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.datasets.coco_images import image_names
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.files import refuse_to_overwrite, stamp, write_atomically
from bpr.pipeline.formats import coco
from bpr.pipeline.formats.frame import Frame
from bpr.pipeline.formats.images import MAX_PIXELS, read_image
from bpr.pipeline.instance import Prediction


class DetectCocoJob:
    """Reads an image, or those of a folder; keys are their ids as text.

    Records wait in the journal until all images are done: the results json appears as a whole.

    Args:
        images: folder of images, or a single image.
        images_json: any COCO json with `images`, for the id of each file: only its images are
            read, and of these only `images` if that is one image. Without it all are, and the id
            is the stem: a number where it is one, plain or with leading zeros to 12 digits.
        out: results json to write.
        max_pixels: refuse larger images.

    Raises:
        ValueError: a file or folder is missing or not what it should be, or two images have one
            id.
    """

    def __init__(
        self,
        images: AnyPath,
        images_json: AnyPath | None,
        out: AnyPath,
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if out.is_dir():
            raise ValueError(f"{out}: expected a json file for COCO results, got a folder")
        self.source, self.out, self._max_pixels = images, out, max_pixels
        self.work = out.parent / f".{out.name}.bpr"
        self.report = out.with_name(f"{out.stem}.report.json")
        refuse_to_overwrite([self.out, self.report], [images_json] if images_json else [])
        self._index = ImageIndex.of_photographs(images)
        self._entries = coco.load_images(images_json) if images_json else None
        self._ids: dict[str, Any] = {}  # as the json has them, by their text
        self._paths: dict[str, AnyPath] = {}
        if self._entries is not None:
            self._ids = {image_id: entry.raw_id for image_id, entry in self._entries.items()}
            if not self._ids:
                raise ValueError(f"{images_json}: expected images, got none")
            if images.is_file():
                self._ids = {key: raw for key, raw in self._ids.items() if self._is_found(key)}
                if not self._ids:
                    raise ValueError(f"{images_json}: expected an entry for {images}, got none")
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

    @property
    def remarks(self) -> Sequence[str]:
        """Files of the folder that were passed over."""
        return [self._index.passed_over] if self._index.passed_over else []

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
        path = self._path(key)
        frame = Frame(claimed=None if self._entries is None else self._entries[key].size)
        photograph = read_image(path, frame, self._max_pixels)
        frame.check(photograph.size, photograph.stored, str(path))
        return Loaded(
            image=photograph.pixels,
            prediction=Prediction(photograph.size, ()),
            notes=photograph.notes,
        )

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

    def existing_output(self) -> AnyPath | None:
        """The first file that a run would overwrite."""
        return next((path for path in (self.out, self.report) if path.exists()), None)

    def _is_found(self, key: str) -> bool:
        try:
            self._path(key)
        except ValueError:
            return False
        return True

    def _path(self, key: str) -> AnyPath:
        if self._entries is None:
            return self._paths[key]
        names = image_names(key, self._entries)
        if self._entries[key].file_name is None:
            return self._index.find(names)
        return self._index.find_name(names[0])


def _image_id(stem: str) -> int | str:
    """The id that `bpr refine` and `bpr evaluate` look for under this stem."""
    if stem.isascii() and stem.isdigit() and stem in (str(int(stem)), f"{int(stem):012}"):
        return int(stem)
    return stem
