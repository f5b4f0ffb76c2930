"""What a job is asked to do, as it lies in the job's folder, and the names of what lies there.

A job's folder holds `spec.json`, the uploaded parts, and, while it runs, `input` (the files of the
archives) and `output` (what `bpr refine` writes, with its journal). At the end only `result.zip`
is left of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bpr.pipeline.settings import PatchSettings
from bpr.refiner.model_config import PatchSize
from bpr.service.settings import ServiceSettings

SPEC = "spec.json"
PARTS = "parts"
INPUT = "input"
PARTIAL_INPUT = "input.partial"  # while archives are being unpacked
OUTPUT = "output"
RESULT = "result.zip"
LOCK = "lock"


class JobPart(BaseModel):
    """One uploaded file."""

    model_config = ConfigDict(frozen=True)

    name: str  # of the part: image, masks, instance_map, instances, predictions, images, ...
    file_name: str  # as the caller has it; "" where it has none


class JobPlaces(BaseModel):
    """Files of a job that are not uploaded: paths or addresses in an object store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    predictions: str
    images: str | None = None
    images_json: str | None = None
    out: str | None = None  # None: the result is a zip, as of an uploaded job


class JobSpec(BaseModel):
    """A job. Either `parts` or `places` is given."""

    model_config = ConfigDict(frozen=True)

    parts: tuple[JobPart, ...] = ()  # the file of each is parts/<its position>
    places: JobPlaces | None = None
    format: str | None = None  # of `bpr refine --format`

    weights: str
    device: str
    backend: str
    batch_size: int
    patch_size: int | Literal["auto"] | None
    padding: int | None
    nms_iou: float | None
    compat: bool
    ray_address: str | None

    max_pixels: int  # of an image
    max_unpacked_bytes: int
    max_files: int
    max_json_bytes: int

    @classmethod
    def of(
        cls,
        settings: ServiceSettings,
        parts: tuple[JobPart, ...] = (),
        places: JobPlaces | None = None,
        format_name: str | None = None,
    ) -> JobSpec:
        """A job with the settings of the service."""
        weights = Path(settings.chosen_weights)
        return cls(
            parts=parts,
            places=places,
            format=format_name,
            weights=str(weights.resolve()) if weights.is_file() else settings.chosen_weights,
            device=settings.device,
            backend=settings.backend,
            batch_size=settings.batch_size,
            patch_size=settings.patch_size,
            padding=settings.padding,
            nms_iou=settings.nms_iou,
            compat=settings.compat,
            ray_address=settings.ray_address,
            max_pixels=settings.max_image_pixels,
            max_unpacked_bytes=settings.max_job_unpacked_bytes,
            max_files=settings.max_job_files,
            max_json_bytes=settings.max_job_json_bytes,
        )

    def patch_settings(self, patch_size: PatchSize, padding: int) -> PatchSettings:
        """How patches are cut; what the weights were made for where nothing is set."""
        return PatchSettings.chosen(
            self.patch_size,
            self.padding,
            default_size=patch_size,
            default_padding=padding,
            nms_iou=self.nms_iou,
            compat=self.compat,
        )
