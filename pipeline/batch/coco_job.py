"""A COCO json, results or a data set's own labels, refined into another one."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from copy import copy
from pathlib import Path, PurePosixPath
from typing import Any

from bpr.pipeline.batch.job import Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.files import stamp, write_atomically
from bpr.pipeline.formats import coco
from bpr.pipeline.formats.images import read_image
from bpr.pipeline.instance import Prediction, Size


class CocoJob:
    """Reads a results json; keys are its image ids as text.

    Refined records wait in the journal until all images are done: the json appears as a whole.
    Results of images that failed are left out of it; labels of theirs stay as they were.

    Args:
        results: json list of instances, or an object with `annotations` and `images`.
        images: folder of images.
        images_json: any COCO json with `images`, for id -> file name; without it labels have
            their own, and of results the file name is the id, plain or with leading zeros to 12
            digits.
        out: json to write.
        polygon_tolerance: see `coco.refined_record`.

    Raises:
        ValueError: a file is missing or not what it should be.
    """

    def __init__(
        self,
        results: Path,
        images: Path,
        images_json: Path | None,
        out: Path,
        polygon_tolerance: float | None = None,
    ) -> None:
        if out.resolve() == results.resolve():
            raise ValueError(f"{out}: expected another file than the results to refine")
        if out.is_dir():
            raise ValueError(f"{out}: expected a json file for COCO results, got a folder")
        self.source, self.out = results, out
        self.work = out.parent / f".{out.name}.bpr"
        self.report = out.with_name(f"{out.stem}.report.json")
        self._tolerance = polygon_tolerance
        self._results = coco.load_results_or_labels(results)
        self._entries = coco.load_images(images_json) if images_json else None
        if self._entries is None and self._results.data_set is not None:
            self._entries = coco.parse_images(results, self._results.data_set)
        self._index = ImageIndex(images)
        self._ids: dict[str, coco.ImageId] = {}
        for image_id in self._results.by_image:
            if self._ids.setdefault(str(image_id), image_id) != image_id:
                raise ValueError(
                    f"{results}: expected image ids all ints or all text, got both {image_id} "
                    f"and '{image_id}'"
                )
        self._strays = {f"entry {index}": why for index, why in self._results.strays.items()}

    def keys(self) -> Sequence[str]:
        """Image ids in the order of their first entry, then the entries without one."""
        return [*self._ids, *self._strays]

    def part(self, key: str) -> CocoJob:
        """The job with the entries of one image; they keep their numbers."""
        part = copy(self)
        part._strays = {key: self._strays[key]} if key in self._strays else {}
        image_id = self._ids.get(key)
        part._ids = {} if image_id is None else {key: image_id}
        part._results = self._results.part(part._ids.values())
        stems = [key, key.zfill(12)]
        if self._entries is not None:
            part._entries = {}
            if image_id in self._entries:
                entry = part._entries[image_id] = self._entries[image_id]
                stems = [PurePosixPath(entry.file_name).stem]
        part._index = self._index.part(stems)
        return part

    def stamp(self, key: str) -> str:
        """Changes when the image or one of its entries does."""
        if key in self._strays:
            return ""
        digest = hashlib.sha256(b"" if self._tolerance is None else str(self._tolerance).encode())
        for index in self._results.by_image[self._ids[key]]:
            digest.update(json.dumps(self._results.records[index]).encode())
        try:
            image = stamp(self._image_path(key))
        except ValueError as error:
            image = str(error)
        return f"{digest.hexdigest()} {image}"

    def read(self, key: str) -> Loaded:
        """Read the image and decode its masks."""
        if key in self._strays:
            raise ValueError(self._strays[key])
        image_id = self._ids[key]
        photograph = read_image(self._image_path(key), self._claimed_size(image_id))
        size = (photograph.pixels.shape[0], photograph.pixels.shape[1])
        prediction = coco.read_prediction(self._results, image_id, size)
        return Loaded(photograph.pixels, prediction, photograph.notes)

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Nothing is written yet; the journal keeps the refined records."""
        records = [
            coco.refined_record(instance.record, instance.mask, self._tolerance)
            for instance in prediction.instances
        ]
        return {"records": records}

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """The journal itself holds the records."""
        return "records" in entry

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """Never: entries of an image that failed are left out in `finish`."""
        return False

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """Write the json in the order of the input."""
        text = coco.encode_results(self._refined(journal, failed), self._results.data_set)
        write_atomically(self.out, (piece.encode() for piece in text), self.work)

    def existing_output(self) -> Path | None:
        """The results json, where it exists."""
        return self.out if self.out.exists() else None

    def _refined(self, journal: AnyJournal, failed: Set[str]) -> Iterator[Mapping[str, Any]]:
        keys = {
            index: key
            for key, image_id in self._ids.items()
            for index in self._results.by_image[image_id]
        }
        image, at_hand = "", []  # entries of an image mostly stand together
        used: Counter[str] = Counter()
        for index, record in self._results.records.items():
            key = keys.get(index)
            if key is not None and key not in failed:
                if key != image:
                    image, at_hand = key, journal.read(key)["records"]
                yield at_hand[used[key]]
                used[key] += 1
            elif self._results.data_set is not None:
                yield record

    def _claimed_size(self, image_id: coco.ImageId) -> Size | None:
        """The size that the images json or else the first RLE of an image names."""
        if self._entries is not None and image_id in self._entries:
            named = self._entries[image_id].size
            if named is not None:
                return named
        for index in self._results.by_image[image_id]:
            segmentation = self._results.records[index].get("segmentation")
            if isinstance(segmentation, dict):
                match segmentation.get("size"):
                    case [int(height), int(width)]:
                        return height, width
        return None

    def _image_path(self, key: str) -> Path:
        image_id = self._ids[key]
        if self._entries is None:
            return self._index.find([key, key.zfill(12)])
        if image_id not in self._entries:
            raise ValueError(f"image id {key}: expected an entry in 'images' of the images json")
        return self._index.find_name(self._entries[image_id].file_name)
