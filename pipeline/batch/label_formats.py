"""Formats with a label file per image: what `LabelFilesJob` needs of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol

from bpr._paths import AnyPath
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.files import find_files
from bpr.pipeline.formats import darwin, labelme, sam, supervisely, yolo
from bpr.pipeline.formats.frame import Frame
from bpr.pipeline.formats.images import ImageFile
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.text import load_json
from bpr.pipeline.instance import Instance, Mask, Size

_IMG, _ANN = "img", "ann"  # folders of a Supervisely project
NO_LABELS = frozenset({"classes.txt", "report.json"})  # of annotation tools, and our own


class LabelFormat(Protocol):
    """What differs between the label formats."""

    suffix: str

    def parse(self, path: AnyPath) -> Any:
        """Read a label file. ValueError: it is damaged."""

    def may_be_labels(self, path: AnyPath) -> bool:
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

    def may_be_labels(self, path: AnyPath) -> bool:
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


class Supervisely:
    """`<image name>.json`, in a folder `ann` beside the folder `img` of the images."""

    suffix = ".json"
    parse = staticmethod(supervisely.parse)
    frame = staticmethod(supervisely.frame)
    read_instances = staticmethod(supervisely.read_instances)
    encode = staticmethod(supervisely.encode)

    def may_be_labels(self, path: AnyPath) -> bool:
        """Annotations; not `meta.json` and other jsons of a project."""
        return _is_or_damaged(path, supervisely.is_supervisely)

    def find_image(
        self, parsed: supervisely.SuperviselyFile, inside: str, images: ImageIndex
    ) -> tuple[ImageFile, str]:
        """By name; of images called alike, the one in `img` beside `ann`."""
        folder = PurePosixPath(*(_IMG if part == _ANN else part for part in inside.split("/")))
        path = images.find_name((folder / parsed.image_name).as_posix())
        return path, images.describe_guess(parsed.image_name, path)


class Darwin:
    """A json per image, whose item names it."""

    suffix = ".json"
    parse = staticmethod(darwin.parse)
    frame = staticmethod(darwin.frame)
    read_instances = staticmethod(darwin.read_instances)
    encode = staticmethod(darwin.encode)

    def may_be_labels(self, path: AnyPath) -> bool:
        """Annotations; not other jsons of a release."""
        return _is_or_damaged(path, darwin.is_darwin)

    def find_image(
        self, parsed: darwin.DarwinFile, inside: str, images: ImageIndex
    ) -> tuple[ImageFile, str]:
        """By name."""
        last = PurePosixPath(parsed.image_name).name
        path = images.find_name((PurePosixPath(inside) / last).as_posix())
        return path, images.describe_guess(last, path)


class Sam:
    """A json per image, named after it or naming it."""

    suffix = ".json"
    parse = staticmethod(sam.parse)
    frame = staticmethod(sam.frame)
    read_instances = staticmethod(sam.read_instances)
    encode = staticmethod(sam.encode)

    def may_be_labels(self, path: AnyPath) -> bool:
        """Lists of masks; not other jsons of a folder."""
        return _is_or_damaged(path, sam.is_sam)

    def find_image(
        self, parsed: sam.SamFile, inside: str, images: ImageIndex
    ) -> tuple[ImageFile, str]:
        """By the name in the json, or by that of the json."""
        if parsed.image_name is None:
            return images.find([parsed.path.stem], inside), ""
        last = PurePosixPath(parsed.image_name).name
        path = images.find_name((PurePosixPath(inside) / last).as_posix())
        return path, images.describe_guess(last, path)


def _is_or_damaged(path: AnyPath, is_one: Callable[[Any], bool]) -> bool:
    """Whether a json is of a format, or cannot be read: then somebody should hear of it."""
    try:
        return is_one(load_json(path))
    except ValueError:
        return True


def find_label_format(folder: AnyPath) -> LabelFormat | None:
    """The format of the label files of a folder; None where there are none.

    A folder with any json of a format is of that format: its txts are something else.
    """
    jsons: Sequence[tuple[Callable[[Any], bool], type[LabelFormat]]] = (
        (labelme.is_label_file, LabelMe),
        (supervisely.is_supervisely, Supervisely),
        (darwin.is_darwin, Darwin),
        (sam.is_sam, Sam),
    )
    has_txt = False
    for path in find_files(folder):
        if path.name in NO_LABELS:
            continue
        if path.suffix.lower() == LabelMe.suffix:
            try:
                content = load_json(path)
            except ValueError:
                continue
            for is_one, kind in jsons:
                if is_one(content):
                    return kind()
        has_txt = has_txt or path.suffix.lower() == Yolo.suffix
    return Yolo() if has_txt else None
