"""Plain folders of mask files or label maps, refined into folders with files of the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.batch.job import Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.batch.mask_files_job import encode_objects, read_objects, written_name
from bpr.pipeline.batch.output_folder import OutputFolder
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.mask_folders import group_masks
from bpr.pipeline.files import stamp
from bpr.pipeline.formats import label_maps
from bpr.pipeline.formats.frame import Frame
from bpr.pipeline.formats.images import (
    MAX_PIXELS,
    encode_geotiff,
    encode_label_map,
    read_image,
    read_instance_map,
)
from bpr.pipeline.formats.label_maps import MapObjects
from bpr.pipeline.instance import Instance, Prediction, size_text


@dataclass(frozen=True, eq=False)
class _LabelMap:
    """A label map that was read."""

    path: AnyPath
    regions: MapObjects


class MaskFolderJob:
    """Reads mask files below a folder; keys are the images' relative paths.

    Each file is written under its own name, as a PNG.

    Args:
        folder: of mask files; see `group_masks` for their names.
        images: folder of images.
        out: folder for the refined files.
        are_label_maps: whether each file is a label map, whose connected regions are refined;
            else `mask_values` says what the objects in a file are.
        max_pixels: refuse larger images and masks.

    Raises:
        ValueError: a folder is missing or empty, or an input would be overwritten.
    """

    def __init__(
        self,
        folder: AnyPath,
        images: AnyPath,
        out: AnyPath,
        *,
        are_label_maps: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        for taken in (folder, images):
            if out.resolve() == taken.resolve():
                raise ValueError(f"{out}: expected another folder than the input {taken}")
        if folder.resolve() == images.resolve():
            raise ValueError(
                f"--images {images}: expected another folder than that of the masks: both are "
                "image files"
            )
        self.source, self._out, self._max_pixels = folder, OutputFolder(out), max_pixels
        self.work, self.report = self._out.work, self._out.report
        self._are_label_maps = are_label_maps
        inside = folder.resolve().is_relative_to(images.resolve())
        self._images = ImageIndex(images, without=folder if inside else out)
        grouped = group_masks(folder, self._images, out, are_label_maps)
        if not grouped.files and not grouped.strays:
            raise ValueError(f"{folder}: expected mask files outside of {out}, found none")
        self._files = {
            path.relative_to(images).as_posix(): (path, tuple(masks))
            for path, masks in sorted(grouped.files.items())
        }
        self._strays = {
            path.relative_to(folder).as_posix(): why for path, why in grouped.strays.items()
        }

    @property
    def remarks(self) -> Sequence[str]:
        """Files of the images' folder that were passed over."""
        return [self._images.passed_over] if self._images.passed_over else []

    def keys(self) -> Sequence[str]:
        """Relative paths of the images, then of mask files without one."""
        return [*self._files, *self._strays]

    def part(self, key: str) -> MaskFolderJob:
        """The job with one image."""
        part = copy(self)
        part._files = {key: self._files[key]} if key in self._files else {}
        part._strays = {key: self._strays[key]} if key in self._strays else {}
        part._images = self._images.part([])
        return part

    def stamp(self, key: str) -> str:
        """Changes when the image or one of its mask files does, or what they are taken for."""
        if key in self._strays:
            return ""
        image, masks = self._files[key]
        files = " ".join(f"{path.name}:{stamp(path)}" for path in (image, *masks))
        return f"{files} {self._are_label_maps}"

    def read(self, key: str) -> Loaded:
        """Read the image and its masks."""
        if key in self._strays:
            raise ValueError(f"{self.source / key}: {self._strays[key]}")
        image, masks = self._files[key]
        if not self._are_label_maps:
            return read_objects(image, masks, self._max_pixels)
        if len(masks) > 1:
            raise ValueError(f"{image}: expected one label map, got {', '.join(map(str, masks))}")
        values = read_instance_map(masks[0], self._max_pixels)
        size = (values.shape[0], values.shape[1])
        photograph = read_image(image, Frame(bitmaps=size), self._max_pixels, by_windows=True)
        if photograph.size != size:
            raise ValueError(
                f"{masks[0]}: expected a label map of the size of its image, "
                f"{size_text(photograph.size)}, got {size_text(size)}"
            )
        regions = label_maps.regions_of(values, label_maps.scheme_of(masks[0].name, values))
        instances = [Instance(mask=mask, label=value, score=1.0) for value, mask in regions.objects]
        prediction = Prediction(size, tuple(instances))
        notes = (*photograph.notes, f"a label map of {len(instances)} regions")
        return Loaded(
            image=photograph.pixels,
            prediction=prediction,
            notes=notes,
            source=_LabelMap(masks[0], regions),
            fill=photograph.fill,
        )

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Write the files of an image."""
        if isinstance(source, _LabelMap):
            refined = [instance.mask for instance in prediction.instances]
            values = source.regions.with_masks(refined)
            name = self._name(source.path)
            content = encode_label_map(source.path, values, self._max_pixels)
            if name.endswith(".tif"):
                content = encode_geotiff(content, source.path)
            return {"files": self._out.write({name: content})}
        files = encode_objects(source, prediction, self._name, self._max_pixels)
        return {"files": self._out.write(files), "left": [asdict(one) for one in source.left]}

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """All files of the image have the content that was written."""
        return self._out.holds(entry["files"])

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """One of the files is there."""
        return self._out.first_existing(entry["files"]) is not None

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """Nothing is left to write."""

    def existing_output(self) -> AnyPath | None:
        """The first file that a run would overwrite."""
        names = [self._name(path) for _, masks in self._files.values() for path in masks]
        return self._out.first_existing([*names, self.report.name])

    def _name(self, path: AnyPath) -> str:
        return path.relative_to(self.source).with_name(written_name(path)).as_posix()
