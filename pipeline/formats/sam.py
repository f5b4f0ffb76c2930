"""Segment Anything: a json per image with a list of masks.

Two programs write them: `scripts/amg.py --convert-to-rle` of segment-anything a plain list named
after its image, and the data set SA-1B a list `annotations` beside `image`, which names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.formats import json_text, rle
from bpr.pipeline.formats.frame import Frame, frame_of
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.text import decode_text, encode_like, load_json
from bpr.pipeline.instance import Instance, Mask, Size

_MARK = "predicted_iou"  # that records of SAM have


@dataclass(frozen=True, eq=False, kw_only=True)
class SamFile:
    """A parsed json."""

    path: AnyPath
    original: bytes
    records: Sequence[Any]
    image_name: str | None  # as the json has it
    size: Size | None  # (height, width), where the json says so


def is_sam(content: Any) -> bool:
    """Whether a json holds masks of Segment Anything."""
    records = _records(content)
    return bool(records) and all(isinstance(one, dict) and _MARK in one for one in records)


def parse(path: AnyPath) -> SamFile:
    """Read a json.

    Raises:
        ValueError: not one of Segment Anything.
    """
    content = load_json(path)
    if not is_sam(content):
        raise ValueError(
            f"{path}: expected a list of masks of Segment Anything (with predicted_iou), "
            "got another json"
        )
    about = content.get("image") if isinstance(content, dict) else None
    about = about if isinstance(about, dict) else {}
    name, height, width = (about.get(key) for key in ("file_name", "height", "width"))
    return SamFile(
        path=path,
        original=path.read_bytes(),
        records=_records(content),
        image_name=name if isinstance(name, str) and name else None,
        size=(height, width) if type(height) is int and type(width) is int else None,
    )


def frame(file: SamFile) -> Frame:
    """The size of the masks, and the one that the json names."""
    return frame_of((one.get("segmentation") for one in file.records), file.size)


def read_instances(file: SamFile, size: Size) -> tuple[dict[int, Instance], Sequence[LeftObject]]:
    """Decode the masks.

    Args:
        file: parsed.
        size: (height, width) of the image.

    Returns:
        The instances by the position of their record, and the records that stay as they are.
    """
    instances, left = {}, []
    for index, record in enumerate(file.records):
        try:
            mask = rle.decode(record.get("segmentation"), size)
        except ValueError as error:
            left.append(LeftObject(f"mask {index}", str(error)))
            continue
        instances[index] = Instance(mask=mask, label=0, score=1.0)
    return instances, left


def encode(
    file: SamFile,
    changed: Mapping[int, Mask],
    tolerance: float,  # noqa: ARG001
) -> tuple[bytes, list[str]]:
    """The json with refined masks, every other byte as it was; nothing is lost.

    Args:
        file: parsed.
        changed: new masks by the position of their record; those of which nothing is left stay.
        tolerance: of polygons, which there are none of.
    """
    text = decode_text(file.original)
    root = json_text.root_of(text)
    if text[root] == "{":
        root = json_text.members(text, root)["annotations"][0]
    spans = list(json_text.items(text, root))
    changes = []
    for index, mask in sorted(changed.items()):
        if not mask.is_empty:
            new = _new_values(file.records[index], mask)
            changes += json_text.changed_members(text, spans[index][0], new)
    if not changes:
        return file.original, []
    return encode_like("".join(json_text.splice(text, changes)), file.original), []


def _records(content: Any) -> Sequence[Any]:
    found = content.get("annotations") if isinstance(content, dict) else content
    if isinstance(content, dict) and not isinstance(content.get("image"), dict):
        return ()
    return found if isinstance(found, list) else ()


def _new_values(record: Mapping[str, Any], mask: Mask) -> dict[str, Any]:
    code: dict[str, Any] = rle.encode(mask)
    if isinstance(record["segmentation"].get("counts"), list):
        code["counts"] = rle.runs(mask)
    x0, y0, x1, y1 = mask.window
    follow = {"segmentation": code, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": mask.area}
    return {name: value for name, value in follow.items() if name in record}
