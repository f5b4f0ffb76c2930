"""The service as an ML backend of Label Studio: brush masks come back refined.

Label Studio asks GET /health, POST /setup, /predict and /webhook below the address it is given.
Source: api.py of label-studio-ml and ml/api_connector.py of label-studio.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request

from bpr.pipeline.formats import brush
from bpr.pipeline.formats.images import NamedFile
from bpr.pipeline.formats.text import short
from bpr.pipeline.instance import Mask, Size
from bpr.pipeline.metrics import mask_iou
from bpr.service.inputs import Patience, RequestInputs, read_with_masks
from bpr.service.label_studio_images import fetch_image
from bpr.service.problems import Problem, bad_request, too_large, unusable
from bpr.service.refinery import Refinery
from bpr.service.settings import ServiceSettings

logger = logging.getLogger(__name__)

PREFIX = "/label-studio"
PREDICT = f"{PREFIX}/predict"

Json = dict[str, Any]


def add_routes(app: FastAPI, settings: ServiceSettings, model_version: str) -> None:
    """Add what Label Studio asks. The app's OpenAPI document leaves it out: it is not for people.

    Args:
        app: with `state.refinery` once it runs.
        settings: where Label Studio is.
        model_version: what predictions are signed with.
    """

    @app.get(f"{PREFIX}/health", include_in_schema=False)
    async def health() -> Json:
        return {"status": "UP", "model_class": "bpr"}

    @app.post(f"{PREFIX}/setup", include_in_schema=False)
    async def setup() -> Json:
        # the address and token in it could be anybody's: the settings have ours
        return {"model_version": model_version}

    @app.post(f"{PREFIX}/webhook", include_in_schema=False)
    async def webhook() -> Json:
        return {}  # nothing is trained here

    @app.post(PREDICT, include_in_schema=False)
    async def predict(request: Request) -> Json:
        asked = _parse(await request.body())
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
            results.append({**result, "model_version": model_version})
        if problems and len(problems) == len(results):
            raise problems[0]
        return {"results": results, "model_version": model_version}


async def _predict_task(
    task: Json, asked: Json, refinery: Refinery, settings: ServiceSettings, patience: Patience
) -> Json:
    """Refine the brush regions of one task; score is how much of the masks has stayed (IoU)."""
    context = (asked.get("params") or {}).get("context") or {}
    regions = [r for r in _regions(task, context) if _is_brush(r)]
    if not regions:
        return {"result": [], "score": 0.0}
    address = task["data"].get(_image_key(asked.get("label_config"), regions[0]))
    if not isinstance(address, str):
        raise unusable("task: expected the address of an image in its data, got none")
    image = await asyncio.to_thread(
        fetch_image, address, task.get("id"), settings, patience.remaining_s
    )

    def read() -> RequestInputs:
        masks = [_decode(region, settings) for region in regions]
        return read_with_masks(NamedFile(image, "image"), masks, settings, patience)

    refined = await refinery.refine(read, patience)
    result, overlaps = [], []
    before, after = refined.inputs.prediction.instances, refined.after.instances
    for region, coarse, instance in zip(regions, before, after, strict=True):
        value = {**region["value"], "rle": await asyncio.to_thread(brush.encode, instance.mask)}
        # a region that was just drawn is there already: what comes back is another one
        identity = uuid.uuid4().hex[:10] if context else region.get("id")
        result.append({**region, "id": identity, "value": value})
        overlaps.append(mask_iou(coarse.mask, instance.mask))
    return {"result": result, "score": sum(overlaps) / len(overlaps)}


def _parse(body: bytes) -> Json:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"body: expected json, got: {error}") from None
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


def _decode(region: Mapping[str, Any], settings: ServiceSettings) -> Mask:
    height, width = region.get("original_height"), region.get("original_width")
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise unusable("region: expected original_height and original_width, got none")
    if height * width > settings.max_image_pixels:
        raise too_large(
            f"region: expected an image of at most {settings.max_image_pixels} pixels, got "
            f"{width} x {height}",
            "image_pixels",
        )
    if region.get("image_rotation"):
        raise unusable("region: expected an image that is not rotated in Label Studio, got one")
    size: Size = (height, width)
    try:
        return brush.decode(region["value"]["rle"], size)
    except ValueError as error:
        raise unusable(f"region {short(region.get('id'))}: {error}") from None


def _image_key(label_config: Any, region: Mapping[str, Any]) -> str:
    """The field of a task's data that the image of a region stands in."""
    keys = {}
    for tag in re.findall(r"<Image\b[^>]*>", label_config if isinstance(label_config, str) else ""):
        fields = dict(re.findall(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']", tag))
        keys[fields.get("name")] = fields.get("value", "").lstrip("$")
    return keys.get(region.get("to_name")) or next(iter(keys.values()), "image")
