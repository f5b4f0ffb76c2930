"""The examples of the page: photographs with coarse masks, and what this service makes of them."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from dataclasses import dataclass

from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException

from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.formats import rle
from bpr.pipeline.formats.images import encode_png
from bpr.pipeline.instance import Instance, Prediction, UInt8Array
from bpr.service.answers import JSON
from bpr.service.gate import Gate
from bpr.service.inputs import Patience, RequestInputs, count_up
from bpr.service.refinery import Refinery, Wish
from bpr.service.settings import ServiceSettings

_LOADING = threading.Lock()
_KEEP = {"Cache-Control": "max-age=3600"}


@dataclass(frozen=True, eq=False)
class Sample:
    """One example."""

    pixels: UInt8Array  # (H, W, 3) RGB
    prediction: Prediction  # coarse masks; records are COCO instances with a name

    @property
    def image_file(self) -> bytes:
        """The photograph as PNG."""
        return encode_png(self.pixels)

    @property
    def instances_file(self) -> bytes:
        """The masks as COCO json."""
        return json.dumps([dict(i.record) for i in self.prediction.instances]).encode()

    @property
    def inputs(self) -> RequestInputs:
        """As if it had been uploaded."""
        return RequestInputs(
            image=self.pixels,
            prediction=self.prediction,
            notes=(),
            values=count_up(self.prediction),
        )


def add_routes(app: FastAPI, settings: ServiceSettings) -> None:
    """Serve the examples below /samples.

    Args:
        app: with `state.refinery` once it runs.
        settings: with `request_timeout_s`.
    """
    answers: dict[str, bytes] = {}  # each is made once: visitors cost nothing
    making = asyncio.Lock()

    @app.get("/samples/{name}/image.png", include_in_schema=False)
    async def image(name: str) -> Response:
        content = await asyncio.to_thread(lambda: _find(name).image_file)
        return Response(content, media_type="image/png", headers=_KEEP)

    @app.get("/samples/{name}/instances.json", include_in_schema=False)
    async def instances(name: str) -> Response:
        content = await asyncio.to_thread(lambda: _find(name).instances_file)
        return Response(content, media_type=JSON, headers=_KEEP)

    @app.get("/samples/{name}/refined.json", include_in_schema=False)
    async def refined(name: str) -> Response:
        sample = await asyncio.to_thread(_find, name)
        gate: Gate = app.state.gate
        gate.check_ready()
        async with making:
            if name not in answers:
                answers[name] = await _refine(sample, app.state.refinery, settings)
        return Response(answers[name], media_type=JSON)


async def _refine(sample: Sample, refinery: Refinery, settings: ServiceSettings) -> bytes:
    patience = Patience(settings.request_timeout_s)
    refined = await refinery.refine(lambda: sample.inputs, patience)
    encoded = await refinery.encode(refined, Wish(JSON, details=True), "", patience)
    return encoded.content


def _find(name: str) -> Sample:
    """HTTPException (404) where there is no such example."""
    with _LOADING:  # once, not once for each of the page's first requests
        sample = _load_samples().get(name)
    if sample is None:
        raise HTTPException(404)
    return sample


@functools.cache
def _load_samples() -> dict[str, Sample]:
    samples = {}
    for scene in load_demo_scenes():
        instances = []
        for index, (name, mask) in enumerate(zip(scene.names, scene.coarse, strict=True)):
            record = {
                "name": name,
                "category_id": index + 1,
                "score": 1.0,
                "segmentation": rle.encode(mask),
            }
            instances.append(Instance(mask=mask, label=index + 1, score=1.0, record=record))
        height, width = scene.image.shape[:2]
        samples[scene.name] = Sample(scene.image, Prediction((height, width), tuple(instances)))
    return samples
