"""Which job a set of masks is: what it is taken for is told by what is there, or forced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpr.pipeline.batch.cityscapes_job import CityscapesJob
from bpr.pipeline.batch.coco_job import CocoJob
from bpr.pipeline.batch.job import Job
from bpr.pipeline.batch.label_files_job import LabelFilesJob, LabelMe, Yolo, find_label_format
from bpr.pipeline.batch.mask_files_job import MaskFilesJob
from bpr.pipeline.batch.mask_folder_job import MaskFolderJob
from bpr.pipeline.files import find_files
from bpr.pipeline.formats.cityscapes import has_prediction_files
from bpr.pipeline.formats.images import IMAGE_SUFFIXES, MAX_PIXELS
from bpr.pipeline.formats.polygons import DEFAULT_TOLERANCE
from bpr.pipeline.formats.recognised import name_of_format
from bpr.pipeline.formats.text import load_json

CITYSCAPES, COCO, LABELME, YOLO = "cityscapes", "coco", "labelme", "yolo"
MASKS, LABEL_MAPS = "masks", "label-maps"

_MOST_JSONS = 20  # beside photographs; where there are more, they are label files, one an image

FORMATS = {
    CITYSCAPES: "folder of <image>_pred.txt files and mask PNGs",
    COCO: "COCO json, results or a data set's labels",
    LABELME: "folder of LabelMe jsons",
    YOLO: "folder of YOLO segmentation txts",
    MASKS: "mask files or instance maps",
    LABEL_MAPS: "folder of label maps, whose connected regions are refined",
}
"""What can be read, by the name that --format takes."""


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What is to be refined, as the command line says it."""

    pred: Path
    out: Path
    images: Path | None = None  # folder
    images_json: Path | None = None
    masks: Sequence[Path] = ()  # mask files of the image `pred`
    polygon_tolerance: float | None = None  # pixels; None: the format's own
    include_crowds: bool = False
    max_pixels: int = MAX_PIXELS
    format: str | None = None  # of FORMATS; None: told by what is there


@dataclass(frozen=True, eq=False)
class OpenedJob:
    """A job and what its input was taken for."""

    job: Job
    format: str  # of FORMATS


def open_job(request: JobRequest) -> OpenedJob:
    """Find out what masks are, and open them.

    Raises:
        ValueError: nothing is there, nothing that is known, or something is missing beside it.
    """
    pred = request.pred
    if not pred.exists():
        raise ValueError(f"{pred}: expected predictions, found no file or folder")
    if request.images_json and (request.masks or pred.is_dir()):
        raise ValueError(f"--images-json: expected a COCO results json with it, got {pred}")
    if request.masks:
        if pred.is_dir():
            raise ValueError(f"--masks: expected the masks of one image, got the folder {pred}")
        if request.format not in (None, MASKS):
            raise ValueError(f"--format {request.format}: expected {MASKS} with --masks")
        return OpenedJob(
            MaskFilesJob(
                pred, _mask_files(request.masks), request.out, max_pixels=request.max_pixels
            ),
            MASKS,
        )
    source, found = _told(pred) if request.format is None else _forced(pred, request.format)
    images = request.images
    if images is None and (found == LABELME or source != pred):
        images = pred
    if images is None:
        raise ValueError(f"--images: expected the folder of the images of {pred}, got none")
    return OpenedJob(_open(request, source, images, found), found)


def _open(request: JobRequest, source: Path, images: Path, found: str) -> Job:
    more: dict[str, Any] = {"max_pixels": request.max_pixels}
    tolerance = request.polygon_tolerance
    if found == CITYSCAPES:
        return CityscapesJob(source, images, request.out, **more)
    if found == COCO:
        more["include_crowds"] = request.include_crowds
        return CocoJob(source, images, request.images_json, request.out, tolerance, **more)
    if found in (LABELME, YOLO):
        label_format = LabelMe() if found == LABELME else Yolo()
        within = DEFAULT_TOLERANCE if tolerance is None else tolerance
        return LabelFilesJob(source, images, request.out, label_format, within, **more)
    return MaskFolderJob(source, images, request.out, are_label_maps=found == LABEL_MAPS, **more)


def _told(pred: Path) -> tuple[Path, str]:
    """What is to be read, and what it is."""
    if not pred.is_dir():
        if pred.suffix.lower() == ".json":
            return pred, COCO
        raise ValueError(
            f"{pred}: expected a folder of masks or label files, or a COCO json; for one image, "
            f"name its masks with --masks{_known(pred)}"
        )
    if has_prediction_files(pred):
        return pred, CITYSCAPES
    if (own := _coco_json(pred)) is not None:
        return own, COCO
    label_format = find_label_format(pred)
    if label_format is not None:
        return pred, LABELME if isinstance(label_format, LabelMe) else YOLO
    for path in find_files(pred):
        if path.suffix.lower() == ".json" and (known := _known(path)):
            raise ValueError(f"{path}: expected a format that is read{known}")
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in find_files(pred)):
        return pred, MASKS
    raise ValueError(
        f"{pred}: expected masks or label files ({', '.join(FORMATS)}; --format), found none"
    )


def _forced(pred: Path, wanted: str) -> tuple[Path, str]:
    if wanted == COCO and pred.is_dir():
        own = _coco_json(pred)
        if own is None:
            raise ValueError(f"{pred}: expected one COCO json in the folder, found none or several")
        return own, COCO
    if (wanted == COCO) == pred.is_dir():
        what = "a json" if wanted == COCO else "a folder"
        raise ValueError(f"{pred}: expected {what} for --format {wanted}")
    return pred, wanted


def _coco_json(folder: Path) -> Path | None:
    """The only labels of a data set beside its photographs, as Roboflow and COCO exports have."""
    found = []
    jsons = sorted(folder.glob("*.json"))
    if len(jsons) > _MOST_JSONS:
        return None
    for path in jsons:
        try:
            content = load_json(path)
        except ValueError:
            continue
        lists = ("images", "annotations")
        if isinstance(content, dict) and all(isinstance(content.get(n), list) for n in lists):
            found.append(path)
    return found[0] if len(found) == 1 else None


def _known(path: Path) -> str:
    name = name_of_format(path)
    return f"; {name}" if name else ""


def _mask_files(masks: Sequence[Path]) -> Sequence[Path]:
    """The files that --masks names: files, or one folder or pattern of them."""
    if len(masks) != 1:
        return masks
    (named,) = masks
    if named.is_dir():
        found = [p for p in sorted(named.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
    elif not named.exists() and any(sign in named.name for sign in "*?["):
        found = sorted(named.parent.glob(named.name))
    else:
        return masks
    if not found:
        raise ValueError(f"--masks {named}: expected mask files, found none")
    return found
