"""A client of the service in Python: `from bpr import Client`.

pip install 'bpr-refine[client]'
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bpr._extras import needs_extra
from bpr.pipeline.formats import rle
from bpr.pipeline.formats.images import encode_png
from bpr.pipeline.instance import BoolArray

with needs_extra("bpr.Client"):
    import httpx

ImageLike = str | Path | bytes | np.ndarray[Any, np.dtype[np.uint8]]
"""A path, the bytes of a file, or pixels: (H, W, 3) uint8 RGB."""
MaskLike = str | Path | bytes | np.ndarray[Any, np.dtype[Any]]
"""A path, the bytes of a PNG, or an array (H, W): every value that is not zero is the object."""

_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_RETRY_AFTER_S = 2.0  # where an answer does not say


class ServiceError(Exception):
    """The service has refused a request.

    Attributes:
        status: of HTTP.
        detail: description of what was expected and what came.
        request_id: finds the request in the service's log.
    """

    def __init__(self, status: int, detail: str, request_id: str) -> None:
        super().__init__(f"{detail} (status {status}, request {request_id})")
        self.status, self.detail, self.request_id = status, detail, request_id


@dataclass(frozen=True, eq=False)
class RefinedImage:
    """The answer of the service."""

    answer: Mapping[str, Any]  # the json of POST /refine, whole

    @property
    def instances(self) -> Sequence[Mapping[str, Any]]:
        """COCO instances in the order in which they were sent, with the fields that they had."""
        instances: Sequence[Mapping[str, Any]] = self.answer["instances"]
        return instances

    @property
    def masks(self) -> list[BoolArray]:
        """Refined masks, (H, W) bool each, in the order of the instances."""
        size = (self.answer["image"]["height"], self.answer["image"]["width"])
        return [rle.decode(item["segmentation"], size).to_array() for item in self.instances]


class Client:
    """Asks a service of `bpr serve`.

    A service that is busy or starting (429, 503) is asked again at the times that it names.

    Args:
        url: of the service, http://127.0.0.1:8000 for instance.
        key: API key, where the service wants one.
        timeout_s: how long one try may take.
        max_wait_s: how long to keep trying while the service is busy, in all.
    """

    def __init__(
        self, url: str, key: str | None = None, timeout_s: float = 150.0, max_wait_s: float = 300.0
    ) -> None:
        headers = {} if key is None else {"X-API-Key": key}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)
        self._max_wait_s = max_wait_s

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def refine(
        self,
        image: ImageLike,
        masks: Sequence[MaskLike] | None = None,
        *,
        instance_map: MaskLike | None = None,
        instances: Sequence[Mapping[str, Any]] | None = None,
        details: bool = False,
    ) -> RefinedImage:
        """Refine the masks of one image. Give exactly one of the three kinds.

        Args:
            image: the photograph.
            masks: one per object.
            instance_map: (H, W) uint8 or uint16, each value but 0 is an object.
            instances: COCO instances with RLE or polygons; other fields are kept.
            details: add `coarse` and `patch_boxes` to the instances.

        Raises:
            ServiceError: the service refuses, or is busy for longer than `max_wait_s`.
            httpx.TransportError: there is no such service.
        """
        parts = [("image", _image_file(image))]
        parts += [("masks", _mask_file(mask)) for mask in masks or ()]
        if instance_map is not None:
            parts.append(("instance_map", _map_file(instance_map)))
        if instances is not None:
            content = json.dumps([dict(item) for item in instances]).encode()
            parts.append(("instances", ("instances.json", content)))
        return self._post("/refine", parts, details)

    def segment(self, image: ImageLike, *, details: bool = False) -> RefinedImage:
        """Find the instances of an image, where the service has a detector, and refine them.

        Raises:
            ServiceError: as `refine`; 404 where the service has no detector.
            httpx.TransportError: there is no such service.
        """
        return self._post("/segment", [("image", _image_file(image))], details)

    def _post(
        self, path: str, parts: list[tuple[str, tuple[str, bytes]]], details: bool
    ) -> RefinedImage:
        params = {"details": "true"} if details else {}
        answer = self._until_taken(lambda: self._http.post(path, files=parts, params=params))
        return RefinedImage(answer.json())

    def _until_taken(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        end = time.monotonic() + self._max_wait_s
        while True:
            answer = send()
            if answer.is_success:
                return answer
            wait_s = _retry_after(answer)
            if answer.status_code not in _BUSY or time.monotonic() + wait_s > end:
                raise _as_error(answer)
            time.sleep(wait_s)


def _retry_after(answer: httpx.Response) -> float:
    try:
        return max(float(answer.headers["retry-after"]), 0.0)
    except (KeyError, ValueError):
        return _RETRY_AFTER_S


def _as_error(answer: httpx.Response) -> ServiceError:
    try:
        problem = answer.json()
        detail, request_id = str(problem["detail"]), str(problem["request_id"])
    except (ValueError, LookupError, TypeError):  # a proxy's own page
        detail, request_id = answer.reason_phrase, answer.headers.get("x-request-id", "unknown")
    return ServiceError(answer.status_code, detail, request_id)


def _image_file(image: ImageLike) -> tuple[str, bytes]:
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image: expected (H, W, 3) uint8, got {image.shape} of {image.dtype}")
        return "image.png", encode_png(image)
    return _file(image, "image")


def _mask_file(mask: MaskLike) -> tuple[str, bytes]:
    if isinstance(mask, np.ndarray):
        if mask.ndim != 2:
            raise ValueError(f"masks: expected arrays (H, W), got {mask.shape}")
        return "mask.png", encode_png((mask != 0).astype(np.uint8) * 255)
    return _file(mask, "mask.png")


def _map_file(values: MaskLike) -> tuple[str, bytes]:
    if isinstance(values, np.ndarray):
        if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"instance_map: expected (H, W) uint8 or uint16, got {values.shape} of "
                f"{values.dtype}"
            )
        return "map.png", encode_png(values)
    return _file(values, "map.png")


def _file(file: str | Path | bytes, name: str) -> tuple[str, bytes]:
    if isinstance(file, bytes):
        return name, file
    path = Path(file)
    return path.name, path.read_bytes()
