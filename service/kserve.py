"""KServe's protocol, version 2, for the patch network: its clients can ask without knowing bpr.

The model takes one tensor, `patches`, (N, S, S, C) uint8: R, G, B and the coarse mask as 0 or 1
(and further channels where the weights want them). It gives `logits`, (N, S, S) float32; values
above 0 are the object. Tensors are json or binary (the extension `binary_tensor_data`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import FastAPI, Request, Response

from bpr import __version__
from bpr.pipeline.formats.text import short
from bpr.pipeline.instance import Float32Array, UInt8Array
from bpr.service import openapi
from bpr.service.gate import Allowance, Gate, usual_allowance
from bpr.service.json_input import parse_json
from bpr.service.problems import Problem, bad_request, too_large, unusable, wrong_type
from bpr.service.schemas import ModelMetadata, ServerMetadata, Status, TensorMetadata
from bpr.service.settings import ServiceSettings
from bpr.service.threads import in_thread

if TYPE_CHECKING:
    from bpr.service.refinery import Refinery

PATCHES, LOGITS = "patches", "logits"
EXTENSIONS = ["binary_tensor_data"]

_HEADER_LENGTH = "inference-header-content-length"
_MAX_JSON_VALUES = 500_000  # of an answer: writing more would hold up the event loop
_MODEL = "/v2/models/{name}"
_VERSION = f"{_MODEL}/versions/{{version}}"


@dataclass(frozen=True, eq=False)
class InferRequest:
    """What a client asks."""

    patches: UInt8Array  # (N, S, S, C)
    request_id: str | None
    wants_binary: bool


def infer_allowance(settings: ServiceSettings, path: str) -> Allowance | None:
    """What a POST to a path may take; None for paths that are not those of an inference."""
    words = path.split("/")
    if path.startswith("/v2/models/") and words[-1] == "infer":
        return usual_allowance(settings, f"{_MODEL}/infer")
    return None


def read_request(
    body: bytes, header_length: str | None, shape: Sequence[int], limits: ServiceSettings
) -> InferRequest:
    """Read a request.

    Args:
        body: json, with the tensor's bytes behind it where it is binary.
        header_length: bytes of the json, as a header says; None: all.
        shape: S, S, C of the network's patches.
        limits: of the service.

    Raises:
        Problem: 400 no such request, 413 too many patches or values, 422 another tensor than the
            network takes.
    """
    length = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or int(header_length[:20]) > len(body):
            raise bad_request(
                "Inference-Header-Content-Length: expected the number of bytes of the json in the "
                f"body, at most {len(body)}, got another"
            )
        length = int(header_length)
    request = parse_json(body[:length], "body", limits)
    if not isinstance(request, Mapping):
        raise bad_request("body: expected a json object with inputs, got something else")
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], Mapping):
        raise bad_request(f"inputs: expected a list with the one tensor {PATCHES}, got another")
    patches = _read_tensor(inputs[0], body[length:], shape, limits)
    request_id = request.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise bad_request("id: expected text, got something else")
    return InferRequest(patches, request_id, _wants_binary(request))


def _read_tensor(
    tensor: Mapping[str, Any], raw: bytes, shape: Sequence[int], limits: ServiceSettings
) -> UInt8Array:
    wanted = f"[N, {', '.join(map(str, shape))}]"
    if tensor.get("name") != PATCHES or tensor.get("datatype") != "UINT8":
        raise unusable(
            f"inputs: expected the tensor {PATCHES} of UINT8, got "
            f"{short(tensor.get('name'))} of {short(tensor.get('datatype'))}"
        )
    given = tensor.get("shape")
    if (
        not isinstance(given, list)
        or len(given) != len(shape) + 1
        or any(type(side) is not int or side < 0 for side in given)
        or given[1:] != list(shape)
    ):
        raise unusable(f"{PATCHES}: expected the shape {wanted}, got {short(given)}")
    if given[0] > limits.max_patches:
        raise too_large(
            f"{PATCHES}: expected at most {limits.max_patches}, got {given[0]}", "patches"
        )
    size = given[0] * int(np.prod(shape))
    parameters = tensor.get("parameters") or {}
    if isinstance(parameters, Mapping) and "binary_data_size" in parameters:
        if parameters["binary_data_size"] != size or len(raw) != size:
            raise bad_request(
                f"{PATCHES}: expected {size} bytes behind the json and in binary_data_size, got "
                f"{len(raw)} and {short(parameters['binary_data_size'])}"
            )
        patches = np.frombuffer(raw, np.uint8).reshape(given)
    else:
        patches = _from_json(tensor.get("data"), size).reshape(given)
    if patches.size and patches[..., 3].max() > 1:
        raise unusable(f"{PATCHES}: expected the coarse mask (channel 3) as 0 or 1, got more")
    return patches


def _from_json(data: Any, size: int) -> UInt8Array:
    """Numbers of a list, which may be nested."""
    try:
        values = np.asarray(data)
    except ValueError:
        values = np.zeros(0)
    is_bytes = values.dtype.kind in "iu" and values.size == size
    if not is_bytes or (size and not (values.min() >= 0 and values.max() <= 255)):
        if size == 0 and isinstance(data, list):
            return np.zeros(0, np.uint8)
        raise unusable(f"{PATCHES}: expected data of {size} whole numbers in 0..255")
    return values.astype(np.uint8)


def _wants_binary(request: Mapping[str, Any]) -> bool:
    outputs = request.get("outputs")
    if outputs is None:
        return bool((request.get("parameters") or {}).get("binary_data_output", False))
    if (
        not isinstance(outputs, list)
        or len(outputs) != 1
        or not isinstance(outputs[0], Mapping)
        or outputs[0].get("name") != LOGITS
    ):
        raise unusable(f"outputs: expected the one tensor {LOGITS}, got another")
    parameters = outputs[0].get("parameters") or request.get("parameters") or {}
    return bool(parameters.get("binary_data", parameters.get("binary_data_output", False)))


def write_answer(
    logits: Float32Array, asked: InferRequest, name: str, version: str
) -> tuple[bytes, int | None]:
    """The body of an answer, and how many of its bytes are json where others follow.

    Raises:
        Problem: 413 too many values for json.
    """
    output: dict[str, Any] = {"name": LOGITS, "datatype": "FP32", "shape": list(logits.shape)}
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": [output]}
    if asked.request_id is not None:
        answer["id"] = asked.request_id
    if asked.wants_binary:
        raw = logits.astype("<f4").tobytes()
        output["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps(answer).encode()
        return head + raw, len(head)
    if logits.size > _MAX_JSON_VALUES:
        raise too_large(
            f"{LOGITS}: expected at most {_MAX_JSON_VALUES} values in json, got {logits.size}. "
            "Ask for fewer patches, or for binary data.",
            "json_values",
        )
    output["data"] = logits.ravel().tolist()
    return json.dumps(answer).encode(), None


def add_routes(app: FastAPI, settings: ServiceSettings, gate: Gate) -> None:
    """Add what KServe's clients ask."""

    def refinery_of(name: str, version: str | None) -> Refinery:
        """The Refinery, where the names are those of its model. Problem (404, 503) elsewhere."""
        found: Refinery | None = app.state.refinery
        if found is None:
            gate.check_ready()
            raise AssertionError("a service that is ready has a refinery")
        model = found.model
        if name != model.name or version not in (None, model.version):
            raise Problem(
                HTTPStatus.NOT_FOUND,
                f"expected the model {model.name}, version {model.version}, got another",
                "model",
            )
        return found

    @app.get("/v2", summary="What this server is, as KServe asks", tags=["kserve"])
    async def server() -> ServerMetadata:
        return ServerMetadata(name="bpr", version=__version__, extensions=EXTENSIONS)

    @app.get("/v2/health/live", summary="Whether the process lives", tags=["kserve"])
    async def live() -> Status:
        return Status(status=gate.status)

    @app.get(
        "/v2/health/ready",
        summary="Whether requests are taken",
        responses=openapi.NOT_READY,
        tags=["kserve"],
    )
    async def ready() -> Status:
        gate.check_ready()
        return Status(status="ok")

    @app.get(
        _MODEL, summary="The patch network's tensors", responses=openapi.MODEL, tags=["kserve"]
    )
    @app.get(
        _VERSION, summary="The patch network's tensors", responses=openapi.MODEL, tags=["kserve"]
    )
    async def metadata(name: str, version: str | None = None) -> ModelMetadata:
        refinery = refinery_of(name, version)
        side, _, channels = refinery.patch_shape
        return ModelMetadata(
            name=refinery.model.name,
            versions=[refinery.model.version],
            platform=f"bpr_{refinery.model.backend}",
            inputs=[
                TensorMetadata(name=PATCHES, datatype="UINT8", shape=[-1, side, side, channels])
            ],
            outputs=[TensorMetadata(name=LOGITS, datatype="FP32", shape=[-1, side, side])],
        )

    @app.get(
        f"{_MODEL}/ready",
        summary="Whether the patch network is ready",
        responses=openapi.MODEL,
        tags=["kserve"],
    )
    @app.get(
        f"{_VERSION}/ready",
        summary="Whether the patch network is ready",
        responses=openapi.MODEL,
        tags=["kserve"],
    )
    async def model_ready(name: str, version: str | None = None) -> Status:
        refinery_of(name, version)
        gate.check_ready()
        return Status(status="ok")

    @app.post(
        f"{_MODEL}/infer",
        summary="Run the patch network",
        description=openapi.INFER_DESCRIPTION,
        response_class=Response,
        responses=openapi.INFER_RESPONSES,
        openapi_extra=openapi.INFER_BODY,
        tags=["kserve"],
    )
    @app.post(
        f"{_VERSION}/infer",
        summary="Run the patch network",
        description=openapi.INFER_DESCRIPTION,
        response_class=Response,
        responses=openapi.INFER_RESPONSES,
        openapi_extra=openapi.INFER_BODY,
        tags=["kserve"],
    )
    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        refinery = refinery_of(name, version)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise wrong_type("body: expected no Content-Encoding, got one")
        body = await request.body()
        asked = await in_thread(
            read_request, body, request.headers.get(_HEADER_LENGTH), refinery.patch_shape, settings
        )
        logits = await refinery.infer(asked.patches, request.state.patience)
        model = refinery.model
        content, json_bytes = await in_thread(
            write_answer, logits, asked, model.name, model.version
        )
        request.state.log = {"patches": len(asked.patches)}
        if json_bytes is None:
            return Response(content, media_type="application/json")
        headers = {"Inference-Header-Content-Length": str(json_bytes)}
        return Response(content, media_type="application/octet-stream", headers=headers)
