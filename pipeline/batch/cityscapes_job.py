"""A Cityscapes prediction folder, refined into another one with the same files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.batch.found_nothing import found_nothing
from bpr.pipeline.batch.job import Loaded, fitting, usual_frame
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.batch.output_folder import OutputFolder
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.files import stamp
from bpr.pipeline.formats import cityscapes
from bpr.pipeline.formats.images import MAX_PIXELS, read_image
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.instance import Instance, Prediction


@dataclass(frozen=True, eq=False)
class _Read:
    """What writing an image needs of its reading."""

    parsed: cityscapes.PredictionFile
    left: tuple[LeftObject, ...]
    untouched: tuple[str, ...]  # mask files that stay as they are


class CityscapesJob:
    """Reads `<stem>_pred.txt` and PNGs below a folder; keys are the txts' relative paths.

    An empty txt is a detection that was lost, unless the report of `bpr detect` beside it says
    that there was nothing in the image.

    Args:
        folder: of predictions.
        images: folder of images; `<stem>.*` belongs to `<stem>_pred.txt`, in any subfolder.
        out: folder for the refined predictions.
        max_pixels: refuse larger images.

    Raises:
        ValueError: a folder is missing or empty, or an input would be overwritten.
    """

    def __init__(
        self, folder: AnyPath, images: AnyPath, out: AnyPath, *, max_pixels: int = MAX_PIXELS
    ) -> None:
        source, target = folder.resolve(), out.resolve()
        for taken in (folder, images):
            if target == taken.resolve():
                raise ValueError(f"{out}: expected another folder than the input {taken}")
        self.source, self._out, self._max_pixels = folder, OutputFolder(out), max_pixels
        self.work, self.report = self._out.work, self._out.report
        self._images = ImageIndex(images, without=out)
        self._paths = {
            path.relative_to(folder).as_posix(): path
            for path in cityscapes.find_prediction_files(folder)
            # results inside the input are not input
            if not (target.is_relative_to(source) and path.resolve().is_relative_to(target))
        }
        if not self._paths:
            raise ValueError(f"{folder}: expected predictions outside of {out}, found none")
        self._masks = {key: self._list_masks(key) for key in self._paths}
        self._found_nothing = found_nothing(folder / self.report.name)
        self._owners: dict[str, str] = {}  # the txt that each mask belongs to: the first
        for key, names in self._masks.items():
            for name in names:
                self._owners.setdefault(name, key)
        self._refuse_to_overwrite([source, images.resolve()])

    @property
    def remarks(self) -> Sequence[str]:
        """Files of the images' folder that were passed over."""
        return [self._images.passed_over] if self._images.passed_over else []

    def keys(self) -> Sequence[str]:
        """Relative paths of the txts, sorted."""
        return list(self._paths)

    def part(self, key: str) -> CityscapesJob:
        """The job with one txt."""
        part = copy(self)
        path, names = self._paths[key], self._masks[key]
        part._paths, part._masks = {key: path}, {key: names}
        part._owners = {name: self._owners[name] for name in names}
        part._images = self._images.part(cityscapes.image_stems(cityscapes.image_stem(path)))
        return part

    def stamp(self, key: str) -> str:
        """Changes when the txt, one of its masks, or the image does."""
        path = self._paths[key]
        masks = (self.source / name for name in self._masks[key])
        stamps = [stamp(file) for file in (path, *masks)]
        try:
            stamps.append(stamp(self._find_image(path)))
        except ValueError as error:
            stamps.append(str(error))
        return " ".join(stamps)

    def read(self, key: str) -> Loaded:
        """Read the txt, its masks and the image."""
        path = self._paths[key]
        parsed = cityscapes.parse_prediction_file(path, self.source)
        if not parsed.lines and not parsed.left and key not in self._found_nothing:
            raise ValueError(
                f"{path}: expected lines 'file label score', got an empty file; "
                "nothing to refine, it is copied as it is"
            )
        for name in _mask_names(key, parsed):
            if self._owners.get(name, key) != key:
                raise ValueError(
                    f"{path}: expected masks of its own, but {name} is also named by "
                    f"{self._owners[name]}"
                )
        instances: dict[int, Instance] = {}
        left = list(parsed.left)
        notes: list[str] = []
        for index, line in enumerate(parsed.lines):
            try:
                instances[index], said = cityscapes.read_instance(parsed, line)
                notes += said
            except ValueError as error:
                left.append(LeftObject(f"line {line.number}", str(error)))
        photograph = read_image(
            self._find_image(path),
            usual_frame(instances.values()),
            self._max_pixels,
            by_windows=True,
        )
        fits, unfit = fitting(photograph.size, instances)
        left += [
            LeftObject(
                f"line {parsed.lines[index].number}",
                f"{path.parent / parsed.lines[index].file}: {reason}",
            )
            for index, reason in unfit.items()
        ]
        if left and not fits:
            raise ValueError(f"{path}, {left[0].name}: {left[0].reason}")
        untouched = [line.file for index, line in enumerate(parsed.lines) if index not in fits]
        untouched += parsed.left_files
        prediction = Prediction(photograph.size, tuple(fits.values()))
        notes += [*photograph.notes, *map(str, left)]
        source = _Read(parsed, tuple(left), tuple(untouched))
        return Loaded(
            image=photograph.pixels,
            prediction=prediction,
            notes=tuple(notes),
            source=source,
            fill=photograph.fill,
        )

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Write the PNGs, then the txt. Masks that could not be read are copied."""
        read: _Read = source
        inside = os.path.dirname(key)
        files: dict[str, bytes] = {}
        for name in read.untouched:
            with suppress(OSError):  # missing: the txt names it all the same
                files[name] = (read.parsed.path.parent / name).read_bytes()
        files |= cityscapes.encode_prediction(read.parsed, prediction)
        written = self._out.write(
            {os.path.normpath(os.path.join(inside, name)): data for name, data in files.items()}
        )
        return {"files": written, "left": [asdict(one) for one in read.left]}

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """All files of the image have the content that was written."""
        return self._out.holds(entry["files"])

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """One of the files is there."""
        return self._out.first_existing(entry["files"]) is not None

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """Copy empty txts: an evaluation wants one for each image."""
        for key in failed:
            with suppress(ValueError):  # damaged: it is among the failures with the reason
                parsed = cityscapes.parse_prediction_file(self._paths[key], self.source)
                if not parsed.lines and not parsed.left:
                    self._out.write({key: parsed.content})

    def existing_output(self) -> AnyPath | None:
        """The first file that a run would overwrite."""
        return self._out.first_existing([*self._paths, *self._owners, self.report.name])

    def _list_masks(self, key: str) -> list[str]:
        """The masks of a txt, relative to the folder; none where it is damaged: `read` says so."""
        try:
            parsed = cityscapes.parse_prediction_file(self._paths[key], self.source)
        except ValueError:
            return []
        return _mask_names(key, parsed)

    def _find_image(self, path: AnyPath) -> AnyPath:
        inside = path.parent.relative_to(self.source).as_posix()
        return self._images.find(cityscapes.image_stems(cityscapes.image_stem(path)), inside)

    def _refuse_to_overwrite(self, inputs: Sequence[AnyPath]) -> None:
        """ValueError if a result would take the place of an input."""
        target = self._out.path.resolve()
        folders = [folder for folder in inputs if not target.is_relative_to(folder)]
        for name in [*self._paths, *self._owners]:
            path = target / name
            if path.exists() and any(path.resolve().is_relative_to(folder) for folder in folders):
                raise ValueError(
                    f"{self._out.path}: expected a folder in which no input is overwritten, "
                    f"but {path} is one"
                )


def _mask_names(key: str, parsed: cityscapes.PredictionFile) -> list[str]:
    inside = os.path.dirname(key)
    names = [*(line.file for line in parsed.lines), *parsed.left_files]
    return [os.path.normpath(os.path.join(inside, name)) for name in names]
