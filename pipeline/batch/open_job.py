"""Which job a set of masks is: what it is taken for is told by what is there, or forced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.batch import datumaro_job
from bpr.pipeline.batch.cityscapes_job import CityscapesJob
from bpr.pipeline.batch.coco_job import CocoJob
from bpr.pipeline.batch.data_set_file_job import DataSetFileJob
from bpr.pipeline.batch.datumaro_job import DatumaroJob
from bpr.pipeline.batch.job import Job
from bpr.pipeline.batch.jobs_together import JobsTogether
from bpr.pipeline.batch.label_files_job import LabelFilesJob
from bpr.pipeline.batch.label_formats import (
    Darwin,
    LabelFormat,
    LabelMe,
    Sam,
    Supervisely,
    Yolo,
    find_label_format,
)
from bpr.pipeline.batch.mask_files_job import MaskFilesJob
from bpr.pipeline.batch.mask_folder_job import MaskFolderJob
from bpr.pipeline.batch.segment_maps_job import SegmentMapsJob
from bpr.pipeline.datasets.coco_folders import CocoSplit, find_coco_splits
from bpr.pipeline.datasets.mask_folders import are_label_maps
from bpr.pipeline.files import find_files
from bpr.pipeline.formats import kaggle, sam, segment_maps, via
from bpr.pipeline.formats.cityscapes import has_prediction_files
from bpr.pipeline.formats.images import IMAGE_SUFFIXES, MAX_PIXELS
from bpr.pipeline.formats.polygons import DEFAULT_TOLERANCE
from bpr.pipeline.formats.recognised import name_of_format
from bpr.pipeline.formats.text import load_json

CITYSCAPES, COCO, LABELME, YOLO = "cityscapes", "coco", "labelme", "yolo"
MASKS, LABEL_MAPS, PANOPTIC = "masks", "label-maps", "panoptic"
SUPERVISELY, DARWIN, SAM, VIA = "supervisely", "darwin", "sam", "via"
KAGGLE, SEGMENTS_AI, DATUMARO = "kaggle", "segments-ai", datumaro_job.PREFIX

FORMATS = {
    CITYSCAPES: "folder of <image>_pred.txt files and mask PNGs",
    COCO: "COCO json, results or a data set's labels, or photographs with their COCO json",
    LABELME: "folder of LabelMe jsons",
    YOLO: "folder of YOLO segmentation txts",
    MASKS: "mask files or instance maps",
    LABEL_MAPS: "folder of label maps, whose connected regions are refined",
    PANOPTIC: "COCO panoptic json with its PNGs",
    SUPERVISELY: "folder of Supervisely annotations",
    DARWIN: "folder of Darwin jsons of V7",
    SAM: "jsons of Segment Anything, one an image",
    VIA: "json of VGG Image Annotator",
    KAGGLE: "run-length csv of Kaggle (ImageId, EncodedPixels)",
    SEGMENTS_AI: "release json of Segments.ai with its PNGs",
    DATUMARO: "data set that Datumaro reads and writes (VOC, Open Images, ...; datumaro:NAME)",
}
"""What can be read, by the name that --format takes."""

LABEL_FORMATS: Mapping[str, type[LabelFormat]] = {
    LABELME: LabelMe,
    YOLO: Yolo,
    SUPERVISELY: Supervisely,
    DARWIN: Darwin,
    SAM: Sam,
}
"""Those with a label file per image."""

_MOST_FILES = 20  # in a folder; where there are more, they are label files, one an image
_FILES = (COCO, PANOPTIC, VIA, KAGGLE, SEGMENTS_AI)  # these are one file, not a folder


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What is to be refined, as the command line says it."""

    pred: AnyPath
    out: AnyPath
    images: AnyPath | None = None  # folder
    images_json: AnyPath | None = None
    masks: Sequence[AnyPath] = ()  # mask files of the image `pred`
    polygon_tolerance: float | None = None  # pixels; None: the format's own
    include_crowds: bool = False
    max_pixels: int = MAX_PIXELS
    format: str | None = None  # of FORMATS, or datumaro:NAME; None: told by what is there


@dataclass(frozen=True, eq=False)
class OpenedJob:
    """A job and what its input was taken for."""

    job: Job
    format: str  # of FORMATS


def format_of(pred: AnyPath) -> str:
    """What a file or folder is taken for, of FORMATS.

    Raises:
        ValueError: nothing that is known.
    """
    pred = _with_only_file(JobRequest(pred=pred, out=pred)).pred
    if not pred.is_dir():
        return _format_of_file(pred)
    if not has_prediction_files(pred) and find_coco_splits(pred):
        return COCO
    return _format_of_folder(pred)


def open_job(request: JobRequest) -> OpenedJob:
    """Find out what masks are, and open them.

    Raises:
        ValueError: nothing is there, nothing that is known, or something is missing beside it.
    """
    if not request.pred.exists():
        raise ValueError(f"{request.pred}: expected predictions, found no file or folder")
    if request.format is not None and request.format.partition(":")[0] == DATUMARO:
        return OpenedJob(_open_datumaro(request), DATUMARO)
    request = _with_only_file(request)
    pred = request.pred
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
    if not pred.is_dir():
        return _open_file(request)
    splits = find_coco_splits(pred) if request.format in (None, COCO) else []
    if splits and not (request.format is None and has_prediction_files(pred)):
        return OpenedJob(_open_splits(request, splits), COCO)
    return _open_folder(request)


def writes_json(pred: AnyPath, wanted: str | None = None) -> bool:
    """Whether the job of these masks writes one json file, and not a folder.

    Args:
        pred: masks, as `JobRequest` has them.
        wanted: of FORMATS; None: told by what is there.

    Raises:
        ValueError: nothing is there that is known.
    """
    return not pred.is_dir() and (wanted or _format_of_file(pred)) == COCO


def _open_datumaro(request: JobRequest) -> Job:
    if not request.pred.is_dir():
        raise ValueError(f"{request.pred}: expected a folder for --format {request.format}")
    return DatumaroJob(
        request.pred,
        request.format or DATUMARO,
        request.images,
        request.out,
        _tolerance(request),
        max_pixels=request.max_pixels,
    )


def _with_only_file(request: JobRequest) -> JobRequest:
    """The request for the only json or csv of a folder whose format has one for all images."""
    if not request.pred.is_dir() or request.format not in (None, *_FILES):
        return request
    files = [p for p in sorted(request.pred.iterdir()) if p.suffix.lower() in (".json", ".csv")]
    found = []
    for path in files if len(files) <= _MOST_FILES else ():
        with suppress(ValueError):
            kind = _format_of_file(path)
            if kind != COCO and request.format in (None, kind):
                found.append(path)
    if len(found) != 1:
        return request
    return replace(request, pred=found[0], images=request.images or request.pred)


def _open_file(request: JobRequest) -> OpenedJob:
    pred = request.pred
    found = request.format or _format_of_file(pred)
    if found == SAM:
        return _open_one_of_sam(request)
    if found not in _FILES:
        raise ValueError(f"{pred}: expected a folder for --format {found}")
    images = _images(request)
    more: dict[str, Any] = {"max_pixels": request.max_pixels}
    if found == COCO:
        more["include_crowds"] = request.include_crowds
        tolerance = request.polygon_tolerance
        return OpenedJob(
            CocoJob(pred, images, request.images_json, request.out, tolerance, **more), found
        )
    out = request.out if request.out.suffix else request.out / pred.name
    if found in (PANOPTIC, SEGMENTS_AI):
        return OpenedJob(SegmentMapsJob(segment_maps.parse(pred), images, out, **more), found)
    content = via.parse(pred) if found == VIA else kaggle.parse(pred)
    return OpenedJob(DataSetFileJob(pred, content, images, out, _tolerance(request), **more), found)


def _open_one_of_sam(request: JobRequest) -> OpenedJob:
    """The job of a folder with one of its jsons alone."""
    pred, out = request.pred, request.out
    if out.suffix:
        raise ValueError(f"--out {out}: expected a folder for the refined {pred.name}, got a file")
    more = {"max_pixels": request.max_pixels}
    job = LabelFilesJob(pred.parent, _images(request), out, Sam(), _tolerance(request), **more)
    return OpenedJob(job.part(pred.name), SAM)


def _format_of_file(pred: AnyPath) -> str:
    if pred.suffix.lower() == ".csv" and kaggle.is_run_length_csv(pred):
        return KAGGLE
    known = name_of_format(pred)
    if pred.suffix.lower() != ".json":
        raise ValueError(
            f"{pred}: expected a folder of masks or label files, a json or a csv of masks; for "
            f"one image, name its masks with --masks{known}"
        )
    content = load_json(pred)
    tests = ((segment_maps.is_panoptic, PANOPTIC), (segment_maps.is_segments_ai, SEGMENTS_AI))
    for is_one, name in (*tests, (via.is_via, VIA), (sam.is_sam, SAM)):
        if is_one(content):
            return name
    if known:
        raise ValueError(f"{pred}: expected a format that is read{known}")
    return COCO


def _open_splits(request: JobRequest, splits: Sequence[CocoSplit]) -> Job:
    """The COCO jsons of a folder, each with its photographs."""

    def job(split: CocoSplit, out: AnyPath) -> CocoJob:
        return CocoJob(
            split.json,
            request.images or split.images,
            None,
            out,
            request.polygon_tolerance,
            include_crowds=request.include_crowds,
            max_pixels=request.max_pixels,
            without=request.out if not request.out.suffix else None,
        )

    out = request.out
    if len(splits) == 1:
        (split,) = splits
        name = split.json.relative_to(request.pred)
        return job(split, out if out.suffix.lower() == ".json" else out / name.as_posix())
    if out.suffix.lower() == ".json":
        jsons = ", ".join(str(split.json) for split in splits)
        raise ValueError(f"{out}: expected a folder for several jsons ({jsons}), got a json")
    names = [split.json.relative_to(request.pred) for split in splits]
    jobs = {
        name.with_suffix("").as_posix(): job(split, out / name.as_posix())
        for name, split in zip(names, splits, strict=True)
    }
    return JobsTogether(request.pred, jobs, out)


def _open_folder(request: JobRequest) -> OpenedJob:
    pred, out = request.pred, request.out
    found = request.format or _format_of_folder(pred)
    if found in _FILES:
        raise ValueError(f"{pred}: expected a file for --format {found}, got a folder")
    is_beside = found in LABEL_FORMATS and (found == LABELME or _holds_images(pred))
    images = pred if request.images is None and is_beside else _images(request)
    more: dict[str, Any] = {"max_pixels": request.max_pixels}
    if found == CITYSCAPES:
        return OpenedJob(CityscapesJob(pred, images, out, **more), found)
    if found in LABEL_FORMATS:
        label_format = LABEL_FORMATS[found]()
        tolerance = _tolerance(request)
        return OpenedJob(LabelFilesJob(pred, images, out, label_format, tolerance, **more), found)
    job = MaskFolderJob(pred, images, out, are_label_maps=found == LABEL_MAPS, **more)
    return OpenedJob(job, found)


def _format_of_folder(pred: AnyPath) -> str:
    if (pred / "JPEGImages").is_dir() and (pred / "Annotations").is_dir():
        raise ValueError(
            f"{pred}: this is Pascal VOC: name its folder SegmentationObject or SegmentationClass "
            "as PRED, or pass --format datumaro (pip install datumaro)"
        )
    if has_prediction_files(pred):
        return CITYSCAPES
    label_format = find_label_format(pred)
    if label_format is not None:
        return next(name for name, kind in LABEL_FORMATS.items() if isinstance(label_format, kind))
    files = find_files(pred)
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if are_label_maps(pictures):
        return LABEL_MAPS
    for path in files:
        if path.suffix.lower() in (".json", ".csv", ".xml") and (known := name_of_format(path)):
            raise ValueError(f"{path}: expected a format that is read{known}")
    if pictures:
        return MASKS
    raise ValueError(
        f"{pred}: expected masks or label files ({', '.join(FORMATS)}; --format), found none"
    )


def _holds_images(folder: AnyPath) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in find_files(folder))


def _images(request: JobRequest) -> AnyPath:
    if request.images is None:
        raise ValueError(f"--images: expected the folder of the images of {request.pred}, got none")
    return request.images


def _tolerance(request: JobRequest) -> float:
    given = request.polygon_tolerance
    return DEFAULT_TOLERANCE if given is None else given


def _mask_files(masks: Sequence[AnyPath]) -> Sequence[AnyPath]:
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
