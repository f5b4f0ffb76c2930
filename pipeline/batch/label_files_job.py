"""A folder with a label file per image, refined into another one with the same files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.batch.job import Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.batch.label_formats import NO_LABELS, LabelFormat, LabelMe
from bpr.pipeline.batch.output_folder import OutputFolder
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.files import find_files, stamp
from bpr.pipeline.formats.images import MAX_PIXELS, ImageFile, NamedFile, read_image
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.polygons import DEFAULT_TOLERANCE
from bpr.pipeline.instance import Instance, Prediction, differing_pixels


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
        folder: AnyPath,
        images: AnyPath,
        out: AnyPath,
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

    def image_name(self, key: str) -> str:
        """What the image of a label file is called."""
        try:
            image, _ = self._find_image(key, self._parse(key))
        except ValueError:  # said again when it is read
            return PurePosixPath(key).stem
        return PurePosixPath(key).stem if isinstance(image, NamedFile) else image.name

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
        photograph = read_image(path, frame, self._max_pixels, by_windows=True)
        frame.check(photograph.size, photograph.stored, str(path))
        instances, left = self._format.read_instances(parsed, photograph.size)
        damaged = [one for one in left if one.is_damaged]
        if damaged and not instances:
            raise ValueError(f"{parsed.path}, {damaged[0].name}: {damaged[0].reason}")
        notes = (*([note] if note else []), *photograph.notes, *map(str, left))
        source = _Source(parsed, instances, tuple(left), notes)
        prediction = Prediction(photograph.size, tuple(instances.values()))
        return Loaded(
            image=photograph.pixels,
            prediction=prediction,
            notes=notes,
            source=source,
            fill=photograph.fill,
        )

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

    def existing_output(self) -> AnyPath | None:
        """The first file that a run would overwrite."""
        return self._out.first_existing([*self._paths, self.report.name])

    def _parse(self, key: str) -> Any:
        return self._format.parse(self._paths[key])

    def _may_be_labels(self, path: AnyPath) -> bool:
        """Whether it is worth a word that a file has no image: texts for people have none."""
        try:
            self._images.find([path.stem])
        except ValueError:
            return self._format.may_be_labels(path)
        return True

    def _find_image(self, key: str, parsed: Any) -> tuple[ImageFile, str]:
        inside = PurePosixPath(key).parent.as_posix()
        return self._format.find_image(parsed, inside, self._images)
