"""A folder with a label file per image, refined into another one with the same files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from bpr.pipeline.batch.job import Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.batch.output_folder import OutputFolder
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.files import find_files, stamp
from bpr.pipeline.formats import labelme, yolo
from bpr.pipeline.formats.frame import Frame
from bpr.pipeline.formats.images import MAX_PIXELS, ImageFile, NamedFile, read_image
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.polygons import DEFAULT_TOLERANCE
from bpr.pipeline.formats.text import load_json
from bpr.pipeline.instance import Instance, Mask, Prediction, Size, differing_pixels

NO_LABELS = frozenset({"classes.txt", "report.json"})  # of annotation tools, and our own


class LabelFormat(Protocol):
    """What is told apart between LabelMe and YOLO."""

    suffix: str

    def parse(self, path: Path) -> Any:
        """Read a label file. ValueError: it is damaged."""

    def may_be_labels(self, path: Path) -> bool:
        """Whether a file without an image could hold labels."""

    def frame(self, parsed: Any) -> Frame:
        """What the file tells about the size of its image."""

    def find_image(self, parsed: Any, inside: str, images: ImageIndex) -> tuple[ImageFile, str]:
        """The image of a label file in a subfolder, and what was guessed to find it.

        Raises:
            ValueError: there is none.
        """

    def read_instances(
        self, parsed: Any, size: Size
    ) -> tuple[dict[int, Instance], Sequence[LeftObject]]:
        """The masks by their position in the file, and the objects that stay as they are."""

    def encode(
        self, parsed: Any, changed: Mapping[int, Mask], tolerance: float
    ) -> tuple[bytes, list[str]]:
        """The file with new masks, by their position, and what it could not hold."""


class LabelMe:
    """`<name>.json`; its imagePath names the image, or imageData holds it."""

    suffix = ".json"
    parse = staticmethod(labelme.parse)
    read_instances = staticmethod(labelme.read_instances)
    encode = staticmethod(labelme.encode)

    def may_be_labels(self, path: Path) -> bool:
        """Every json: which ones are LabelMe's, `parse` says."""
        return True

    def frame(self, parsed: labelme.LabelMeFile) -> Frame:
        """By imageHeight, imageWidth and the shapes."""
        return parsed.frame

    def find_image(
        self, parsed: labelme.LabelMeFile, inside: str, images: ImageIndex
    ) -> tuple[ImageFile, str]:
        """By name: paths in the json are those of another time or machine."""
        try:
            if parsed.image_name is None:
                return images.find([parsed.path.stem], inside), ""
            last = PurePosixPath(parsed.image_name).name
            path = images.find_name((PurePosixPath(inside) / last).as_posix())
            return path, images.describe_guess(last, path)
        except ValueError:
            embedded = parsed.embedded_image()
            if embedded is None:
                raise
            return embedded, "no image file: the one that the json embeds is used"


class Yolo:
    """`<image name>.txt`."""

    suffix = ".txt"
    parse = staticmethod(yolo.parse)
    may_be_labels = staticmethod(yolo.may_be_labels)
    read_instances = staticmethod(yolo.read_instances)
    encode = staticmethod(yolo.encode)

    def frame(self, parsed: yolo.YoloFile) -> Frame:
        """Nothing: coordinates are shares."""
        return Frame()

    def find_image(
        self, parsed: yolo.YoloFile, inside: str, images: ImageIndex
    ) -> tuple[ImageFile, str]:
        """By stem, in the subfolder of the same name where there are several."""
        return images.find([parsed.path.stem], inside), ""


@dataclass(frozen=True, eq=False)
class _Source:
    """What writing an image needs of its reading."""

    parsed: Any
    before: Mapping[int, Instance]  # by position in the file
    left: tuple[LeftObject, ...]
    notes: tuple[str, ...]


class LabelFilesJob:
    """Reads label files below a folder; keys are their relative paths.

    Args:
        folder: of label files.
        images: folder of images.
        out: folder for the refined label files.
        label_format: of the files.
        tolerance: how far in pixels polygons may be from the outlines of their masks.
        max_pixels: refuse larger images.

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
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        for taken in (folder, images):
            if out.resolve() == taken.resolve():
                raise ValueError(f"{out}: expected another folder than the input {taken}")
        self.source, self._out = folder, OutputFolder(out)
        self.work, self.report = self._out.work, self._out.report
        self._format, self._tolerance, self._max_pixels = label_format, tolerance, max_pixels
        embeds = isinstance(label_format, LabelMe)
        self._images = ImageIndex(images, without=out, may_be_empty=embeds)
        target = out.resolve()
        self._paths = {
            path.relative_to(folder).as_posix(): path
            for path in find_files(folder)
            if path.suffix.lower() == label_format.suffix
            and path.name not in NO_LABELS
            and not path.resolve().is_relative_to(target)
            and self._may_be_labels(path)
        }
        if not self._paths:
            raise ValueError(f"{folder}: expected label files outside of {out}, found none")

    @property
    def remarks(self) -> Sequence[str]:
        """Files of the images' folder that were passed over."""
        return [self._images.passed_over] if self._images.passed_over else []

    def keys(self) -> Sequence[str]:
        """Relative paths of the label files, sorted."""
        return list(self._paths)

    def part(self, key: str) -> LabelFilesJob:
        """The job with one label file."""
        part = copy(self)
        part._paths = {key: self._paths[key]}
        try:
            image, _ = self._find_image(key, self._parse(key))
            names = [] if isinstance(image, NamedFile) else [image.name]
        except ValueError:  # said again when the part is read
            names = []
        part._images = self._images.part(names)
        return part

    def stamp(self, key: str) -> str:
        """Changes when the label file or the image does, or how polygons are written."""
        try:
            image, _ = self._find_image(key, self._parse(key))
            text = "embedded" if isinstance(image, NamedFile) else stamp(image)
        except ValueError as error:
            text = str(error)
        return f"{stamp(self._paths[key])} {text} {self._tolerance:g}"

    def read(self, key: str) -> Loaded:
        """Read the label file and the image."""
        parsed = self._parse(key)
        path, note = self._find_image(key, parsed)
        frame = self._format.frame(parsed)
        photograph = read_image(path, frame, self._max_pixels)
        frame.check(photograph.size, photograph.stored, str(path))
        instances, left = self._format.read_instances(parsed, photograph.size)
        damaged = [one for one in left if one.is_damaged]
        if damaged and not instances:
            raise ValueError(f"{parsed.path}, {damaged[0].name}: {damaged[0].reason}")
        notes = (*([note] if note else []), *photograph.notes, *map(str, left))
        source = _Source(parsed, instances, tuple(left), notes)
        prediction = Prediction(photograph.size, tuple(instances.values()))
        return Loaded(photograph.pixels, prediction, notes, source)

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Write the label file."""
        before: Mapping[int, Instance] = source.before
        changed = {
            index: refined.mask
            for (index, coarse), refined in zip(before.items(), prediction.instances, strict=True)
            if differing_pixels(coarse.mask, refined.mask)
        }
        content, notes = self._format.encode(source.parsed, changed, self._tolerance)
        return {
            "files": self._out.write({key: content}),
            "notes": [*source.notes, *notes],
            "left": [asdict(one) for one in source.left],
        }

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

    def _may_be_labels(self, path: Path) -> bool:
        """Whether it is worth a word that a file has no image: texts for people have none."""
        try:
            self._images.find([path.stem])
        except ValueError:
            return self._format.may_be_labels(path)
        return True

    def _find_image(self, key: str, parsed: Any) -> tuple[ImageFile, str]:
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
