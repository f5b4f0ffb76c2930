"""Data sets in the formats that Datumaro knows: it reads and writes them, both optional.

pip install datumaro
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence, Set
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bpr._extras import needs_extra
from bpr._paths import AnyPath, is_local
from bpr.pipeline.batch.job import Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.batch.output_folder import OutputFolder
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.files import find_files, stamp
from bpr.pipeline.formats import polygons, rle
from bpr.pipeline.formats.images import MAX_PIXELS, read_image
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.polygons import DEFAULT_TOLERANCE
from bpr.pipeline.instance import Instance, Mask, Prediction, Size, differing_pixels

PREFIX = "datumaro"


@dataclass(frozen=True, eq=False)
class _Read:
    before: Mapping[int, Instance]
    left: tuple[LeftObject, ...]


class DatumaroJob:
    """Refines masks and polygons; keys are `<subset>/<id>` of Datumaro's items.

    Labels, ids, groups and attributes of the objects stay. Photographs are not copied.

    Args:
        folder: of the data set.
        kind: `datumaro`, and Datumaro finds out what the folder is, or `datumaro:<its name>`.
        images: folder of images; None: those of the data set.
        out: folder for the same files refined.
        tolerance: how far in pixels polygons may be from the outlines of their masks.
        max_pixels: refuse larger images.

    Raises:
        ValueError: Datumaro is not installed, or does not know the format in both ways.
    """

    def __init__(
        self,
        folder: AnyPath,
        kind: str,
        images: AnyPath | None,
        out: AnyPath,
        tolerance: float = DEFAULT_TOLERANCE,
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if not is_local(folder):
            raise ValueError(f"{folder}: expected a folder of this machine, which Datumaro needs")
        if out.resolve() == folder.resolve():
            raise ValueError(f"{out}: expected another folder than the input {folder}")
        self.source, self._out = folder, OutputFolder(out)
        self.work, self.report = self._out.work, self._out.report
        self._tolerance, self._max_pixels = tolerance, max_pixels
        self._kind, self._data_set = _import(folder, kind.partition(":")[2])
        self._items = {f"{item.subset}/{item.id}": item for item in self._data_set}
        if not self._items:
            raise ValueError(f"{folder}: expected items of {self._kind}, found none")
        self._index = ImageIndex(images, without=out) if images is not None else None

    @property
    def remarks(self) -> Sequence[str]:
        """What Datumaro took the folder for."""
        return [f"read and written by Datumaro as {self._kind}"]

    def keys(self) -> Sequence[str]:
        """Those of the items."""
        return list(self._items)

    def part(self, key: str) -> DatumaroJob:
        """The job with one image."""
        part = copy(self)
        part._items, part._data_set = {key: self._items[key]}, None
        return part

    def stamp(self, key: str) -> str:
        """Changes when the image or any file of the data set does."""
        try:
            image = stamp(self._find(key))
        except ValueError as error:
            image = str(error)
        files = [path for path in find_files(self.source) if ".bpr" not in path.parts]
        newest = max((stamp(path) for path in files), default="")
        return f"{image} {len(files)} {newest} {self._tolerance:g}"

    def read(self, key: str) -> Loaded:
        """Read the image and its masks."""
        photograph = read_image(self._find(key), max_pixels=self._max_pixels, by_windows=True)
        instances: dict[int, Instance] = {}
        left = []
        for index, annotation in enumerate(self._items[key].annotations):
            name, kind = f"annotation {index}", annotation.type.name
            if kind not in ("mask", "polygon"):
                left.append(LeftObject(name, f"a {kind}, not a mask", False))
                continue
            try:
                mask = _mask_of(annotation, kind, photograph.size)
            except ValueError as error:
                left.append(LeftObject(name, str(error)))
                continue
            instances[index] = Instance(mask=mask, label=0, score=1.0)
        damaged = [one for one in left if one.is_damaged]
        if damaged and not instances:
            raise ValueError(f"{self.source}, {key}, {damaged[0].name}: {damaged[0].reason}")
        prediction = Prediction(photograph.size, tuple(instances.values()))
        notes = (*photograph.notes, *map(str, left))
        source = _Read(instances, tuple(left))
        return Loaded(
            image=photograph.pixels,
            prediction=prediction,
            notes=notes,
            source=source,
            fill=photograph.fill,
        )

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Nothing is written yet; the journal keeps the masks that changed."""
        read: _Read = source
        changed = {
            str(index): rle.encode(instance.mask)
            for (index, coarse), instance in zip(
                read.before.items(), prediction.instances, strict=True
            )
            if not instance.mask.is_empty and differing_pixels(coarse.mask, instance.mask)
        }
        return {"changed": changed, "left": [asdict(one) for one in read.left]}

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """The journal itself holds the masks."""
        return "changed" in entry

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """Never: objects of an image that failed are written as they came."""
        return False

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """Let Datumaro write the data set, then move it into place."""
        for key, item in self._items.items():
            changed = {} if key in failed else journal.read(key)["changed"]
            new = item.wrap(annotations=self._refined(item, changed)) if changed else item
            self._data_set.put(_without_folder(new))
        with tempfile.TemporaryDirectory() as staged:
            self._data_set.export(staged, self._kind, save_media=False)
            for path in find_files(Path(staged)):
                self._out.write({path.relative_to(staged).as_posix(): path.read_bytes()})

    def existing_output(self) -> AnyPath | None:
        """The first thing in the folder, which should be empty."""
        if not self._out.path.is_dir():
            return None
        return next((p for p in sorted(self._out.path.iterdir()) if p.name != ".bpr"), None)

    def _refined(self, item: Any, changed: Mapping[str, Any]) -> list[Any]:
        annotations = list(item.annotations)
        for name, code in changed.items():
            index = int(name)
            old, size = annotations[index], (code["size"][0], code["size"][1])
            mask = rle.decode(code, size)
            if old.type.name == "polygon":
                parts = polygons.trace_edges(mask, self._tolerance).parts
                annotations[index] = old.wrap(points=polygons.join(parts).ravel().tolist())
            else:
                annotations[index] = _mask_like(old, mask)
        return annotations

    def _find(self, key: str) -> AnyPath:
        item = self._items[key]
        known = getattr(item.media, "path", None)
        if self._index is None:
            if not known:
                raise ValueError(
                    f"{self.source}: expected the image of {key}, found none; name the folder of "
                    "the images with --images"
                )
            return Path(known)
        if known:
            return self._index.find_name(Path(known).name)
        return self._index.find([item.id])


def _import(folder: AnyPath, kind: str) -> tuple[str, Any]:
    """What Datumaro calls the format of a folder, and the data set."""
    with needs_extra("--format datumaro"):
        import datumaro
    environment = datumaro.Environment()
    try:
        if not kind:
            found = environment.detect_dataset(str(folder))
            kind = min(found, key=lambda name: (len(name), name)) if found else ""
        if not kind:
            raise ValueError(
                f"{folder}: expected a format that Datumaro knows, found none; name it with "
                "--format datumaro:NAME"
            )
        if kind not in environment.exporters:
            raise ValueError(
                f"--format {PREFIX}:{kind}: expected a format that Datumaro writes; convert the "
                "result of another one, for example coco"
            )
        return kind, datumaro.Dataset.import_from(str(folder), kind)
    except ValueError:
        raise
    except Exception as error:  # its plugins have errors of their own
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{folder}: expected a data set of Datumaro, got: {reason}") from None


def _without_folder(item: Any) -> Any:
    """An item whose image is named without the folder that it lies in: it is not copied."""
    known = getattr(item.media, "path", None)
    if not known:
        return item
    from datumaro import Image

    return item.wrap(media=Image.from_file(path=Path(known).name, size=item.media.size))


def _mask_of(annotation: Any, kind: str, size: Size) -> Mask:
    if kind == "polygon":
        return rle.decode([[float(value) for value in annotation.points]], size)
    pixels = np.asarray(annotation.image)
    if pixels.shape != size:
        raise ValueError(
            f"expected a mask of the size of its image, {size} (height, width), got {pixels.shape}"
        )
    return Mask.from_array(pixels)


def _mask_like(old: Any, mask: Mask) -> Any:
    """A mask annotation with all that another one has but its pixels."""
    from datumaro import Mask as DatumaroMask

    return DatumaroMask(
        image=mask.to_array(),
        label=old.label,
        id=old.id,
        attributes=dict(old.attributes),
        group=old.group,
        object_id=old.object_id,
        z_order=old.z_order,
    )
