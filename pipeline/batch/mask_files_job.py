"""One image with mask files, refined into a folder of PNGs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.batch.job import Loaded, fitting, usual_frame
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.batch.output_folder import OutputFolder
from bpr.pipeline.files import refuse_to_overwrite, stamp
from bpr.pipeline.formats.images import (
    MAX_PIXELS,
    FileObject,
    encode_geotiff,
    encode_map,
    encode_mask,
    encode_soft_mask,
    is_geotiff,
    read_image,
    read_masks,
)
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.instance import Instance, Mask, Prediction


@dataclass(frozen=True, eq=False)
class MaskObjects:
    """Where each instance comes from: what writing needs of the reading."""

    objects: tuple[tuple[AnyPath, FileObject], ...]  # the mask file and the object in it
    num_pages: Mapping[AnyPath, int]
    left: tuple[LeftObject, ...]


def read_objects(image: AnyPath, masks: Sequence[AnyPath], max_pixels: int) -> Loaded:
    """Read an image and its mask files; `source` is a `MaskObjects`.

    Raises:
        ValueError: the image or all of its masks cannot be read.
    """
    objects: list[tuple[AnyPath, FileObject]] = []
    num_pages: dict[AnyPath, int] = {}
    left: list[LeftObject] = []
    notes: list[str] = []
    for path in masks:
        try:
            file = read_masks(path, max_pixels)
        except ValueError as error:
            left.append(LeftObject(path.name, str(error)))
            continue
        num_pages[path] = file.num_pages
        objects += [(path, item) for item in file.objects]
        notes += file.notes
    instances = {
        index: Instance(mask=Mask.from_array(item.pixels), label=0, score=1.0)
        for index, (_, item) in enumerate(objects)
    }
    photograph = read_image(image, usual_frame(instances.values()), max_pixels, by_windows=True)
    fits, unfit = fitting(photograph.size, instances)
    for index, reason in unfit.items():
        path = objects[index][0]
        left.append(LeftObject(path.name, f"{path}: {reason}"))
    if left and not fits:
        raise ValueError(left[0].reason)
    source = MaskObjects(tuple(objects[index] for index in fits), num_pages, tuple(left))
    notes += [*photograph.notes, *map(str, left)]
    prediction = Prediction(photograph.size, tuple(fits.values()))
    return Loaded(
        image=photograph.pixels,
        prediction=prediction,
        notes=tuple(notes),
        source=source,
        fill=photograph.fill,
    )


def encode_objects(
    source: MaskObjects, prediction: Prediction, name: Callable[[AnyPath], str], max_pixels: int
) -> dict[str, bytes]:
    """A PNG for each mask, page and map that was read; masks hold probabilities if there are any.

    Args:
        source: what was read.
        prediction: refined, in the same order.
        name: of the file that a mask file becomes, see `written_name`; pages get `_page<n>`.
        max_pixels: as for reading.
    """
    files: dict[str, bytes] = {}
    maps: dict[tuple[AnyPath, int], dict[int, Mask]] = {}

    def page_name(path: AnyPath, page: int, more: str = "") -> str:
        whole = PurePosixPath(name(path))
        number = f"_page{page + 1}" if source.num_pages[path] > 1 else ""
        return whole.with_name(f"{whole.stem}{number}{more}{whole.suffix}").as_posix()

    def add(path: AnyPath, name: str, png: bytes) -> None:
        files[name] = encode_geotiff(png, path) if name.endswith(".tif") else png

    for (path, item), instance in zip(source.objects, prediction.instances, strict=True):
        soft = instance.soft
        if item.value is None:
            coded = encode_mask(instance.mask) if soft is None else encode_soft_mask(soft)
            add(path, page_name(path, item.page), coded)
        else:
            if soft is not None:  # a map has no place for probabilities
                more = page_name(path, item.page, f"_soft_{item.value}")
                add(path, more, encode_soft_mask(soft))
            maps.setdefault((path, item.page), {})[item.value] = instance.mask
    for (path, page), masks in maps.items():
        add(path, page_name(path, page), encode_map(path, page, masks, max_pixels))
    return files


def written_name(path: AnyPath) -> str:
    """What a mask file is written as: a PNG, or, of a GeoTIFF, a GeoTIFF."""
    return f"{path.stem}.tif" if is_geotiff(path) else f"{path.stem}.png"


class MaskFilesJob:
    """Reads one image and its masks; each refined mask becomes `<its name>.png`.

    Masks that are GeoTIFFs stay GeoTIFFs.

    What the objects in a mask file are, `mask_values` says. Pages become `<its name>_page<n>.png`,
    an instance map stays one.

    Args:
        image: image file; its name is the only key.
        masks: mask files.
        out: folder for the refined masks.
        max_pixels: refuse larger images and masks.

    Raises:
        ValueError: two masks would get the same name, or an input would be overwritten.
    """

    def __init__(
        self,
        image: AnyPath,
        masks: Sequence[AnyPath],
        out: AnyPath,
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.source, self.masks, self._max_pixels = image, tuple(masks), max_pixels
        self.remarks: Sequence[str] = ()
        # a folder for each image: the masks of another one are not continued but protected
        digest = hashlib.sha256(str(image.resolve()).encode("utf-8", "surrogateescape"))
        self._out = OutputFolder(out, digest.hexdigest()[:16])
        self.work, self.report = self._out.work, out / f"{image.stem}.report.json"
        names = [written_name(mask) for mask in masks]
        for mask, name in zip(masks, names, strict=True):
            if names.count(name) > 1:
                raise ValueError(f"{mask}: expected masks of different names, got {name} twice")
        self._names = names
        refuse_to_overwrite([*(out / name for name in names), self.report], [image, *masks])

    def keys(self) -> Sequence[str]:
        """The name of the image."""
        return [self.source.name]

    def part(self, key: str) -> MaskFilesJob:
        """There is but one image."""
        return self

    def stamp(self, key: str) -> str:
        """Changes when a file does, or the list of masks."""
        return " ".join(f"{path}:{stamp(path)}" for path in (self.source, *self.masks))

    def read(self, key: str) -> Loaded:
        """Read the image and the masks."""
        return read_objects(self.source, self.masks, self._max_pixels)

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Write a PNG for each mask or map."""
        files = encode_objects(source, prediction, written_name, self._max_pixels)
        return {"files": self._out.write(files), "left": [asdict(one) for one in source.left]}

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """All masks have the content that was written."""
        return self._out.holds(entry["files"])

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """One of the masks is there."""
        return self._out.first_existing(entry["files"]) is not None

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """Nothing is left to write."""

    def existing_output(self) -> AnyPath | None:
        """The first file that a run would overwrite."""
        return self._out.first_existing([*self._names, self.report.name])
