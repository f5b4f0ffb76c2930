"""Refined masks as the caller wants them: json, a Cityscapes zip, or an instance map."""

from __future__ import annotations

import base64
import io
import re
import unicodedata
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bpr.pipeline.formats import cityscapes, coco, rle
from bpr.pipeline.formats.images import encode_png
from bpr.pipeline.instance import (
    Instance,
    Int64Array,
    Prediction,
    SoftMask,
    UInt8Array,
    differing_pixels,
    paint,
)

JSON = "application/json"
ZIP = "application/zip"
PNG = "image/png"
MEDIA_TYPES = (JSON, ZIP, PNG)  # the first is the default

_MAX_STEM = 150  # bytes: names of files have 255, and endings follow
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same masks give the same bytes


def choose_media_type(accept: str, offered: Sequence[str] = MEDIA_TYPES) -> str | None:
    """The type of answer that an Accept header prefers; None if it takes none of those offered.

    Among equals the first one wins.
    """
    best, best_rank = None, (0.0, 0)
    wanted = [_parse_range(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    for media_type in offered:
        ranges = (media_type, f"{media_type.split('/')[0]}/*", "*/*")
        # the most specific range that fits decides
        for specificity, name in zip((2, 1, 0), ranges, strict=True):
            qualities = [quality for wish, quality in wanted if wish == name]
            if qualities:
                rank = (max(qualities), specificity)
                if rank[0] > 0 and rank > best_rank:
                    best, best_rank = media_type, rank
                break
    return best


def describe_instances(
    coarse: Prediction, refined: Prediction, boxes: Sequence[Int64Array], with_details: bool
) -> list[dict[str, Any]]:
    """Describe each instance as one json object, the caller's fields first.

    Args:
        coarse: the prediction before refinement.
        refined: the same instances after it.
        boxes: per instance (N, 4), the patches that were redrawn.
        with_details: add the patches and the coarse masks.
    """
    described = []
    instances = zip(coarse.instances, refined.instances, boxes, strict=True)
    for before, after, own_boxes in instances:
        record = coco.refined_record({**after.record, "bbox": None, "area": None}, after.mask)
        record["changed_pixels"] = differing_pixels(before.mask, after.mask)
        record["patches"] = len(own_boxes)
        if with_details:
            record["patch_boxes"] = own_boxes.tolist()
            record["coarse"] = rle.encode(before.mask)
        described.append(record)
    return described


def describe_alpha(instance: Instance) -> dict[str, Any]:
    """The probabilities of an instance: a box of the image, and an 8-bit PNG of it in base64."""
    soft = instance.soft or SoftMask.of_mask(instance.mask)
    x0, y0, x1, y1 = soft.window
    values = soft.values if soft.values.size else np.zeros((1, 1), np.uint8)
    box = [x0, y0, x1, y1] if soft.values.size else [0, 0, 1, 1]
    return {"box": box, "png": base64.b64encode(encode_png(values)).decode("ascii")}


def encode_cutout(image: UInt8Array, refined: Prediction) -> bytes:
    """The image as a PNG with transparency: every pixel is as opaque as its surest object.

    Args:
        image: (H, W, 3) RGB.
        refined: its objects, with `soft`.
    """
    alpha = np.zeros(refined.size, np.uint8)
    for instance in refined.instances:
        soft = instance.soft or SoftMask.of_mask(instance.mask)
        x0, y0, x1, y1 = soft.window
        np.maximum(alpha[y0:y1, x0:x1], soft.values, out=alpha[y0:y1, x0:x1])
    return encode_png(np.dstack([image, alpha]))


def encode_zip(prediction: Prediction, image_name: str) -> bytes:
    """`<stem>_pred.txt` and one PNG per instance, as `bpr refine` and Cityscapes' tools read them.

    Args:
        prediction: refined.
        image_name: of the uploaded file; whatever is no plain character in it is left out.
    """
    stem = safe_stem(image_name)
    names = [f"{stem}_{index}.png" for index in range(len(prediction.instances))]
    lines = tuple(
        cityscapes.PredictionLine(name, instance.label, instance.score)
        for name, instance in zip(names, prediction.instances, strict=True)
    )
    content = "".join(f"{line.file} {line.label} {line.score}\n" for line in lines)
    file = cityscapes.PredictionFile(
        path=Path(f"{stem}{cityscapes.SUFFIX}"), content=content.encode(), lines=lines
    )
    named = [
        replace(instance, record={"file": name})
        for name, instance in zip(names, prediction.instances, strict=True)
    ]
    files = cityscapes.encode_prediction(file, replace(prediction, instances=tuple(named)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return buffer.getvalue()


def encode_instance_map(prediction: Prediction, values: Sequence[int]) -> bytes:
    """One PNG of 8 bits, or of 16 where values need it.

    Where masks overlap, the one with the higher score is seen; among equals, the earlier one.

    Args:
        prediction: refined.
        values: one per instance, 1 to 65535.
    """
    dtype = np.uint8 if max(values, default=0) < 256 else np.uint16
    pixels = np.zeros(prediction.size, dtype)
    instances = prediction.instances
    paint(pixels, [i.mask for i in instances], values, [i.score for i in instances])
    return encode_png(pixels)


def safe_stem(name: str) -> str:
    """The stem of a file's name, fit for every file system and for a line of a txt.

    It has letters and digits of every script. It does not begin with -, which commands would take
    for an option.
    """
    base = name.replace("\\", "/").rpartition("/")[2]
    stem = base.rpartition(".")[0] or base
    plain = "".join(character if _is_plain(character) else "_" for character in stem)
    plain = re.sub("__+", "_", unicodedata.normalize("NFC", plain)).strip("._-")
    return plain.encode()[:_MAX_STEM].decode("utf-8", "ignore").strip("._-") or "image"


def _is_plain(character: str) -> bool:
    """A letter, with the marks on it, or a digit of any script, or one of . _ -"""
    return unicodedata.category(character)[0] in "LMN" or character in "._-"


def _parse_range(text: str) -> tuple[str, float]:
    """A media range and its quality; 0 where that is no number in [0, 1]."""
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = float(parameter[2:])
            except ValueError:
                quality = 0.0
    return name, quality if 0 <= quality <= 1 else 0.0
