"""What people look at: the page and /docs, all from this machine."""

from __future__ import annotations

from importlib import resources

import fastapi_offline
from fastapi import FastAPI, Response

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


_CHECK_EACH_TIME = {"Cache-Control": "no-cache"}


def _add_file(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    @app.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=media_type, headers=_CHECK_EACH_TIME)
