"""One image with mask files, refined into a folder of PNGs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from bpr.pipeline.batch.job import Loaded, as_prediction, usual_size
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.batch.output_folder import OutputFolder
from bpr.pipeline.files import stamp
from bpr.pipeline.formats.images import encode_mask, read_image, read_mask
from bpr.pipeline.instance import Instance, Mask, Prediction


class MaskFilesJob:
    """Reads one image and its masks; each refined mask becomes `<its name>.png`.

    Args:
        image: image file; its name is the only key.
        masks: one file per instance, non-zero is the object.
        out: folder for the refined masks.

    Raises:
        ValueError: two masks would get the same name, or a mask would be overwritten.
    """

    def __init__(self, image: Path, masks: Sequence[Path], out: Path) -> None:
        self.source, self.masks = image, tuple(masks)
        # a folder for each image: the masks of another one are not continued but protected
        digest = hashlib.sha256(str(image.resolve()).encode("utf-8", "surrogateescape"))
        self._out = OutputFolder(out, digest.hexdigest()[:16])
        self.work, self.report = self._out.work, out / f"{image.stem}.report.json"
        names = [f"{mask.stem}.png" for mask in masks]
        for mask, name in zip(masks, names, strict=True):
            if names.count(name) > 1:
                raise ValueError(f"{mask}: expected masks of different names, got {name} twice")
            for taken in (image, *masks):
                if (out / name).resolve() == taken.resolve():
                    raise ValueError(f"{out}: expected another folder than that of {taken}")
        self._names = names

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
        instances = [Instance(Mask.from_array(read_mask(path)), 0, 1.0) for path in self.masks]
        photograph = read_image(self.source, usual_size(instances))
        names = [str(path) for path in self.masks]
        prediction = as_prediction(photograph.pixels, instances, names)
        return Loaded(photograph.pixels, prediction, photograph.notes)

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Write one PNG per mask."""
        masks = zip(self._names, prediction.instances, strict=True)
        return {"files": self._out.write({name: encode_mask(item.mask) for name, item in masks})}

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """All masks have the content that was written."""
        return self._out.holds(entry["files"])

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """One of the masks is there."""
        return self._out.first_existing(entry["files"]) is not None

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """Nothing is left to write."""

    def existing_output(self) -> Path | None:
        """The first mask that a run would overwrite."""
        return self._out.first_existing(self._names)
