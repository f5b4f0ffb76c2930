"""Everything about the service that can be set: one field, one fact.

A field is a flag of `bpr serve` (--max-requests), a variable (BPR_MAX_REQUESTS) and a line of
the TOML file that --config or BPR_CONFIG names (max_requests = 16). Flags go before variables,
variables before the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from bpr.pipeline.host import DEFAULT_BATCH_SIZE
from bpr.pipeline.settings import PASSES_NMS_IOU, PatchSettings
from bpr.refiner.model_config import PatchSize, default_weights
from bpr.refiner.predictor import BACKENDS

ENV_PREFIX = "BPR_"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"

MB = 2**20
_CPUS = os.cpu_count() or 1


class ServiceSettings(BaseSettings):
    """How the service listens, refines, and protects itself."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="forbid", frozen=True, validate_default=True
    )

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")

    weights: str | None = Field(
        None,
        description="unet-lite0, hrnet18s, tiny, a .safetensors file of bpr, or a published .pth "
        "file; unset: unet-lite0, or hrnet18s with compat or padding",
    )
    detector: str | None = Field(
        None,
        description="lite, which is bundled, or weights of a detector: opens POST /segment; "
        "unset: no detector",
    )
    detector_score: float = Field(
        0.5, ge=0, le=1, description="POST /segment keeps only instances with a higher score"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the network runs")
    backend: str = Field("auto", description=f"what runs it: {', '.join(BACKENDS)}")
    patch_size: int | Literal["auto"] | None = Field(
        None,
        description="side of the patches in image pixels, even; auto follows the size of the "
        "object; unset: that of the weights",
    )
    padding: int | None = Field(
        None,
        description="pixels around a patch that the network also sees; unset: that of the weights",
    )
    nms_iou: float | None = Field(
        None,
        description="of patches that overlap by this much or more, only one is kept; unset: "
        f"{PASSES_NMS_IOU:g} for weights of several passes, else {PatchSettings.nms_iou:g}",
    )
    compat: bool = Field(
        False, description="cut and merge patches exactly as the authors' code does"
    )
    batch_size: int = Field(
        DEFAULT_BATCH_SIZE,
        gt=0,
        le=4096,
        description="patches that go through the network together",
    )
    batch_wait_s: float = Field(
        0.005, ge=0, le=1, description="how long a batch that is not full waits for more patches"
    )
    workers: int = Field(
        min(_CPUS, 4),
        gt=0,
        le=256,
        description="threads that decode images, choose patches, merge and encode",
    )

    max_requests: int = Field(
        16,
        gt=0,
        description="requests in the process, the queue included; further requests get 429",
    )
    max_uploads: int = Field(
        256, gt=0, description="requests whose bodies are being received; further requests get 429"
    )
    max_client_requests: int = Field(
        128,
        gt=0,
        description="requests of one client at a time (a client is an API key, or an address where "
        "there are no keys); further requests get 429",
    )
    max_body_bytes: int = Field(64 * MB, gt=0, description="bytes of a request's body")
    max_json_bytes: int = Field(8 * MB, gt=0, description="bytes of the part `instances`")
    max_image_pixels: int = Field(
        40_000_000,
        gt=0,
        le=170_000_000,  # about where Pillow itself refuses
        description="width x height of an image, read before it is decoded",
    )
    max_instances: int = Field(1000, gt=0, le=65535, description="instances of a request")
    max_mask_pixels: int = Field(
        256_000_000,
        gt=0,
        description="pixels of all masks together: whole PNGs, and the windows of other masks",
    )
    max_patches: int = Field(10_000, gt=0, description="patches of a request")
    upload_timeout_s: float = Field(
        30, gt=0, description="time for a client to send its headers, and again for its body"
    )
    min_upload_bytes_per_s: int = Field(
        4096, ge=0, description="a body that comes more slowly for 5 seconds is refused"
    )
    request_timeout_s: float = Field(
        120,
        gt=0,
        description="time for a request, from its first byte to the last byte of the answer",
    )
    drain_timeout_s: float = Field(
        120, ge=0, description="time for running requests to finish after SIGTERM"
    )

    jobs_folder: Path | None = Field(
        None,
        description="folder for jobs and their results: opens POST /jobs; unset: no jobs",
    )
    job_stores: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="places that jobs may read and write (s3://bucket/folder), separated by "
        "commas; none: the files of a job are uploaded",
    )
    max_jobs: int = Field(
        16, gt=0, description="unfinished jobs of one client; further jobs get 429"
    )
    max_job_bytes: int = Field(4096 * MB, gt=0, description="bytes of a job's upload")
    max_job_unpacked_bytes: int = Field(
        16384 * MB, gt=0, description="bytes of all files in a job's zip archives"
    )
    max_job_files: int = Field(100_000, gt=0, description="files in a job's zip archives")
    max_job_json_bytes: int = Field(
        512 * MB, gt=0, description="bytes of a job's json file, which is parsed in memory"
    )
    job_upload_timeout_s: float = Field(
        3600, gt=0, description="seconds for a client to send a job"
    )
    job_days: float = Field(7, gt=0, description="days until a finished job is deleted")

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="API keys, separated by commas; none: everybody may use the API"
    )
    api_keys_file: Path | None = Field(
        None,
        description="TOML file of API keys with names and limits, read again when it changes; "
        "unset: no file",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="origins of other web sites whose pages may call the API, separated by commas",
    )
    label_studio_url: str | None = Field(
        None,
        description="address of the Label Studio that this service is an ML backend of; unset: not "
        "an ML backend",
    )
    label_studio_api_key: SecretStr | None = Field(
        None, description="token of a user of Label Studio, to fetch the images of tasks"
    )
    label_studio_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="other origins from which images of tasks may be fetched, separated by commas",
    )
    otel_endpoint: str | None = Field(
        None,
        description="address of an OpenTelemetry collector (http://host:4318) that gets the "
        "traces; unset: no traces",
    )
    ray_address: str | None = Field(
        None,
        description="run on a Ray cluster: host:port, auto for the cluster of this machine, local "
        "to start one",
    )
    ray_replicas: int = Field(1, gt=0, description="replicas on the cluster")
    ray_gpus: float = Field(
        0, ge=0, description="GPUs of a replica; 0.5: two replicas share one GPU"
    )
    ray_cpus: float = Field(1, ge=0, description="CPUs of a replica")

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest severity that is logged"
    )

    @field_validator(
        "api_keys", "cors_origins", "job_stores", "label_studio_origins", mode="before"
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("label_studio_url", "otel_endpoint")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError(f"expected an address like https://example.org, got {url}")
        return url.rstrip("/") if url is not None else None

    @field_validator("cors_origins", "label_studio_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not origin.startswith(("http://", "https://")):
                raise ValueError(f"expected origins like https://example.org, got {origin}")
        return origins

    @field_validator("job_stores")
    @classmethod
    def _check_stores(cls, stores: tuple[str, ...]) -> tuple[str, ...]:
        for store in stores:
            if "://" not in store:
                raise ValueError(f"expected places like s3://bucket/folder, got {store}")
        return tuple(store.rstrip("/") for store in stores)

    @field_validator("backend")
    @classmethod
    def _check_backend(cls, backend: str) -> str:
        if backend not in BACKENDS:
            raise ValueError(f"expected one of {', '.join(BACKENDS)}")
        return backend

    @model_validator(mode="after")
    def _check_patches(self) -> ServiceSettings:
        self.patch_settings(64, 0)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, variables, then the file, where `load_settings` has named one."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def chosen_weights(self) -> str:
        """The weights that are set, else the bundled ones that fit the other settings."""
        return self.weights or default_weights(self.compat, self.padding)

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

    def lines(self) -> list[str]:
        """`name = value` for every field, keys of the API left out."""
        shown = {name: getattr(self, name) for name in type(self).model_fields}
        if self.api_keys:
            shown["api_keys"] = f"{len(self.api_keys)}, not shown"
        if self.label_studio_api_key is not None:
            shown["label_studio_api_key"] = "not shown"
        return [f"{name} = {value}" for name, value in shown.items()]


def load_settings(given: dict[str, Any], config: Path | None = None) -> ServiceSettings:
    """Read settings from all sources.

    Args:
        given: flags, by field name; text is converted.
        config: TOML file; the one that BPR_CONFIG names, if that is set, where it is None.

    Raises:
        ValueError: a value is wrong, a name unknown, or the file not readable; one line says which.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    if config is None and named:
        config = Path(named)
    if config is not None and not config.is_file():
        raise ValueError(f"{config}: expected a TOML file with settings, found no file")

    class WithFile(ServiceSettings):
        model_config = SettingsConfigDict(toml_file=config)

    try:
        loaded = WithFile(**given)
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(item) for item in error.errors())) from None
    except ValueError as error:  # invalid TOML
        raise ValueError(f"{config}: expected TOML, got: {error}") from None
    return ServiceSettings.model_construct(**dict(loaded))  # of a class that can be pickled


def _sentence(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"] if part not in ("int", "literal['auto']"))
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{name}: expected the name of a setting, got an unknown one"
    if not name:
        return str(message)
    if "key" in name:
        return f"{name}: {message}"  # never the value
    return f"{name}: {message[0].lower()}{message[1:]}, got {error['input']!r}"
