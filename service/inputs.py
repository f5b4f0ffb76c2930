"""Uploaded files as an image with its prediction, checked against the limits on the way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpr.pipeline.batch.job import as_prediction, usual_frame
from bpr.pipeline.formats import coco
from bpr.pipeline.formats.frame import Frame, frame_of
from bpr.pipeline.formats.images import (
    NamedFile,
    Photograph,
    read_header,
    read_image,
    read_instance_map,
    read_mask,
)
from bpr.pipeline.formats.label_maps import MapObjects, instances_of
from bpr.pipeline.formats.text import short
from bpr.pipeline.instance import Instance, Mask, Prediction, Size, UInt8Array, size_text
from bpr.service.batching import Standing
from bpr.service.json_input import parse_json
from bpr.service.problems import Problem, too_large, unavailable, unusable, wrong_type
from bpr.service.settings import ServiceSettings

_IMAGE_FORMATS = {"PNG": "PNG", "JPEG": "JPEG", "MPO": "JPEG", "WEBP": "WebP"}
_MASK_FORMATS = {"PNG": "PNG"}
_ECHO_SHARE = 4  # of `max_json_bytes`, the part that fields beside segmentations may take


@dataclass(frozen=True, eq=False, kw_only=True)
class Upload:
    """The parts of a request: an image and, to be refined, one of the three kinds of masks."""

    image: NamedFile
    image_name: str  # as the caller has it
    masks: tuple[NamedFile, ...] = ()
    instance_map: NamedFile | None = None
    instances: bytes | None = None  # json


@dataclass(frozen=True, eq=False, kw_only=True)
class RequestInputs:
    """A request, read."""

    image: UInt8Array  # (H, W, 3) RGB
    prediction: Prediction  # records hold the caller's fields
    notes: tuple[str, ...]
    values: tuple[int, ...]  # of the instances in an instance map, 1 to 65535
    map: MapObjects | None = None  # the instance map, where one came: void and stuff stay in it


def no_standing() -> None:
    """The network has nothing of the request."""


class Patience:
    """How long a request may take, and whether somebody still waits for it.

    Threads cannot be stopped: stages ask between two instances.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._seconds = seconds
        self._is_over = False
        self.standing: Callable[[], Standing | None] = no_standing
        """How far the network is with the request; set while it has its patches."""

    @property
    def remaining_s(self) -> float:
        """Until the deadline; not negative."""
        return max(self._end - time.monotonic(), 0.0)

    def give_up(self) -> None:
        """Nobody waits any more."""
        self._is_over = True

    def check(self) -> None:
        """Problem (503) if the request should stop here."""
        if self._is_over or self.remaining_s == 0:
            raise self.problem()

    def problem(self) -> Problem:
        """What a request is answered whose time is up."""
        return unavailable(
            f"The request took longer than {self._seconds:g} s. Send fewer instances or a "
            "smaller image, or try again when there is less to do.",
            "timeout",
        )


def read_inputs(upload: Upload, limits: ServiceSettings, patience: Patience) -> RequestInputs:
    """Decode an image and its masks, by the rules of `bpr refine`.

    Sizes are compared with the limits before anything of that size is decoded.

    Raises:
        Problem: 413 over a limit, 415 another type of file, 422 content that cannot be used,
            400 json that is none, 503 out of time.
    """
    _check_header(upload.image, _IMAGE_FORMATS, limits)
    try:
        if upload.instances is not None:
            return _read_coco(upload.image, upload.instances, limits, patience)
        if upload.instance_map is not None:
            return _read_map(upload.image, upload.instance_map, limits, patience)
        return _read_masks(upload.image, upload.masks, limits, patience)
    except ValueError as error:
        raise unusable(str(error)) from None


def read_photograph(upload: Upload, limits: ServiceSettings) -> Photograph:
    """Decode an image that comes alone.

    Raises:
        Problem: as `read_inputs`.
    """
    _check_header(upload.image, _IMAGE_FORMATS, limits)
    try:
        return read_image(upload.image)
    except ValueError as error:
        raise unusable(str(error)) from None


def _check_header(file: NamedFile, formats: Mapping[str, str], limits: ServiceSettings) -> Size:
    """The stored size of an image file of the right type that is not too large."""
    expected = " or ".join(dict.fromkeys(formats.values()))
    try:
        header = read_header(file)
    except ValueError:
        raise wrong_type(f"{file}: expected a {expected} file, got something else") from None
    if header.format not in formats:
        raise wrong_type(f"{file}: expected a {expected} file, got {header.format}")
    height, width = header.size
    if height * width > limits.max_image_pixels:
        raise too_large(
            f"{file}: expected at most {limits.max_image_pixels} pixels, got {width} x {height} "
            f"= {height * width}",
            "image_pixels",
        )
    return header.size


class MaskBudget:
    """Adds up the pixels of masks against the limit."""

    def __init__(self, limits: ServiceSettings) -> None:
        self._limit, self._sum = limits.max_mask_pixels, 0

    def add(self, pixels: int) -> None:
        """Problem (413) when there are too many."""
        self._sum += pixels
        if self._sum > self._limit:
            raise too_large(
                f"masks: expected at most {self._limit} pixels of all masks together, got more",
                "mask_pixels",
            )


def check_count(count: int, limits: ServiceSettings) -> None:
    """Problem (413) where there are more instances than a request may have."""
    if count > limits.max_instances:
        raise too_large(
            f"instances: expected at most {limits.max_instances} in a request, got {count}",
            "instances",
        )


def _read_masks(
    image: NamedFile, masks: Sequence[NamedFile], limits: ServiceSettings, patience: Patience
) -> RequestInputs:
    check_count(len(masks), limits)
    budget = MaskBudget(limits)
    for file in masks:
        height, width = _check_header(file, _MASK_FORMATS, limits)
        budget.add(height * width)
    instances = []
    for file in masks:
        patience.check()
        instances.append(Instance(mask=Mask.from_array(read_mask(file)), label=0, score=1.0))
    photograph = read_image(image, usual_frame(instances))
    prediction = as_prediction(photograph.pixels, instances, [str(file) for file in masks])
    return RequestInputs(
        image=photograph.pixels,
        prediction=prediction,
        notes=photograph.notes,
        values=count_up(prediction),
    )


def read_with_masks(
    image: NamedFile, masks: Sequence[Mask], limits: ServiceSettings, patience: Patience
) -> RequestInputs:
    """Decode an image whose masks are there already.

    Args:
        image: the image's file.
        masks: one per instance, of the image's size.
        limits: of the service.
        patience: of the caller.

    Raises:
        Problem: as `read_inputs`.
    """
    _check_header(image, _IMAGE_FORMATS, limits)
    check_count(len(masks), limits)
    budget = MaskBudget(limits)
    instances = []
    for mask in masks:
        patience.check()
        budget.add(mask.bitmap.size)
        instances.append(Instance(mask=mask, label=0, score=1.0))
    try:
        photograph = read_image(image, usual_frame(instances))
        names = [f"mask {number}" for number in range(1, len(masks) + 1)]
        prediction = as_prediction(photograph.pixels, instances, names)
    except ValueError as error:
        raise unusable(str(error)) from None
    return RequestInputs(
        image=photograph.pixels,
        prediction=prediction,
        notes=photograph.notes,
        values=count_up(prediction),
    )


def _read_map(
    image: NamedFile, file: NamedFile, limits: ServiceSettings, patience: Patience
) -> RequestInputs:
    _check_header(file, _MASK_FORMATS, limits)
    values = read_instance_map(file)
    size = (values.shape[0], values.shape[1])
    photograph = read_image(image, Frame(bitmaps=size))
    if photograph.pixels.shape[:2] != size:
        actual = size_text((photograph.pixels.shape[0], photograph.pixels.shape[1]))
        raise unusable(f"{file}: expected the size of the image, {actual}, got {size_text(size)}")
    found = instances_of(values)
    check_count(len(found.objects), limits)
    budget = MaskBudget(limits)
    instances = []
    for value, mask in found.objects:
        patience.check()
        budget.add(mask.bitmap.size)
        instances.append(Instance(mask=mask, label=0, score=1.0, record={"value": value}))
    prediction = Prediction(size, tuple(instances))
    labels = tuple(value for value, _ in found.objects)
    return RequestInputs(
        image=photograph.pixels,
        prediction=prediction,
        notes=photograph.notes,
        values=labels,
        map=found,
    )


def _read_coco(
    image: NamedFile, content: bytes, limits: ServiceSettings, patience: Patience
) -> RequestInputs:
    records = _parse_records(content, limits)
    frame = frame_of(record.get("segmentation") for record in records)
    photograph = read_image(image, frame)
    size = (photograph.pixels.shape[0], photograph.pixels.shape[1])
    by_image = {str(k): (k,) for k in range(len(records))}
    results = coco.CocoResults(
        path=Path("instances"), records=dict(enumerate(records)), by_image=by_image, strays={}
    )
    budget = MaskBudget(limits)
    instances: list[Instance] = []
    for index in by_image:
        patience.check()
        (instance,) = coco.read_prediction(results, index, size).instances
        budget.add(instance.mask.bitmap.size)
        instances.append(instance)
    prediction = Prediction(size, tuple(instances))
    return RequestInputs(
        image=photograph.pixels,
        prediction=prediction,
        notes=photograph.notes,
        values=count_up(prediction),
    )


def _parse_records(content: bytes, limits: ServiceSettings) -> tuple[Mapping[str, Any], ...]:
    records = parse_json(content, "instances", limits)
    if not isinstance(records, list):
        raise unusable("instances: expected a json list of COCO instances, got something else")
    check_count(len(records), limits)
    image_ids, echo = set(), 0
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise unusable(
                f"instances, entry {index}: expected an object with a segmentation, "
                f"got {short(record)}"
            )
        echo += _count_echo(record, index)
        if echo > limits.max_json_bytes // _ECHO_SHARE:
            raise too_large(
                f"instances: expected at most {limits.max_json_bytes // _ECHO_SHARE} bytes of "
                "fields beside the segmentations, which the answer repeats, got more",
                "json_bytes",
            )
        image_ids.add(short(record.get("image_id")))
    if len(image_ids) > 1:
        raise unusable(
            "instances: expected the instances of one image, got image_id "
            + " and ".join(sorted(image_ids)[:2])
        )
    return tuple(records)


def _count_echo(record: Mapping[str, Any], index: int) -> int:
    """Bytes of the caller's fields: the answer repeats them, so they must be json again."""
    try:
        kept = {k: v for k, v in record.items() if k != "segmentation"}
        return len(json.dumps(kept, allow_nan=False))
    except ValueError:  # 1e999 is read as infinity
        raise unusable(
            f"instances, entry {index}: expected finite numbers, got one out of range"
        ) from None


def count_up(prediction: Prediction) -> tuple[int, ...]:
    """Values of instances that have none of their own: 1, 2, ..."""
    return tuple(range(1, len(prediction.instances) + 1))
