"""What people look at: the page, its example, and /docs, all from this machine."""

from __future__ import annotations

import asyncio
import functools
import json
from dataclasses import dataclass
from importlib import resources

import fastapi_offline
from fastapi import FastAPI, Response

from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.formats import rle
from bpr.pipeline.formats.images import encode_png

EXAMPLE_SCENE = "coffee"

_PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/downloads.js": ("downloads.js", "text/javascript; charset=utf-8"),
    "/files.js": ("files.js", "text/javascript; charset=utf-8"),
    "/masks.js": ("masks.js", "text/javascript; charset=utf-8"),
    "/pack.js": ("pack.js", "text/javascript; charset=utf-8"),
    "/viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/docs/start.js": ("docs.js", "text/javascript; charset=utf-8"),
}
# the assets of Swagger UI, which FastAPI would load from somewhere else
_SWAGGER_FILES = {
    "/docs/swagger-ui.css": ("swagger-ui.css", "text/css; charset=utf-8"),
    "/docs/swagger-ui-bundle.js": ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
}


def add_routes(app: FastAPI) -> None:
    """Serve the page at /, and Swagger UI at /docs."""
    page = resources.files("bpr.service") / "page"
    swagger = resources.files(fastapi_offline) / "static"
    for folder, files in ((page, _PAGE_FILES), (swagger, _SWAGGER_FILES)):
        for path, (name, media_type) in files.items():
            _add_file(app, path, (folder / name).read_bytes(), media_type)

    @app.get("/example/image.png", include_in_schema=False)
    async def example_image() -> Response:
        example = await asyncio.to_thread(_load_example)
        return Response(example.image, media_type="image/png", headers=_KEEP)

    @app.get("/example/instances.json", include_in_schema=False)
    async def example_instances() -> Response:
        example = await asyncio.to_thread(_load_example)
        return Response(example.instances, media_type="application/json", headers=_KEEP)


_KEEP = {"Cache-Control": "max-age=3600"}
_CHECK_EACH_TIME = {"Cache-Control": "no-cache"}


def _add_file(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    @app.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=media_type, headers=_CHECK_EACH_TIME)


@dataclass(frozen=True)
class _Example:
    image: bytes  # PNG
    instances: bytes  # COCO json


@functools.cache
def _load_example() -> _Example:
    (scene,) = (scene for scene in load_demo_scenes() if scene.name == EXAMPLE_SCENE)
    instances = [
        {"name": name, "category_id": index + 1, "score": 1.0, "segmentation": rle.encode(mask)}
        for index, (name, mask) in enumerate(zip(scene.names, scene.coarse, strict=True))
    ]
    return _Example(encode_png(scene.image), json.dumps(instances).encode())
