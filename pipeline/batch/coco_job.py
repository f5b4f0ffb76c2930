"""A COCO json, results or a data set's own labels, refined into another one."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.batch.job import Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.datasets.coco_images import image_names
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.files import refuse_to_overwrite, stamp, write_atomically
from bpr.pipeline.formats import coco
from bpr.pipeline.formats.frame import frame_of
from bpr.pipeline.formats.images import MAX_PIXELS, read_image
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.instance import Instance, Prediction, differing_pixels


@dataclass(frozen=True, eq=False)
class _Read:
    """What writing an image needs of its reading."""

    before: Mapping[int, Instance]  # by position in the file
    left: tuple[LeftObject, ...]


class CocoJob:
    """Reads a results json or labels; keys are its image ids as text.

    Refined records wait in the journal until all images are done: the json appears as a whole.
    Nothing is left out of it: what could not be refined stays as it came.

    Args:
        results: json list of instances, or an object with `annotations` and `images`.
        images: folder of images.
        images_json: any COCO json with `images`, for id -> file name; without it labels have
            their own, and of results the file name is the id, plain or with leading zeros to 12
            digits.
        out: json to write.
        polygon_tolerance: see `coco.refined_record`.
        include_crowds: refine crowds like other objects.
        max_pixels: refuse larger images.
        without: a folder of results, perhaps among the images.

    Raises:
        ValueError: a file is missing or not what it should be, or an input would be overwritten.
    """

    def __init__(
        self,
        results: AnyPath,
        images: AnyPath,
        images_json: AnyPath | None,
        out: AnyPath,
        polygon_tolerance: float | None = None,
        *,
        include_crowds: bool = False,
        max_pixels: int = MAX_PIXELS,
        without: AnyPath | None = None,
    ) -> None:
        if out.resolve() == results.resolve():
            raise ValueError(f"{out}: expected another file than the results to refine")
        if out.is_dir() or out.suffix.lower() != ".json":
            got = "a folder" if out.is_dir() else repr(out.name)
            raise ValueError(f"{out}: expected a json file for COCO results, got {got}")
        self.source, self.out = results, out
        self.work = out.parent / f".{out.name}.bpr"
        self.report = out.with_name(f"{out.stem}.report.json")
        self._tolerance, self._max_pixels = polygon_tolerance, max_pixels
        inputs = [results, *([images_json] if images_json else [])]
        refuse_to_overwrite([self.out, self.report], inputs)
        self._results = coco.load_results_or_labels(results, include_crowds)
        self._entries = coco.load_images(images_json) if images_json else None
        if self._entries is None and self._results.data_set is not None:
            self._entries = coco.parse_images(results, self._results.data_set)
        self._index = ImageIndex(images, without=without)
        self._ids = tuple(self._results.by_image)
        self._strays = {f"entry {index}": why for index, why in self._results.strays.items()}

    @property
    def remarks(self) -> Sequence[str]:
        """Files passed over, and how many entries are nothing to refine."""
        kept = Counter(self._results.kept.values())
        passed = [self._index.passed_over] if self._index.passed_over else []
        return [*passed, *(f"{n} entries left as they are: {why}" for why, n in kept.items())]

    def keys(self) -> Sequence[str]:
        """Image ids in the order of their first entry, then the entries without one."""
        return [*self._ids, *self._strays]

    def part(self, key: str) -> CocoJob:
        """The job with the entries of one image; they keep their numbers."""
        part = copy(self)
        part._strays = {key: self._strays[key]} if key in self._strays else {}
        part._ids = () if key in self._strays else (key,)
        part._results = self._results.part(part._ids)
        if self._entries is not None:
            part._entries = {key: self._entries[key]} if key in self._entries else {}
        part._index = self._index.part(image_names(key, self._entries))
        return part

    def stamp(self, key: str) -> str:
        """Changes when the image or one of its entries does."""
        if key in self._strays:
            return ""
        digest = hashlib.sha256(b"" if self._tolerance is None else str(self._tolerance).encode())
        for index in self._results.by_image[key]:
            digest.update(json.dumps(self._results.records[index]).encode())
        try:
            image = stamp(self._find(key)[0])
        except ValueError as error:
            image = str(error)
        return f"{digest.hexdigest()} {image}"

    def read(self, key: str) -> Loaded:
        """Read the image and decode its masks."""
        if key in self._strays:
            raise ValueError(self._strays[key])
        path, note = self._find(key)
        entry = self._entries.get(key) if self._entries is not None else None
        frame = frame_of(self._results.segmentations(key), entry.size if entry else None)
        photograph = read_image(path, frame, self._max_pixels, by_windows=True)
        frame.check(photograph.size, photograph.stored, str(path))
        instances, left = coco.read_instances(self._results, key, photograph.size)
        if not instances:
            raise ValueError(f"{self.source}, {left[0].name}: {left[0].reason}")
        prediction = Prediction(photograph.size, tuple(instances.values()))
        notes = (*([note] if note else []), *photograph.notes, *map(str, left))
        return Loaded(
            image=photograph.pixels,
            prediction=prediction,
            notes=notes,
            source=_Read(instances, tuple(left)),
            fill=photograph.fill,
        )

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Nothing is written yet; the journal keeps the records, null where one stays as it is."""
        read: _Read = source
        refined = dict(zip(read.before, prediction.instances, strict=True))
        records = [
            self._refined_record(read.before[index], refined[index]) if index in refined else None
            for index in self._results.by_image[key]
        ]
        return {"records": records, "left": [asdict(one) for one in read.left]}

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """The journal itself holds the records."""
        return "records" in entry

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """Never: entries of an image that failed are written as they came."""
        return False

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """Write the json: the input with other masks."""
        is_data_set = self._results.data_set is not None
        refined = self._refined(journal, failed)
        pieces = coco.encode_refined(self.source, refined, is_data_set)
        write_atomically(self.out, pieces, self.work)

    def existing_output(self) -> AnyPath | None:
        """The first file that a run would overwrite."""
        return next((path for path in (self.out, self.report) if path.exists()), None)

    def _refined_record(self, before: Instance, after: Instance) -> Mapping[str, Any] | None:
        """The record with its new mask; None where there was none, or nothing changed.

        Polygons become RLE, or polygons within the tolerance, whether their mask changed or not.
        """
        is_polygon = isinstance(before.record.get("segmentation"), list)
        if before.mask.is_empty or (
            not is_polygon and not differing_pixels(before.mask, after.mask)
        ):
            return None
        return coco.refined_record(before.record, after.mask, self._tolerance)

    def _refined(self, journal: AnyJournal, failed: Set[str]) -> Iterator[Mapping[str, Any] | None]:
        """What takes the place of each entry; None where it stays."""
        keys = {index: key for key in self._ids for index in self._results.by_image[key]}
        image, at_hand = "", []  # entries of an image mostly stand together
        used: Counter[str] = Counter()
        for index in self._results.records:
            key = keys.get(index)
            if key is None or key in failed:
                yield None
                continue
            if key != image:
                image, at_hand = key, journal.read(key)["records"]
            yield at_hand[used[key]]
            used[key] += 1

    def _find(self, key: str) -> tuple[AnyPath, str]:
        """The image of an id, and what was guessed to find it."""
        names = image_names(key, self._entries)
        entry = self._entries[key] if self._entries is not None else None
        if entry is None or entry.file_name is None:
            return self._index.find(names), ""
        path = self._index.find_name(names[0])
        return path, self._index.describe_guess(names[0], path)
