"""Formats that are known but not read: a message says what a file is, and how to convert it."""

from __future__ import annotations

from typing import Any

from bpr._paths import AnyPath
from bpr.pipeline.formats.text import load_json, read_text

_DATUMARO = (
    "name its folder with --format datumaro (pip install datumaro), or convert it to COCO with "
    "`datum convert -f coco`"
)
_EXPORT = "export it from there as COCO"
_FOLDER = "name the folder of these jsons"


def name_of_format(path: AnyPath) -> str:
    """What a file is, and what to do, where it is not read as it is; else nothing.

    Returns:
        "; this is ...: ...", to stand behind a message.
    """
    suffix = path.suffix.lower()
    name, advice = "", _DATUMARO
    if suffix in (".xml", ".csv", ".tsv"):
        name = _name_of_text(path)
    elif suffix in (".ndjson", ".jsonl"):
        name, advice = "a list of jsons, as Labelbox and Ultralytics export them", _EXPORT
    elif suffix == ".json":
        try:
            name, advice = _name_of_json(load_json(path))
        except ValueError:
            return ""
    return f"; this is {name}: {advice}" if name else ""


def _name_of_text(path: AnyPath) -> str:
    try:
        head = read_text(path)[1][:4000]
    except ValueError:
        return ""
    if "<annotation" in head and "<object" in head:
        return "a Pascal VOC annotation"
    if "<annotations" in head and ("<image " in head or "<version>" in head):
        return "an xml of CVAT"
    first = head.split("\n", 1)[0]
    if "ImageID" in first and ("LabelName" in first or "MaskPath" in first):
        return "a csv of Open Images"
    return ""


def _name_of_json(content: Any) -> tuple[str, str]:
    if isinstance(content, list):
        content = content[0] if content and isinstance(content[0], dict) else {}
    if not isinstance(content, dict):
        return "", ""
    objects = content.get("objects")
    if isinstance(objects, list) and isinstance(content.get("size"), dict):
        return "a Supervisely annotation", _FOLDER
    if isinstance(content.get("item"), dict) and isinstance(content.get("annotations"), list):
        return "a Darwin annotation of V7", _FOLDER
    if isinstance(content.get("shapes"), list):
        return "a LabelMe json", _FOLDER
    if isinstance(objects, list) and "imgHeight" in content:
        return "polygons of Cityscapes", "name the folder of the label maps or instance maps"
    if isinstance(objects, list) and "height" in content and "width" in content:
        return "polygons of Mapillary Vistas", _DATUMARO
    if "labels" in content and "name" in content and "attributes" in content:
        return "labels of BDD100K", _DATUMARO
    if isinstance(content.get("items"), list) and "categories" in content:
        return "a data set of Datumaro", _DATUMARO
    if ("data_row" in content and "projects" in content) or "Labeled Data" in content:
        return "an export of Labelbox", _EXPORT
    if "data" in content and isinstance(content.get("annotations"), list):
        return "an export of Label Studio", _EXPORT + ", or connect bpr serve to it"
    return "", ""
