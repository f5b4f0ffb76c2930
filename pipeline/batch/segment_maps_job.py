"""A json whose masks are in a PNG per image, refined into the same json and PNGs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any

from bpr._paths import AnyPath
from bpr._weight_files import file_sha256
from bpr.pipeline.batch.job import Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.files import refuse_to_overwrite, stamp, write_atomically
from bpr.pipeline.formats.frame import Frame
from bpr.pipeline.formats.images import (
    MAX_PIXELS,
    encode_segment_ids,
    read_image,
    read_segment_ids,
)
from bpr.pipeline.formats.label_maps import MapObjects
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.segment_maps import Segment, SegmentsFile, png_names
from bpr.pipeline.instance import Instance, Mask, Prediction, size_text


@dataclass(frozen=True, eq=False)
class _Read:
    png: AnyPath
    objects: MapObjects
    owners: Sequence[Segment]
    left: tuple[LeftObject, ...]


class SegmentMapsJob:
    """Refines the segments of each image; keys are image ids, or names of samples.

    Args:
        content: of the json, parsed.
        images: folder of images.
        out: json to write; the PNGs go beside it, or, as in COCO, to a folder of its stem.
        max_pixels: refuse larger images.

    Raises:
        ValueError: a folder is missing or empty, or an input would be overwritten.
    """

    def __init__(
        self, content: SegmentsFile, images: AnyPath, out: AnyPath, *, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.source, self.out, self._content = content.path, out, content
        if out.is_dir() or out.suffix.lower() != ".json":
            got = "a folder" if out.is_dir() else repr(out.name)
            raise ValueError(f"{out}: expected a json file, got {got}")
        self.work = out.parent / f".{out.name}.bpr"
        self.report = out.with_name(f"{out.stem}.report.json")
        self._max_pixels = max_pixels
        # the PNGs of COCO lie in a folder of the json's stem, those of Segments.ai beside it
        own = self.source.with_suffix("")
        self._pngs = own if own.is_dir() else self.source.parent
        self._png_out = out.with_suffix("") if own.is_dir() else out.parent
        refuse_to_overwrite([out, self.report], [self.source])
        if self._png_out.resolve() in (self._pngs.resolve(), images.resolve()):
            raise ValueError(f"{out}: expected another folder for the PNGs than {self._png_out}")
        self._index = ImageIndex(images, without=own if own.is_dir() else None)

    @property
    def remarks(self) -> Sequence[str]:
        """Files passed over."""
        return [self._index.passed_over] if self._index.passed_over else []

    def keys(self) -> Sequence[str]:
        """Those of the json."""
        return list(self._content.images)

    def image_name(self, key: str) -> str:
        """What the image of a key may be called."""
        return self._content.images[key].names[0]

    def part(self, key: str) -> SegmentMapsJob:
        """The job with one image."""
        part = copy(self)
        part._content = self._content.part(key)
        part._index = self._index.part(self._content.images[key].names)
        return part

    def stamp(self, key: str) -> str:
        """Changes when the image or its PNG does, or what the json says of its segments."""
        stamps = [str(self._content.images[key].segments)]
        for find in (self._find_png, self._find):
            try:
                stamps.append(stamp(find(key)))
            except ValueError as error:
                stamps.append(str(error))
        return " ".join(stamps)

    def read(self, key: str) -> Loaded:
        """Read the image and its segments."""
        png, path = self._find_png(key), self._find(key)
        values = read_segment_ids(png, self._max_pixels)
        size = (values.shape[0], values.shape[1])
        photograph = read_image(path, Frame(bitmaps=size), self._max_pixels, by_windows=True)
        if photograph.size != size:
            raise ValueError(
                f"{png}: expected segments of the size of their image, "
                f"{size_text(photograph.size)}, got {size_text(size)}"
            )
        objects, owners = self._content.objects(key, values)
        found = {owner.id for owner in owners}
        left = tuple(
            LeftObject(f"segment {segment.id}", f"no pixel of {png} has its colour")
            for segment in self._content.images[key].segments
            if segment.id not in found
        )
        if left and not owners:
            raise ValueError(f"{self.source}, image {key}, {left[0].name}: {left[0].reason}")
        instances = [Instance(mask=mask, label=value, score=1.0) for value, mask in objects.objects]
        notes = (*photograph.notes, *map(str, left))
        source = _Read(png, objects, owners, left)
        return Loaded(
            image=photograph.pixels,
            prediction=Prediction(size, tuple(instances)),
            notes=notes,
            source=source,
            fill=photograph.fill,
        )

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Write the PNG; the journal keeps areas and boxes for the json."""
        read: _Read = source
        new = read.objects.with_masks([instance.mask for instance in prediction.instances])
        content = encode_segment_ids(read.png, new, self._max_pixels)
        name = self._content.images[key].png
        digest = write_atomically(self._png_out / name, content, self.work)
        segments = []
        for segment in dict.fromkeys(read.owners):
            mask = Mask.from_array(new == segment.id)
            x0, y0, x1, y1 = mask.window
            fields = {"area": mask.area, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            if (read.objects.values != new)[y0:y1, x0:x1].any() or mask.is_empty:
                segments.append([segment.place, fields])
        return {
            "files": {name: digest},
            "segments": segments,
            "left": [asdict(one) for one in read.left],
        }

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """The PNG has the content that was written."""
        return all(
            (self._png_out / name).is_file() and file_sha256(self._png_out / name) == digest
            for name, digest in entry["files"].items()
        )

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """Never: PNGs of images that failed are written as they came."""
        return False

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """Write the json, and copy the PNGs of images that failed."""
        changed = []
        for key, image in self._content.images.items():
            if key in failed:
                with suppress(ValueError, OSError):  # missing: it is among the failures
                    content = self._find_png(key).read_bytes()
                    write_atomically(self._png_out / image.png, content, self.work)
            else:
                changed += [(tuple(place), new) for place, new in journal.read(key)["segments"]]
        write_atomically(self.out, self._content.encode(changed), self.work)

    def existing_output(self) -> AnyPath | None:
        """The first file that a run would overwrite."""
        names = [self._png_out / image.png for image in self._content.images.values()]
        return next((path for path in (self.out, self.report, *names) if path.exists()), None)

    def _find_png(self, key: str) -> AnyPath:
        names = png_names(self._content.images[key])
        found = next((self._pngs / name for name in names if (self._pngs / name).is_file()), None)
        if found is None:
            raise ValueError(
                f"{self._pngs}: expected the segments of image {key}, {' or '.join(names)}, found "
                "no such file"
            )
        return found

    def _find(self, key: str) -> AnyPath:
        names = self._content.images[key].names
        with suppress(ValueError):
            return self._index.find_name(names[0])
        return self._index.find([name.rpartition(".")[0] or name for name in names])
