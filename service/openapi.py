"""What the OpenAPI document says beyond what the types say."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from bpr.service.problems import MEDIA_TYPE
from bpr.service.schemas import CocoInstance, ProblemDetails

DESCRIPTION = """\
Masks of any detector go in; the same instances come out, in the same order, with boundaries that
follow the object. The masks are those that `bpr refine` writes.

Errors are `application/problem+json` (RFC 9457) and say in words what to do.
"""

REFINE_DESCRIPTION = """\
Send `image` and exactly one of `masks`, `instance_map` and `instances`.

    curl -F image=@photo.jpg -F masks=@cup.png -F masks=@spoon.png SERVICE/refine
    curl -F image=@photo.jpg -F instance_map=@map.png -H 'Accept: image/png' SERVICE/refine
    curl -F image=@photo.jpg -F instances=@results.json SERVICE/refine

`Accept` chooses the answer: `application/json` (default), `application/zip` (a Cityscapes
prediction: `<image>_pred.txt` and a PNG per instance) or `image/png` (an instance map; where masks
overlap, the one with the higher score is seen).

    curl -F image=@photo.jpg -F masks=@cup.png 'SERVICE/refine?cutout=true' -o cup.png

`?alpha=true` adds probabilities (`alpha`) to a json answer. `?cutout=true` answers with a PNG of
the objects on a transparent background. In an instance map of 8 bits, 255 is void; of Cityscapes
ids, labels without instances are stuff: both stay in the answer, as `bpr evaluate` reads them.
"""

SEGMENT_DESCRIPTION = """\
Send `image` alone: a detector finds the instances, and their masks come back refined, the surest
first. The answer is that of `/refine`; instances have the detector's `category_id`, `category` and
`score`.

    curl -F image=@photo.jpg SERVICE/segment

`?details=true` adds the detector's own masks (`coarse`).
"""

_FILE = {"type": "string", "format": "binary"}

_IMAGE_TYPES = "image/png, image/jpeg, image/webp"


def _form(parts: dict[str, Any], types: dict[str, str], **rules: Any) -> dict[str, Any]:
    """A multipart body of an image and other parts, whose media types are given."""
    schema = {
        "type": "object",
        "required": ["image"],
        "properties": {"image": {**_FILE, "description": "PNG, JPEG or WebP"}, **parts},
        "additionalProperties": False,
        **rules,
    }
    encoding = {name: {"contentType": of} for name, of in {"image": _IMAGE_TYPES, **types}.items()}
    content = {"multipart/form-data": {"schema": schema, "encoding": encoding}}
    return {"requestBody": {"required": True, "content": content}}


REFINE_BODY = _form(
    {
        "masks": {
            "type": "array",
            "items": _FILE,
            "minItems": 1,
            "description": "binary PNGs of the image's size, one per instance: every pixel that "
            "is not zero is the object",
        },
        "instance_map": {
            **_FILE,
            "description": "one 8-bit or 16-bit PNG: each value but 0 is an instance; 255 of 8 "
            "bits is void",
        },
        "instances": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/CocoInstance"},
            "description": "a json file: COCO instances of this image",
        },
    },
    {"masks": "image/png", "instance_map": "image/png", "instances": "application/json"},
    oneOf=[{"required": ["masks"]}, {"required": ["instance_map"]}, {"required": ["instances"]}],
)
SEGMENT_BODY = _form({}, {})


_WITH_KEY = ("/refine", "/segment", "/jobs")
_INFER = "/infer"


def _problem(description: str, **headers: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
    }
    if headers:
        described["headers"] = {
            name.replace("_", "-"): {"description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        }
    return described


_RETRY = "seconds to wait before another try"
NOT_READY: dict[int | str, dict[str, Any]] = {
    503: _problem("The model is loading, or the service is shutting down", Retry_After=_RETRY)
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: _problem("There is no such model")}
NOT_RUNNING: dict[int | str, dict[str, Any]] = {404: _problem("There is no such request now")}
MODEL: dict[int | str, dict[str, Any]] = {**NOT_READY, **NOT_FOUND}
REFINE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The refined masks",
        "headers": {
            "Server-Timing": {
                "description": "milliseconds spent in each stage",
                "schema": {"type": "string"},
            }
        },
        "content": {
            "application/zip": {"schema": _FILE},
            "image/png": {"schema": _FILE},
        },
    },
    400: _problem("The request cannot be read: parts missing, unknown or repeated, no json"),
    401: _problem("No API key, or a wrong one, where the service wants one"),
    406: _problem("Accept takes none of the types that there are"),
    408: _problem("The body came too slowly"),
    413: _problem("More bytes, pixels, instances or patches than the service takes"),
    415: _problem("A part, or the body, is of another type than expected"),
    422: _problem("Files that cannot be used: damaged, of another size, an RLE that lies"),
    429: _problem("All places are taken", Retry_After=_RETRY),
    503: _problem("Loading, shutting down, or the request took too long", Retry_After=_RETRY),
}


INFER_DESCRIPTION = """\
KServe's protocol, version 2. The input `patches` is (N, S, S, C) UINT8: R, G, B and the coarse mask
as 0 or 1. The output `logits` is (N, S, S) FP32: values above 0 are the object. `GET
/v2/models/{name}` gives S and C. Binary tensors are taken and given, as the header
`Inference-Header-Content-Length` says.
"""
INFER_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1,
                            "items": {"type": "object"},
                        },
                        "outputs": {"type": "array", "items": {"type": "object"}},
                        "parameters": {"type": "object"},
                    },
                }
            },
            "application/octet-stream": {"schema": _FILE},
        },
    }
}
INFER_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The logits",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "application/octet-stream": {"schema": _FILE},
        },
    },
    **{status: REFINE_RESPONSES[status] for status in (400, 401, 408, 413, 415, 422, 429, 503)},
    404: _problem("There is no such model"),
}

JOBS_DESCRIPTION = """\
Send `predictions` (a zip of what `bpr refine` reads, or a COCO json) and `images` (zips or image
files); or `image` with `masks`, `instance_map` or `instances` as to `/refine`. The answer has the
`id` of the job; `GET /jobs/{id}` says how far it is, and `GET /jobs/{id}/result` gives a zip of the
files that `bpr refine` writes.

    curl -F predictions=@results.json -F images=@images.zip SERVICE/jobs

A json body names files in a store that the operator allows: `predictions`, `images`,
`images_json` and, for the results, `out`.
"""
JOBS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "predictions": {**_FILE, "description": "a zip archive or a COCO json"},
                        "images": {
                            "type": "array",
                            "items": _FILE,
                            "description": "zip archives or image files",
                        },
                        "images_json": {
                            **_FILE,
                            "description": "a COCO json with the file name of each image id",
                        },
                        "image": {**_FILE, "description": "one image, instead of predictions"},
                        "masks": {"type": "array", "items": _FILE},
                        "instance_map": _FILE,
                        "instances": _FILE,
                    },
                    "additionalProperties": False,
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["predictions"],
                    "properties": {
                        name: {"type": "string"}
                        for name in ("predictions", "images", "images_json", "out")
                    },
                    "additionalProperties": False,
                }
            },
        },
    }
}
JOBS_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: _problem("The request cannot be read: parts missing, unknown or repeated"),
    401: _problem("No API key, or a wrong one, where the service wants one"),
    408: _problem("The body came too slowly"),
    413: _problem("More bytes or files than the service takes"),
    415: _problem("A part, or the body, is of another type than expected"),
    429: _problem("You have as many unfinished jobs as you may", Retry_After=_RETRY),
    503: _problem("Loading, shutting down, or the disk is full", Retry_After=_RETRY),
}
JOB_RESPONSES: dict[int | str, dict[str, Any]] = {
    401: _problem("No API key, or a wrong one, where the service wants one"),
    404: _problem("There is no such job, or it is another's"),
}
RESULT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The files", "content": {"application/zip": {"schema": _FILE}}},
    **JOB_RESPONSES,
    409: _problem("The job is not done, or its files are in an object store"),
}


def complete(app: FastAPI, has_keys: bool) -> None:
    """Add the schemas that only `REFINE_BODY` and problems refer to, and the API key."""
    generate = app.openapi

    def completed() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            components = document.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            for model in (CocoInstance, ProblemDetails):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(schema.pop("$defs", {}))
                schemas[model.__name__] = schema
            _forget_validation_errors(document)
            if has_keys:
                components["securitySchemes"] = {
                    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                    "bearer": {"type": "http", "scheme": "bearer"},
                }
                for path, operations in document["paths"].items():
                    if path.startswith(_WITH_KEY) or path.endswith(_INFER):
                        for operation in operations.values():
                            operation["security"] = [{"key": []}, {"bearer": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = completed  # type: ignore[method-assign]


def _forget_validation_errors(document: dict[str, Any]) -> None:
    """Take out the answers that FastAPI would give to wrong parameters: ours are problems."""
    for path in document["paths"].values():
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
