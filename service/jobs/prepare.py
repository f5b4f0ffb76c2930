"""The files of a job, laid out as `bpr refine` takes them, and opened as its job.

Runs in the job's own process, with the job's folder as the current one: messages then name files
as the caller knows them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.batch.job import Job
from bpr.pipeline.batch.open_job import JobRequest, open_job, writes_json
from bpr.pipeline.files import find_files, object_path
from bpr.pipeline.formats.images import IMAGE_SUFFIXES
from bpr.pipeline.formats.text import load_json
from bpr.service.answers import safe_stem
from bpr.service.jobs.spec import INPUT, OUTPUT, PARTIAL_INPUT, PARTS, JobPlaces, JobSpec
from bpr.service.jobs.unpack import UnpackBudget, remove_folder, unpack

MASK_KINDS = ("masks", "instance_map", "instances")
BATCH_KINDS = ("predictions", "images", "images_json")

_ONLY_IMAGE = 1  # id of the image that comes with its instances, where they name none


@dataclass(frozen=True, eq=False)
class PreparedJob:
    """A job that can be run."""

    job: Job
    result_url: str | None  # where its files go if that is an object store


def prepare(spec: JobSpec) -> PreparedJob:
    """Unpack what was uploaded, unless an earlier run has done so, and open the job.

    Raises:
        ValueError: something is wrong with the files; the message says what.
    """
    try:
        if spec.places is not None:
            return _open_places(spec, spec.places)
        return _open_parts(spec)
    except ValueError as error:
        raise ValueError(_for_parts(str(error))) from None


def _root(spec: JobSpec) -> Path:
    """The job's folder: as other processes find it where the work is done by a cluster."""
    return Path() if spec.ray_address is None else Path.cwd()


def _open_parts(spec: JobSpec) -> PreparedJob:
    root = _root(spec)
    unpacked, out = root / INPUT, root / OUTPUT
    if not unpacked.exists():
        partial = Path(PARTIAL_INPUT)
        remove_folder(partial)
        partial.mkdir()
        _lay_out(spec, partial)
        os.rename(partial, unpacked)
    _check_json_files(unpacked, spec)
    names = {part.name for part in spec.parts}
    if "image" in names:
        request = _one_image(unpacked, out, "instances" in names)
    else:
        request = _many_images(unpacked, out, spec.format)
    return PreparedJob(open_job(_limited(request, spec)).job, None)


def _limited(request: JobRequest, spec: JobSpec) -> JobRequest:
    return replace(request, max_pixels=spec.max_pixels)


def _open_places(spec: JobSpec, places: JobPlaces) -> PreparedJob:
    pred = object_path(places.predictions)
    images = None if places.images is None else object_path(places.images)
    images_json = None if places.images_json is None else object_path(places.images_json)
    as_json = writes_json(pred, spec.format)
    if places.out is None:
        out: AnyPath = _root(spec) / OUTPUT / (f"{safe_stem(pred.name)}.json" if as_json else "")
        out.parent.mkdir(parents=True, exist_ok=True)
    else:
        out = object_path(places.out)
    request = JobRequest(
        pred=pred, out=out, images=images, images_json=images_json, format=spec.format
    )
    return PreparedJob(open_job(_limited(request, spec)).job, places.out)


def _lay_out(spec: JobSpec, folder: Path) -> None:
    """Write the parts as files of their own names, and the files of archives."""
    budget = UnpackBudget(spec.max_files, spec.max_unpacked_bytes)
    taken: set[str] = set()
    for position, part in enumerate(spec.parts):
        source = Path(PARTS) / str(position)
        suffix = Path(part.file_name).suffix.lower()
        name = safe_stem(part.file_name or part.name)
        if part.name in ("predictions", "images") and _begins_as_zip(source):
            unpack(source, folder / part.name, budget, part.name)
            continue
        if part.name == "predictions" or part.name in ("instances", "images_json"):
            target = folder / part.name / f"{name}.json"
        else:
            if suffix not in IMAGE_SUFFIXES:
                suffix = ".png"  # what is in the file decides how it is read
            stem = name if f"{part.name}/{name}{suffix}" not in taken else f"{name}_{position}"
            target = folder / part.name / f"{stem}{suffix}"
            taken.add(f"{part.name}/{stem}{suffix}")
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            raise ValueError(f"{part.name}: expected files of different names, got {name} twice")
        try:
            os.link(source, target)
        except OSError:  # file systems without links
            shutil.copy(source, target)


def _begins_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _one_image(unpacked: Path, out: Path, has_records: bool) -> JobRequest:
    (image,) = (unpacked / "image").iterdir()
    if has_records:
        (source,) = (unpacked / "instances").iterdir()
        records = load_json(source)
        if not isinstance(records, list):
            raise ValueError(
                "instances: expected a json list of COCO instances, got something else"
            )
        named = [r["image_id"] for r in records if isinstance(r, dict) and "image_id" in r]
        image_id = named[0] if named else _ONLY_IMAGE
        pred = _written(unpacked / source.name, [_of_image(r, image_id) for r in records])
        entry = {"id": image_id, "file_name": image.name}
        images_json = _written(unpacked / "image.json", {"images": [entry]})
        out.mkdir(exist_ok=True)
        return JobRequest(
            pred=pred, out=out / source.name, images=image.parent, images_json=images_json
        )
    kind = next(kind for kind in ("masks", "instance_map") if (unpacked / kind).is_dir())
    masks = sorted((unpacked / kind).iterdir())
    return JobRequest(pred=image, out=out, masks=masks)


def _of_image(record: Any, image_id: Any) -> Any:
    return {"image_id": image_id, **record} if isinstance(record, dict) else record


def _written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _many_images(unpacked: Path, out: Path, wanted: str | None) -> JobRequest:
    pred = _inside(unpacked / "predictions")
    images: Path | None = unpacked / "images"
    if images is not None and not images.is_dir():
        images = None
        if pred.is_dir() and {"predictions", "images"} <= {p.name for p in pred.iterdir()}:
            pred, images = _inside(pred / "predictions"), pred / "images"
    images_json = next(iter((unpacked / "images_json").glob("*.json")), None)
    if writes_json(pred, wanted):
        out.mkdir(exist_ok=True)
        out /= f"{pred.stem}.json"
    return JobRequest(pred=pred, out=out, images=images, images_json=images_json, format=wanted)


def _inside(folder: Path) -> Path:
    """What a folder holds if that is one folder or one json: archives often wrap what is meant."""
    while True:
        found = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
        if len(found) != 1:
            return folder
        (only,) = found
        if only.is_dir():
            folder = only
        else:
            return only if only.suffix.lower() == ".json" else folder


def _check_json_files(folder: Path, spec: JobSpec) -> None:
    for path in find_files(folder):
        if path.suffix.lower() == ".json" and path.stat().st_size > spec.max_json_bytes:
            raise ValueError(
                f"{path}: expected a json file of at most {spec.max_json_bytes} bytes, got "
                f"{path.stat().st_size}"
            )


def _for_parts(message: str) -> str:
    """A message of `bpr refine` that names options, for a caller who has sent parts."""
    for option, part in (
        ("--images-json", "images_json"),
        ("--images", "images"),
        ("--masks", "masks"),
        ("--format", "format"),
    ):
        message = message.replace(option, part)
    return message


def check_kinds(names: Sequence[str]) -> str | None:
    """What is wrong with the names of a job's parts; None where nothing is."""
    unknown = set(names) - {"image", *MASK_KINDS, *BATCH_KINDS}
    if unknown:
        return f"expected the parts of a job, got {min(unknown)[:60]!r}"
    kinds = [kind for kind in MASK_KINDS if kind in names]
    if "image" in names or kinds:
        if any(name in BATCH_KINDS for name in names):
            return "expected either image with its masks, or predictions with images, got both"
        if names.count("image") != 1 or len(kinds) != 1:
            return f"expected one image and one of {', '.join(MASK_KINDS)}"
        if kinds != ["masks"] and names.count(kinds[0]) != 1:
            return f"{kinds[0]}: expected one file, got {names.count(kinds[0])}"
        return None
    for name, least in (("predictions", 1), ("images_json", 0)):
        if not least <= names.count(name) <= 1:
            return f"{name}: expected one file, got {names.count(name)}"
    return None
