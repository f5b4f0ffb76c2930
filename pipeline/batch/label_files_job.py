"""A folder with a label file per image, refined into another one with the same files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from copy import copy
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from bpr.pipeline.batch.job import Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.batch.output_folder import OutputFolder
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.files import find_files, stamp
from bpr.pipeline.formats import labelme, yolo
from bpr.pipeline.formats.coco import load_json
from bpr.pipeline.formats.images import read_image
from bpr.pipeline.formats.polygons import DEFAULT_TOLERANCE
from bpr.pipeline.instance import Instance, Mask, Prediction, Size

NO_LABELS = frozenset({"classes.txt", "report.json"})  # of annotation tools, and our own


class LabelFormat(Protocol):
    """What is told apart between LabelMe and YOLO."""

    suffix: str

    def parse(self, path: Path) -> Any:
        """Read a label file. ValueError: it is damaged."""

    def claimed_size(self, parsed: Any) -> Size | None:
        """(height, width) that the file tells of its image."""

    def find_image(self, parsed: Any, inside: str, images: ImageIndex) -> Path:
        """The image of a label file in a subfolder. ValueError: there is none."""

    def read_instances(self, parsed: Any, size: Size) -> tuple[Instance, ...]:
        """The masks. ValueError: they do not fit the image."""

    def encode(
        self, parsed: Any, before: Sequence[Mask], refined: Prediction, tolerance: float
    ) -> tuple[bytes, list[str]]:
        """The file with refined masks, and what it could not hold."""


class LabelMe:
    """`<name>.json`; its imagePath names the image."""

    suffix = ".json"
    parse = staticmethod(labelme.parse)
    read_instances = staticmethod(labelme.read_instances)
    encode = staticmethod(labelme.encode)

    def claimed_size(self, parsed: labelme.LabelMeFile) -> Size | None:
        """As the json says."""
        return parsed.size

    def find_image(self, parsed: labelme.LabelMeFile, inside: str, images: ImageIndex) -> Path:
        """By name: paths in the json are those of another time or machine."""
        name = PurePosixPath(inside) / PurePosixPath(parsed.image_name).name
        return images.find_name(name.as_posix())


class Yolo:
    """`<image name>.txt`."""

    suffix = ".txt"
    parse = staticmethod(yolo.parse)
    read_instances = staticmethod(yolo.read_instances)
    encode = staticmethod(yolo.encode)

    def claimed_size(self, parsed: yolo.YoloFile) -> Size | None:
        """Nothing: coordinates are shares."""

    def find_image(self, parsed: yolo.YoloFile, inside: str, images: ImageIndex) -> Path:
        """By stem, in the subfolder of the same name where there are several."""
        return images.find([parsed.path.stem], inside)


@dataclass(frozen=True, eq=False)
class _Source:
    """What writing an image needs of its reading."""

    parsed: Any
    before: tuple[Mask, ...]
    notes: tuple[str, ...]


class LabelFilesJob:
    """Reads label files below a folder; keys are their relative paths.

    Args:
        folder: of label files.
        images: folder of images.
        out: folder for the refined label files.
        label_format: of the files.
        tolerance: how far in pixels polygons may be from the outlines of their masks.

    Raises:
        ValueError: a folder is missing or empty, or an input would be overwritten.
    """

    def __init__(
        self,
        folder: Path,
        images: Path,
        out: Path,
        label_format: LabelFormat,
        tolerance: float = DEFAULT_TOLERANCE,
    ) -> None:
        for taken in (folder, images):
            if out.resolve() == taken.resolve():
                raise ValueError(f"{out}: expected another folder than the input {taken}")
        self.source, self._out = folder, OutputFolder(out)
        self.work, self.report = self._out.work, self._out.report
        self._format, self._tolerance = label_format, tolerance
        self._images = ImageIndex(images, without=out)
        target = out.resolve()
        self._paths = {
            path.relative_to(folder).as_posix(): path
            for path in find_files(folder)
            if path.suffix.lower() == label_format.suffix
            and path.name not in NO_LABELS
            and not path.resolve().is_relative_to(target)
        }
        if not self._paths:
            raise ValueError(f"{folder}: expected label files outside of {out}, found none")

    def keys(self) -> Sequence[str]:
        """Relative paths of the label files, sorted."""
        return list(self._paths)

    def part(self, key: str) -> LabelFilesJob:
        """The job with one label file."""
        part = copy(self)
        part._paths = {key: self._paths[key]}
        try:
            part._images = self._images.part([self._find_image(key, self._parse(key)).stem])
        except ValueError:  # said again when the part is read
            part._images = self._images.part([])
        return part

    def stamp(self, key: str) -> str:
        """Changes when the label file or the image does, or how polygons are written."""
        try:
            image = stamp(self._find_image(key, self._parse(key)))
        except ValueError as error:
            image = str(error)
        return f"{stamp(self._paths[key])} {image} {self._tolerance:g}"

    def read(self, key: str) -> Loaded:
        """Read the label file and the image."""
        parsed = self._parse(key)
        path = self._find_image(key, parsed)
        photograph = read_image(path, self._format.claimed_size(parsed))
        size = (photograph.pixels.shape[0], photograph.pixels.shape[1])
        instances = self._format.read_instances(parsed, size)
        source = _Source(parsed, tuple(i.mask for i in instances), photograph.notes)
        return Loaded(photograph.pixels, Prediction(size, instances), photograph.notes, source)

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Write the label file."""
        content, notes = self._format.encode(
            source.parsed, source.before, prediction, self._tolerance
        )
        return {"files": self._out.write({key: content}), "notes": [*source.notes, *notes]}

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """The file has the content that was written."""
        return self._out.holds(entry["files"])

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """The file is there."""
        return self._out.first_existing(entry["files"]) is not None

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """Nothing is left to write."""

    def existing_output(self) -> Path | None:
        """The first file that a run would overwrite."""
        return self._out.first_existing([*self._paths, self.report.name])

    def _parse(self, key: str) -> Any:
        return self._format.parse(self._paths[key])

    def _find_image(self, key: str, parsed: Any) -> Path:
        inside = PurePosixPath(key).parent.as_posix()
        return self._format.find_image(parsed, inside, self._images)


def find_label_format(folder: Path) -> LabelFormat | None:
    """The format of the label files of a folder; None where there are none.

    A folder with any json of LabelMe is LabelMe's: its txts are something else.
    """
    has_txt = False
    for path in find_files(folder):
        if path.name in NO_LABELS:
            continue
        if path.suffix.lower() == LabelMe.suffix:
            try:
                if labelme.is_label_file(load_json(path)):
                    return LabelMe()
            except ValueError:
                continue
        has_txt = has_txt or path.suffix.lower() == Yolo.suffix
    return Yolo() if has_txt else None
