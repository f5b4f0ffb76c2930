"""What goes over the wire, as types: the OpenAPI document is made from these."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_RLE_EXAMPLE: dict[str, Any] = {"size": [4, 6], "counts": "5220007"}


class Rle(BaseModel):
    """A mask as COCO's compressed run-length code, column by column."""

    size: tuple[int, int] = Field(description="height and width of the image in pixels")
    counts: str = Field(description="runs of 0 and 1 in turn, as pycocotools writes them")


class CocoInstance(BaseModel):
    """One instance in the part `instances`: a COCO result. Further fields are kept."""

    model_config = ConfigDict(extra="allow")

    segmentation: Rle | list[list[float]] = Field(
        description="RLE (counts as text or a list of ints), or polygons [x0, y0, x1, y1, ...]"
    )
    category_id: int = Field(0, description="kept as it is")
    score: float = Field(1.0, description="kept as it is; decides which mask lies on top in a PNG")


class Alpha(BaseModel):
    """How sure the network is of each pixel around an object; outside of the box it is 0."""

    box: tuple[int, int, int, int] = Field(description="x0, y0, x1, y1, end exclusive")
    png: str = Field(
        description="an 8-bit PNG of the box in base64: 255 times the probability, 0 or 255 where "
        "nothing was redrawn; above 127 is the refined mask"
    )


class RefinedInstance(BaseModel):
    """An instance with its refined mask. Fields that came with it are here as they came."""

    model_config = ConfigDict(extra="allow")

    segmentation: Rle
    bbox: tuple[int, int, int, int] = Field(description="x, y, width, height in pixels")
    area: int = Field(description="pixels of the refined mask")
    changed_pixels: int = Field(description="pixels in which it differs from the coarse mask")
    patches: int = Field(description="boundary patches that were redrawn")
    patch_boxes: list[tuple[int, int, int, int]] | None = Field(
        None, description="x0, y0, x1, y1, end exclusive; only with ?details=true"
    )
    coarse: Rle | None = Field(None, description="the mask as it came in; only with ?details=true")
    alpha: Alpha | None = Field(None, description="probabilities; only with ?alpha=true")


class Timings(BaseModel):
    """Seconds spent in each stage."""

    decode: float = Field(description="reading the image and the masks")
    detect: float | None = Field(None, description="finding instances, where no masks came")
    plan: float = Field(description="choosing patches")
    queue: float = Field(description="waiting for the network")
    network: float = Field(description="from its first batch to its last, other requests between")
    merge: float = Field(description="putting patches back")
    encode: float = Field(description="writing masks as the answer has them")


class Detector(BaseModel):
    """What finds instances."""

    name: str
    weights_sha256: str


class Model(BaseModel):
    """What refined the masks."""

    name: str
    version: str = Field(description="the first 12 digits of weights_sha256")
    weights_sha256: str
    backend: str
    bpr: str = Field(description="version of this software")
    detector: Detector | None = Field(None, description="of a service that has one")


class ImageSize(BaseModel):
    """Of the image after its EXIF orientation is applied, in pixels."""

    height: int
    width: int


_ANSWER_EXAMPLE: dict[str, Any] = {
    "image": {"height": 4, "width": 6},
    "instances": [
        {
            "category_id": 26,
            "score": 0.9,
            "segmentation": _RLE_EXAMPLE,
            "bbox": [1, 1, 3, 2],
            "area": 6,
            "changed_pixels": 1,
            "patches": 2,
        }
    ],
    "patches": 2,
    "changed_pixels": 1,
    "notes": [],
    "timings": {
        "decode": 0.002,
        "plan": 0.001,
        "queue": 0.005,
        "network": 0.021,
        "merge": 0.001,
        "encode": 0.001,
    },
    "model": {
        "name": "hrnet18s",
        "version": "0" * 12,
        "weights_sha256": "0" * 64,
        "backend": "openvino",
        "bpr": "0.2.0",
    },
}


class RefineAnswer(BaseModel):
    """The same instances in the same order, with refined masks."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ANSWER_EXAMPLE]})

    image: ImageSize
    instances: list[RefinedInstance]
    patches: int = Field(description="of all instances")
    changed_pixels: int = Field(description="of all instances")
    notes: list[str] = Field(description="what had to be done to read the image, in words")
    timings: Timings
    model: Model


class Progress(BaseModel):
    """How far a request is that is being refined."""

    patches: int = Field(description="of the request; 0 while its files are being read")
    patches_done: int = Field(description="those that the network is at are counted too")
    ahead: int = Field(description="requests that came before and are not finished")


class JobAnswer(BaseModel):
    """A job: many images, or one with very many instances, refined in the background."""

    id: str
    status: Literal["queued", "running", "done", "failed"]
    images: int | None = Field(description="in all; null until they are counted")
    images_done: int
    images_failed: int = Field(description="left as they were; the report in the result says why")
    seconds_left: float | None = Field(description="at the present rate; null while not known")
    ahead: int = Field(description="unfinished jobs that came before")
    created: datetime
    finished: datetime | None
    detail: str | None = Field(description="why it failed")
    result: str | None = Field(
        description="where the refined files are once it is done: an address of this service that "
        "gives a zip, or the place in an object store that was asked for"
    )


class ProblemDetails(BaseModel):
    """An error in words (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Unprocessable Entity",
                    "status": 422,
                    "detail": "masks[1] (cup.png): expected a mask of the size of its image, "
                    "640 x 480 pixels, got 480 x 640 pixels",
                    "request_id": "5f0c1d7a9b3e4c60",
                }
            ]
        }
    )

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str = Field(description="the same as in the header X-Request-ID and in the log")
    error: str | None = Field(
        None, description="the same as detail, below /v2 alone, where clients of KServe look for it"
    )


class Status(BaseModel):
    """Whether the service lives or can take requests."""

    status: Literal["ok", "loading", "draining"]


class ServerMetadata(BaseModel):
    """What KServe's protocol says of a server."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """What KServe's protocol says of a tensor."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1: any number")


class ModelMetadata(BaseModel):
    """What KServe's protocol says of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
