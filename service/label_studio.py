"""The service as an ML backend of Label Studio: brush masks come back refined.

Label Studio asks GET /health, POST /setup, /predict and /webhook below the address it is given.
Source: api.py of label-studio-ml and ml/api_connector.py of label-studio.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from typing import Any
from xml.sax import SAXException
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl

from defusedxml import DefusedXmlException, sax
from fastapi import FastAPI, Request

from bpr.pipeline.formats import brush
from bpr.pipeline.formats.images import NamedFile
from bpr.pipeline.formats.text import short
from bpr.pipeline.instance import Mask, Size
from bpr.pipeline.metrics import mask_iou
from bpr.service.inputs import (
    MaskBudget,
    Patience,
    RequestInputs,
    check_count,
    read_with_masks,
)
from bpr.service.json_input import parse_json
from bpr.service.label_studio_images import fetch_image, tls_context
from bpr.service.problems import Problem, bad_request, too_large, unusable
from bpr.service.refinery import Refinery
from bpr.service.settings import ServiceSettings
from bpr.service.threads import in_thread

logger = logging.getLogger(__name__)

PREFIX = "/label-studio"
PREDICT = f"{PREFIX}/predict"

_MAX_DEPTH = 100  # of tags in each other
_MAX_CONFIG = 262_144  # characters of a label_config; Label Studio's largest templates have 20,000

Json = dict[str, Any]


def add_routes(app: FastAPI, settings: ServiceSettings) -> None:
    """Add what Label Studio asks. The app's OpenAPI document leaves it out: it is not for people.

    Args:
        app: with `state.refinery` once it runs.
        settings: where Label Studio is.
    """
    tls_context()  # now, not while a request waits

    @app.get(f"{PREFIX}/health", include_in_schema=False)
    async def health() -> Json:
        return {"status": "UP", "model_class": "bpr"}

    @app.post(f"{PREFIX}/setup", include_in_schema=False)
    async def setup() -> Json:
        # the address and token in it could be anybody's: the settings have ours
        # Label Studio asks this once, so it is answered while the model is still loading too
        refinery = app.state.refinery
        return {
            "model_version": settings.chosen_weights if refinery is None else refinery.model.name
        }

    @app.post(f"{PREFIX}/webhook", include_in_schema=False)
    async def webhook() -> Json:
        return {}  # nothing is trained here

    @app.post(PREDICT, include_in_schema=False)
    async def predict(request: Request) -> Json:
        asked = await in_thread(_parse, await request.body(), settings)
        refinery, patience = app.state.refinery, request.state.patience
        results, problems = [], []
        for task in asked["tasks"]:
            try:
                result = await _predict_task(task, asked, refinery, settings, patience)
            except Problem as problem:
                if len(asked["tasks"]) == 1:
                    raise
                problems.append(problem)
                logger.warning("task %s: %s", short(task.get("id")), problem.detail)
                result = {"result": [], "score": 0.0}
            results.append({**result, "model_version": refinery.model.name})
        if problems and len(problems) == len(results):
            raise problems[0]
        return {"results": results, "model_version": refinery.model.name}


async def _predict_task(
    task: Json, asked: Json, refinery: Refinery, settings: ServiceSettings, patience: Patience
) -> Json:
    """Refine the brush regions of one task; score is how much of the masks has stayed (IoU)."""
    context = (asked.get("params") or {}).get("context") or {}
    regions = [r for r in _regions(task, context) if _is_brush(r)]
    if not regions:
        return {"result": [], "score": 0.0}
    key = await in_thread(_image_key, asked.get("label_config"), regions[0])
    address = task["data"].get(key)
    if not isinstance(address, str):
        raise unusable("task: expected the address of an image in its data, got none")
    image = await fetch_image(address, task.get("id"), settings, patience.remaining_s)

    def read() -> RequestInputs:
        masks = _decode(regions, settings, patience)
        return read_with_masks(NamedFile(image, "image"), masks, settings, patience)

    refined = await refinery.refine(read, patience)
    result, overlaps = [], []
    before, after = refined.inputs.prediction.instances, refined.after.instances
    for region, coarse, instance in zip(regions, before, after, strict=True):
        value = {**region["value"], "rle": await in_thread(brush.encode, instance.mask)}
        # a region that was just drawn is there already: what comes back is another one
        identity = uuid.uuid4().hex[:10] if context else region.get("id")
        result.append({**region, "id": identity, "value": value})
        overlaps.append(mask_iou(coarse.mask, instance.mask))
    return {"result": result, "score": sum(overlaps) / len(overlaps)}


def _parse(body: bytes, settings: ServiceSettings) -> Json:
    asked = parse_json(body, "body", settings)
    tasks = asked.get("tasks") if isinstance(asked, dict) else None
    if not isinstance(tasks, list) or not all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks
    ):
        raise bad_request("body: expected an object with a list of tasks that have data")
    params = asked.get("params")
    if not isinstance(params, (dict, type(None))):
        raise bad_request(f"params: expected an object, got {short(params)}")
    return dict(asked)


def _regions(task: Json, context: Any) -> Sequence[Any]:
    """What there is to refine: what was just drawn, else the newest annotation or prediction."""
    if isinstance(context, dict) and isinstance(context.get("result"), list):
        return list(context["result"])
    for name in ("annotations", "predictions"):
        found = task.get(name)
        for item in reversed(found if isinstance(found, list) else []):
            result = item.get("result") if isinstance(item, dict) else None
            if isinstance(result, list) and any(map(_is_brush, result)):
                return result
    return []


def _is_brush(region: Any) -> bool:
    value = region.get("value") if isinstance(region, dict) else None
    return isinstance(value, dict) and value.get("format") == "rle" and "rle" in value


def _decode(
    regions: Sequence[Json], settings: ServiceSettings, patience: Patience
) -> Sequence[Mask]:
    """The masks of regions, within the limits of `POST /refine`."""
    check_count(len(regions), settings)
    sizes = [_size(region, settings) for region in regions]
    budget = MaskBudget(settings)
    for height, width in sizes:
        budget.add(height * width)
    masks = []
    for region, size in zip(regions, sizes, strict=True):
        patience.check()
        try:
            masks.append(brush.decode(region["value"]["rle"], size))
        except ValueError as error:
            raise unusable(f"region {short(region.get('id'))}: {error}") from None
    return masks


def _size(region: Json, settings: ServiceSettings) -> Size:
    height, width = region.get("original_height"), region.get("original_width")
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise unusable("region: expected original_height and original_width, got none")
    if height * width > settings.max_image_pixels:
        raise too_large(
            f"region: expected an image of at most {settings.max_image_pixels} pixels, got "
            f"{short(width)} x {short(height)}",
            "image_pixels",
        )
    if region.get("image_rotation"):
        raise unusable("region: expected an image that is not rotated in Label Studio, got one")
    return height, width


def _image_key(label_config: Any, region: Json) -> str:
    """The field of a task's data that the image of a region stands in."""
    if not isinstance(label_config, str) or not label_config.strip():
        return "image"
    if len(label_config) > _MAX_CONFIG:
        raise too_large(
            f"label_config: expected at most {_MAX_CONFIG} characters, got more", "json_bytes"
        )
    images = _Images()
    try:
        sax.parseString(label_config.encode(), images, forbid_dtd=True)
    except (SAXException, DefusedXmlException, ValueError):
        raise unusable("label_config: expected the XML of Label Studio, got other text") from None
    to_name = region.get("to_name")
    named = [value for name, value in images.found if isinstance(to_name, str) and name == to_name]
    found = (named or [value for _, value in images.found])[:1]
    return found[0].lstrip("$") if found else "image"


class _Images(ContentHandler):
    """Finds the Image tags. It makes no tree: one of 40,000 levels takes a second to free."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str | None, str]] = []  # name and value
        self._depth = 0

    def startElement(self, name: str, attrs: AttributesImpl) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise SAXException(f"more than {_MAX_DEPTH} levels")
        if name == "Image" and attrs.get("value"):
            self.found.append((attrs.get("name"), attrs["value"]))

    def endElement(self, name: str) -> None:  # noqa: ARG002
        self._depth -= 1
