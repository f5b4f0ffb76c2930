"""One file with the masks of many images, refined into another one of the same format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from bpr._paths import AnyPath
from bpr.pipeline.batch.job import Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.files import refuse_to_overwrite, stamp, write_atomically
from bpr.pipeline.formats.frame import Frame
from bpr.pipeline.formats.images import MAX_PIXELS, read_image
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.polygons import DEFAULT_TOLERANCE
from bpr.pipeline.instance import Instance, Mask, Prediction, Size, differing_pixels


class DataSetFile(Protocol):
    """A parsed file; objects have positions in it."""

    def images(self) -> Sequence[str]:
        """What the file calls its images."""

    def part(self, image: str) -> DataSetFile:
        """The same with one image; positions stay."""

    def objects(self, image: str) -> Any:
        """What the file says about the objects of an image, json-ready."""

    def frame(self, image: str) -> Frame:
        """What the file says about the size of an image."""

    def read_instances(
        self, image: str, size: Size
    ) -> tuple[dict[int, Instance], list[LeftObject]]:
        """The masks of an image by position, and the objects that stay as they are."""

    def refined(self, mask: Mask, tolerance: float) -> tuple[Any, list[str]]:
        """What takes the place of a mask, json-ready, and what it cannot hold; not empty."""

    def encode(self, changed: Mapping[int, Any]) -> bytes:
        """The file with what `refined` gave, by position; every other byte stays."""


@dataclass(frozen=True, eq=False)
class _Read:
    before: Mapping[int, Instance]
    left: tuple[LeftObject, ...]
    notes: tuple[str, ...]


class DataSetFileJob:
    """Refines what a file holds; keys are its names of the images.

    Refined masks wait in the journal until all images are done: the file appears as a whole.

    Args:
        source: the file.
        content: of it, parsed.
        images: folder of images.
        out: file to write.
        tolerance: how far in pixels polygons may be from the outlines of their masks.
        max_pixels: refuse larger images.

    Raises:
        ValueError: a folder is missing or empty, or an input would be overwritten.
    """

    def __init__(
        self,
        source: AnyPath,
        content: DataSetFile,
        images: AnyPath,
        out: AnyPath,
        tolerance: float = DEFAULT_TOLERANCE,
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if out.is_dir() or out.suffix.lower() != source.suffix.lower():
            got = "a folder" if out.is_dir() else repr(out.name)
            raise ValueError(f"{out}: expected a {source.suffix} file as its input, got {got}")
        self.source, self.out, self._content = source, out, content
        self.work = out.parent / f".{out.name}.bpr"
        self.report = out.with_name(f"{out.stem}.report.json")
        self._tolerance, self._max_pixels = tolerance, max_pixels
        refuse_to_overwrite([self.out, self.report], [source])
        self._index = ImageIndex(images)

    @property
    def remarks(self) -> Sequence[str]:
        """Files passed over."""
        return [self._index.passed_over] if self._index.passed_over else []

    def keys(self) -> Sequence[str]:
        """Names of the images, as the file has them."""
        return self._content.images()

    def part(self, key: str) -> DataSetFileJob:
        """The job with one image."""
        part = copy(self)
        part._content = self._content.part(key)
        part._index = self._index.part(_names(key))
        return part

    def stamp(self, key: str) -> str:
        """Changes when the image or its objects do, or how polygons are written."""
        digest = hashlib.sha256(json.dumps(self._content.objects(key)).encode())
        try:
            image = stamp(self._find(key)[0])
        except ValueError as error:
            image = str(error)
        return f"{digest.hexdigest()} {image} {self._tolerance:g}"

    def read(self, key: str) -> Loaded:
        """Read the image and its masks."""
        path, note = self._find(key)
        frame = self._content.frame(key)
        photograph = read_image(path, frame, self._max_pixels, by_windows=True)
        frame.check(photograph.size, photograph.stored, str(path))
        instances, left = self._content.read_instances(key, photograph.size)
        damaged = [one for one in left if one.is_damaged]
        if damaged and not instances:
            raise ValueError(f"{self.source}, {damaged[0].name}: {damaged[0].reason}")
        notes = (*([note] if note else []), *photograph.notes, *map(str, left))
        prediction = Prediction(photograph.size, tuple(instances.values()))
        return Loaded(
            image=photograph.pixels,
            prediction=prediction,
            notes=notes,
            source=_Read(instances, tuple(left), notes),
            fill=photograph.fill,
        )

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Nothing is written yet; the journal keeps what changed."""
        read: _Read = source
        changed, notes = {}, list(read.notes)
        pairs = zip(read.before.items(), prediction.instances, strict=True)
        for (index, coarse), instance in pairs:
            mask = instance.mask
            if mask.is_empty or not differing_pixels(coarse.mask, mask):
                continue
            changed[str(index)], said = self._content.refined(mask, self._tolerance)
            notes += said
        return {"changed": changed, "notes": notes, "left": [asdict(one) for one in read.left]}

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """The journal itself holds the masks."""
        return "changed" in entry

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """Never: objects of an image that failed are written as they came."""
        return False

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """Write the file."""
        changed = {
            int(index): new
            for key in self.keys()
            if key not in failed
            for index, new in journal.read(key)["changed"].items()
        }
        write_atomically(self.out, self._content.encode(changed), self.work)

    def existing_output(self) -> AnyPath | None:
        """The first file that a run would overwrite."""
        return next((path for path in (self.out, self.report) if path.exists()), None)

    def _find(self, key: str) -> tuple[AnyPath, str]:
        """The image of a name, and what was guessed to find it; names may lack their ending."""
        for name in _names(key):
            with suppress(ValueError):
                path = self._index.find_name(name)
                return path, self._index.describe_guess(name, path)
        return self._index.find(_names(key)), ""


def _names(key: str) -> list[str]:
    """Names that the file of an image may have: some name it without ending, or with a class."""
    return [key, key.rpartition("_")[0]] if "_" in key else [key]
