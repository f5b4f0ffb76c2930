"""Formats that are known but not read: a message says what a file is, and how to convert it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bpr.pipeline.formats.text import load_json, read_text

_CONVERT = "convert it to COCO, for example with `datum convert -f coco` of Datumaro"


def name_of_format(path: Path) -> str:
    """What a file is, in words, where it is of a known format that is not read; else nothing."""
    if path.suffix.lower() == ".csv":
        try:
            first = read_text(path)[1].split("\n", 1)[0].lower()
        except ValueError:
            return ""
        if "encodedpixels" in first:
            return "this is a run-length csv of Kaggle: write its masks as PNGs first"
        return ""
    try:
        content = load_json(path)
    except ValueError:
        return ""
    name = _name_of_json(content)
    return f"this is {name}: {_CONVERT}" if name else ""


def _name_of_json(content: Any) -> str:
    if isinstance(content, list):
        content = content[0] if content and isinstance(content[0], dict) else {}
    if not isinstance(content, dict):
        return ""
    if "_via_img_metadata" in content or _is_via(content):
        return "a VGG Image Annotator project"
    if isinstance(content.get("objects"), list) and isinstance(content.get("size"), dict):
        return "a Supervisely annotation"
    if "item" in content and isinstance(content.get("annotations"), list):
        return "a Darwin annotation of V7"
    if isinstance(content.get("dataset"), dict) and "samples" in content.get("dataset", {}):
        return "a release of Segments.ai"
    if "data_row" in content and "projects" in content:
        return "an export of Labelbox"
    if "data" in content and isinstance(content.get("annotations"), list):
        return "an export of Label Studio"
    return ""


def _is_via(content: Mapping[str, Any]) -> bool:
    values = list(content.values())
    return bool(values) and all(
        isinstance(value, dict) and "filename" in value and "regions" in value for value in values
    )
