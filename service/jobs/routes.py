"""POST /jobs and what belongs to it: work that is too large for one answer."""

from __future__ import annotations

import asyncio
import errno
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timezone
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import ValidationError

from bpr.pipeline.batch.open_job import FORMATS
from bpr.service import openapi
from bpr.service.forms import media_type_of, plain
from bpr.service.gate import Allowance, Gate, too_many
from bpr.service.jobs.prepare import check_kinds
from bpr.service.jobs.queue import JobQueue
from bpr.service.jobs.spec import LOCK, PARTS, RESULT, SPEC, JobPart, JobPlaces, JobSpec
from bpr.service.jobs.store import JobRow, JobStore
from bpr.service.jobs.unpack import remove_folder
from bpr.service.json_input import parse_json
from bpr.service.metrics import Metrics
from bpr.service.multipart import StoredPart, store_parts
from bpr.service.problems import Problem, bad_request, too_large, unavailable, wrong_type
from bpr.service.schemas import JobAnswer
from bpr.service.settings import ServiceSettings

JOBS = "/jobs"
_MAX_PLACES_BYTES = 65536  # of a json body
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_WAIT_S = 60  # for a disk to have room again
_FIRST_BYTES = 512


def jobs_allowance(settings: ServiceSettings) -> Allowance:
    """What a POST to /jobs may take."""
    return Allowance(
        route=JOBS,
        max_bytes=settings.max_job_bytes,
        upload_timeout_s=settings.job_upload_timeout_s,
        timeout_s=settings.job_upload_timeout_s + settings.request_timeout_s,
        is_on_disk=True,
    )


class Jobs:
    """The jobs of a service.

    Args:
        settings: with `jobs_folder`.
        gate: knows the keys.
        metrics: told of every job that ends.

    Raises:
        ValueError: the folder cannot be used.
    """

    def __init__(self, settings: ServiceSettings, gate: Gate, metrics: Metrics) -> None:
        assert settings.jobs_folder is not None
        self.folder = settings.jobs_folder
        self.store = JobStore(self.folder)
        self.queue = JobQueue(
            self.store, self.folder, settings.job_days, settings.job_upload_timeout_s, metrics
        )
        self._settings, self._gate = settings, gate
        metrics.watch(
            "bpr_jobs_unfinished", "Jobs that are queued or running",
            lambda: len(self.store.unfinished()),
        )  # fmt: skip

    async def take(self, request: Request, format_name: str | None) -> JobRow:
        """Store what a request brings and put it in line.

        Raises:
            Problem: 400, 413, 415 for what cannot be a job; 429 too many unfinished ones of the
                client; 503 the disk is full.
        """
        job_id = uuid.uuid4().hex
        folder = self.folder / job_id
        is_taken = False
        try:
            (folder / PARTS).mkdir(parents=True)
            (folder / LOCK).touch()
            spec = await self._read(request, folder / PARTS, format_name)
            (folder / SPEC).write_text(spec.model_dump_json(), encoding="utf-8")
            job = JobRow(
                id=job_id,
                client=request.state.client,
                key_name=request.state.key,
                status="queued",
                created=time.time(),
            )
            is_taken = await asyncio.to_thread(self.store.add, job, self._settings.max_jobs)
        except OSError as error:
            if error.errno not in _FULL_DISK:
                raise
            raise unavailable(
                "The disk that jobs are kept on is full. Try again later.", "disk", _WAIT_S
            ) from None
        finally:
            if not is_taken:
                await asyncio.to_thread(remove_folder, folder)
        if not is_taken:
            limit = self._settings.max_jobs
            raise too_many(f"You have {limit} unfinished jobs already.", "jobs", _WAIT_S)
        self.queue.wake()
        return job

    async def find(self, request: Request, job_id: str) -> JobRow:
        """A job that the caller may see.

        Raises:
            Problem: 401 no or a wrong key, 404 there is no such job, or it is another's.
        """
        key = self._gate.keys.check(request.headers)
        request.state.key = key.name if key is not None else None
        job = await asyncio.to_thread(self.store.find, job_id)
        if job is None or (key is not None and job.key_name != key.name):
            raise Problem(
                HTTPStatus.NOT_FOUND,
                "expected the id of a job that you have sent and not deleted, got another",
                "job",
            )
        return job

    async def delete(self, job: JobRow) -> None:
        """Cancel a job, or forget it, with all of its files."""
        await asyncio.to_thread(self.store.delete, job.id)
        await asyncio.to_thread(self.queue.discard, job.id)
        self.queue.wake()

    async def describe(self, job: JobRow) -> JobAnswer:
        """What GET answers."""
        is_unfinished = job.status in ("queued", "running")
        ahead = await asyncio.to_thread(self.store.ahead, job) if is_unfinished else 0
        result = job.result_url or f"{JOBS}/{job.id}/result"
        return JobAnswer(
            id=job.id,
            status=job.status,
            images=job.images,
            images_done=job.images_done,
            images_failed=job.images_failed,
            seconds_left=job.seconds_left,
            ahead=ahead,
            created=_as_time(job.created),
            finished=None if job.finished is None else _as_time(job.finished),
            detail=job.detail,
            result=result if job.status == "done" else None,
        )

    async def _read(self, request: Request, folder: Path, format_name: str | None) -> JobSpec:
        media_type = media_type_of(request)
        if media_type == "application/json":
            content = await _read_little(request.stream())
            places = _read_places(content, self._settings)
            return JobSpec.of(self._settings, places=places, format_name=format_name)
        if media_type != "multipart/form-data":
            got = plain(media_type) or "no type"
            raise wrong_type(f"body: expected multipart/form-data or application/json, got {got}")
        parts = await store_parts(
            request.stream(),
            request.headers["content-type"],
            self._settings.max_job_files,
            folder,
        )
        if wrong := check_kinds([part.name for part in parts]):
            raise bad_request(plain(wrong, 200))
        for part in parts:
            _check_content(part)
        named = tuple(JobPart(name=part.name, file_name=part.file_name) for part in parts)
        return JobSpec.of(self._settings, parts=named, format_name=format_name)


def add_routes(app: FastAPI, jobs: Jobs) -> None:
    """Add POST /jobs, and GET and DELETE of each job."""

    @app.post(
        JOBS,
        summary="Refine many images, or one with very many instances, in the background",
        description=openapi.JOBS_DESCRIPTION,
        status_code=HTTPStatus.ACCEPTED,
        response_model=JobAnswer,
        responses=openapi.JOBS_RESPONSES,
        openapi_extra=openapi.JOBS_BODY,
        tags=["jobs"],
    )
    async def send(
        request: Request,
        response: Response,
        format: Annotated[
            str | None, Query(description=f"what the masks are: {', '.join(FORMATS)}; else told")
        ] = None,
    ) -> JobAnswer:
        if format is not None and format not in FORMATS:
            raise bad_request(f"format: expected one of {', '.join(FORMATS)}, got {plain(format)}")
        job = await jobs.take(request, format)
        request.state.log = {"job": job.id}
        response.headers["Location"] = f"{JOBS}/{job.id}"
        return await jobs.describe(job)

    @app.get(
        f"{JOBS}/{{job_id}}",
        summary="How far a job is",
        responses=openapi.JOB_RESPONSES,
        tags=["jobs"],
    )
    async def status(request: Request, job_id: str) -> JobAnswer:
        return await jobs.describe(await jobs.find(request, job_id))

    @app.get(
        f"{JOBS}/{{job_id}}/result",
        summary="The refined files of a finished job, as `bpr refine` writes them",
        response_class=Response,
        responses=openapi.RESULT_RESPONSES,
        tags=["jobs"],
    )
    async def result(request: Request, job_id: str) -> Response:
        job = await jobs.find(request, job_id)
        path = jobs.folder / job.id / RESULT
        if job.status != "done" or job.result_url is not None or not path.is_file():
            words = job.detail or f"GET {JOBS}/{job.id} says how far it is and where its files are"
            raise Problem(
                HTTPStatus.CONFLICT,
                f"expected a job that is done, got one that is {job.status}: {words}",
                "job",
            )
        return FileResponse(path, media_type="application/zip", filename=f"{job.id}.zip")

    @app.delete(
        f"{JOBS}/{{job_id}}",
        summary="Cancel a job, or delete its result",
        status_code=HTTPStatus.NO_CONTENT,
        responses=openapi.JOB_RESPONSES,
        tags=["jobs"],
    )
    async def delete(request: Request, job_id: str) -> None:
        await jobs.delete(await jobs.find(request, job_id))


async def _read_little(stream: AsyncIterator[bytes]) -> bytes:
    content = b""
    async for piece in stream:
        content += piece
        if len(content) > _MAX_PLACES_BYTES:
            raise too_large(
                f"body: expected at most {_MAX_PLACES_BYTES} bytes of json", "json_bytes"
            )
    return content


def _read_places(content: bytes, settings: ServiceSettings) -> JobPlaces:
    value = parse_json(content, "body", settings)
    try:
        places = JobPlaces.model_validate(value)
    except ValidationError as error:
        first: Any = error.errors()[0]
        name = plain(".".join(str(part) for part in first["loc"])) or "body"
        raise bad_request(f"{name}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
    for name, url in places.model_dump(exclude_none=True).items():
        if not _is_allowed(url, settings.job_stores):
            allowed = ", ".join(settings.job_stores) or "none: upload the files"
            raise bad_request(f"{name}: expected a place below one of job_stores ({allowed})")
    return places


def _is_allowed(url: str, stores: Sequence[str]) -> bool:
    """Below an allowed place. `::` would chain another file system behind it."""
    is_plain = url.isprintable() and "::" not in url and not set(url) & set("?#%\\*[]{}")
    inside = any(url == store or url.startswith(f"{store}/") for store in stores)
    return is_plain and inside and not {".", ".."} & set(url.split("/"))


def _check_content(part: StoredPart) -> None:
    """Problem (415) where the first bytes of a file are not those of its kind."""
    with part.path.open("rb") as file:
        first = file.read(_FIRST_BYTES)
    is_zip = first.startswith(b"PK")
    is_json = first.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{")
    if part.name in ("instances", "images_json") and not is_json:
        raise wrong_type(f"{part.name}: expected json, got something else")
    if part.name == "predictions" and not (is_zip or is_json):
        raise wrong_type("predictions: expected a zip archive or a COCO json, got something else")


def _as_time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
