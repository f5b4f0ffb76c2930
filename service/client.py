"""A client of the service in Python: `from bpr import Client`.

pip install 'bpr-refine[client]'
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from bpr.pipeline.formats import rle
from bpr.pipeline.instance import BoolArray
from bpr.service.client_files import ImageLike, MaskLike, image_file, map_file, mask_file
from bpr.service.client_http import Connection, ServiceError
from bpr.service.client_jobs import Job, JobFailed, Jobs

__all__ = ["Client", "Job", "JobFailed", "Jobs", "RefinedImage", "ServiceError"]


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
        self._connection = Connection(url, key, timeout_s, max_wait_s)
        self.jobs = Jobs(self._connection)
        """Work that is too large for one request."""

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
        self._connection.http.close()

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
        parts = [("image", image_file(image))]
        parts += [("masks", mask_file(mask)) for mask in masks or ()]
        if instance_map is not None:
            parts.append(("instance_map", map_file(instance_map)))
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
        return self._post("/segment", [("image", image_file(image))], details)

    def _post(
        self, path: str, parts: list[tuple[str, tuple[str, bytes]]], details: bool
    ) -> RefinedImage:
        params = {"details": "true"} if details else {}
        http = self._connection.http
        answer = self._connection.until_taken(lambda: http.post(path, files=parts, params=params))
        return RefinedImage(answer.json())
