"""The HTTP service: routes, and how they hang together.

`create_app` has no effect but to build: the model is given, and threads start with the app.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from bpr import __version__
from bpr._extras import needs_extra
from bpr.pipeline.network import LoadedNetwork, load_network
from bpr.service import kserve, label_studio, openapi, pages, samples
from bpr.service.answers import MEDIA_TYPES, PNG, choose_media_type
from bpr.service.forms import read_image_alone, read_upload
from bpr.service.gate import Allowance, Gate, usual_allowance
from bpr.service.guard import Guard
from bpr.service.inputs import Patience
from bpr.service.jobs import routes as job_routes
from bpr.service.jobs.routes import Jobs
from bpr.service.metrics import Metrics
from bpr.service.problems import NOTHING_HERE, Problem, problem_response
from bpr.service.refinery import EncodedAnswer, RefinedRequest, Refinery, Wish
from bpr.service.schemas import Detector, Model, Progress, RefineAnswer, Status
from bpr.service.settings import ServiceSettings
from bpr.service.tracing import NoTracing, Tracing

if TYPE_CHECKING:  # a service without a detector starts without PyTorch
    from bpr.pipeline.detection import InstanceDetector

logger = logging.getLogger(__name__)

REFINE, SEGMENT = "/refine", "/segment"


@dataclass(frozen=True, eq=False)
class Networks:
    """What the service refines with, and what it finds instances with, if it does."""

    network: LoadedNetwork
    detector: InstanceDetector | None = None


def create_app(
    settings: ServiceSettings, load: Callable[[], Networks], tracing: Tracing | None = None
) -> FastAPI:
    """Build the service.

    Args:
        settings: everything that can be set. POST /segment exists where they name a detector.
        load: gives the networks; called in a thread once the app runs. Until they are there and
            warm, the app answers, and says that it is loading.
        tracing: where spans go; None: nowhere.

    Returns:
        The app. `app.state.gate` is its Gate: whoever runs the app drains it before the end, and
        ends where it has a failure.

    Raises:
        ValueError: the file of keys cannot be read, or the folder of jobs not be used.
    """
    metrics, gate, traced = Metrics(), Gate(settings), tracing or NoTracing()
    running: dict[str, Patience] = {}
    metrics.watch("bpr_requests_in_process", "Requests let in", lambda: gate.in_process)
    metrics.watch("bpr_uploads", "Requests whose body is being received", lambda: gate.uploads)

    jobs = None if settings.jobs_folder is None else Jobs(settings, gate, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if jobs is not None:
            jobs.queue.start()
        starting = asyncio.create_task(_start(app, settings, load, gate, metrics, traced))
        yield
        gate.drain()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        if jobs is not None:
            await asyncio.to_thread(jobs.queue.close)
        if app.state.refinery is not None:
            await asyncio.to_thread(app.state.refinery.close)
        await asyncio.to_thread(traced.close)

    app = FastAPI(
        title="bpr",
        version=__version__,
        summary="Sharpens the boundaries of instance masks after the fact.",
        description=openapi.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # redirections would name whatever host the request names
        lifespan=lifespan,
    )
    app.state.gate, app.state.refinery, app.state.loading = gate, None, None
    app.add_middleware(
        Guard,
        settings=settings,
        gate=gate,
        metrics=metrics,
        costly=partial(_allowance, settings),
        tracing=traced,
        running=running,
    )
    if settings.cors_origins:
        app.add_middleware(
            Cors,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["X-API-Key", "Authorization", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After", "Server-Timing"],
        )
    _add_problem_handlers(app)
    _add_refine(app, settings, traced)
    if settings.detector is not None:
        _add_segment(app, settings, traced)
    if jobs is not None:
        job_routes.add_routes(app, jobs)
    _add_progress(app, running)
    _add_operation(app, gate, metrics)
    kserve.add_routes(app, settings, gate)
    if settings.label_studio_url is not None:
        label_studio.add_routes(app, settings)
    pages.add_routes(app)
    samples.add_routes(app, settings)
    openapi.complete(app, has_keys=not gate.keys.is_open)
    return app


def _allowance(settings: ServiceSettings, path: str) -> Allowance | None:
    """What a POST to a path may take; None for paths that cost nothing."""
    if path in (REFINE, SEGMENT, label_studio.PREDICT):
        return usual_allowance(settings, path)
    if path == job_routes.JOBS and settings.jobs_folder is not None:
        return job_routes.jobs_allowance(settings)
    return kserve.infer_allowance(settings, path)


class Cors(CORSMiddleware):
    """CORS, with refusals as problems."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a preflight."""
        answer = super().preflight_response(request_headers)
        if answer.status_code < HTTPStatus.BAD_REQUEST:
            return answer
        request_id = uuid.uuid4().hex[:16]
        headers = {
            "Vary": "Origin",
            "X-Content-Type-Options": "nosniff",
            "X-Request-ID": request_id,
        }
        detail = (
            "Origin: expected one of cors_origins with the method GET, POST or DELETE and the "
            "headers that the API takes, got another one."
        )
        scope = {"state": {"request_id": request_id}}
        return problem_response(answer.status_code, detail, scope, headers)


def load_networks(settings: ServiceSettings) -> Networks:
    """The networks that the settings name.

    Raises:
        ValueError: see `load_network` and `load_detector`.
    """
    network = load_network(
        settings.chosen_weights, settings.device, settings.backend, settings.compat
    )
    return Networks(network, load_detector(settings))


def load_detector(settings: ServiceSettings) -> InstanceDetector | None:
    """The detector that the settings name, if they name one.

    Raises:
        ValueError: see `InstanceDetector`.
    """
    if settings.detector is None:
        return None
    with needs_extra("detector"):
        from bpr.pipeline.detection import DetectionSettings, InstanceDetector
    chosen = DetectionSettings(score=settings.detector_score)
    try:
        return InstanceDetector(settings.detector, settings.device, chosen)
    except ValueError as error:
        raise ValueError(f"detector: {error}") from None


async def _start(
    app: FastAPI,
    settings: ServiceSettings,
    load: Callable[[], Networks],
    gate: Gate,
    metrics: Metrics,
    tracing: Tracing,
) -> None:
    """Load the networks, run them once, and open the gate."""
    try:
        app.state.loading = loading = _begin(load)
        networks = await asyncio.wrap_future(loading)
        config = networks.network.config
        patches = settings.patch_settings(config.patch_size, config.padding)
    except Exception as error:
        gate.fail(error)
        return
    runner = networks.network.runner(settings.batch_size)
    refinery = Refinery(
        runner=runner,
        network=networks.network,
        detector=networks.detector,
        model=_describe(networks),
        patches=patches,
        settings=settings,
        metrics=metrics,
        tracing=tracing,
    )
    app.state.refinery, gate.model = refinery, refinery.model
    try:
        await refinery.warm_up()
    except Exception:
        logger.exception("a network failed before the first request: none will be taken")
        return
    gate.open()


def _begin(load: Callable[[], Networks]) -> Future[Networks]:
    """Load in a thread that nothing waits for at the end; `serve` ends the process without it."""
    loading: Future[Networks] = Future()
    loading.set_running_or_notify_cancel()

    def run() -> None:
        try:
            loading.set_result(load())
        except Exception as error:
            loading.set_exception(error)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return loading


def _describe(networks: Networks) -> Model:
    network, detector = networks.network, networks.detector
    return Model(
        name=network.name,
        version=network.weights_sha256[:12],
        weights_sha256=network.weights_sha256,
        backend=network.backend,
        bpr=__version__,
        detector=None
        if detector is None
        else Detector(name=detector.name, weights_sha256=detector.weights_sha256),
    )


def _add_refine(app: FastAPI, settings: ServiceSettings, traced: Tracing) -> None:
    @app.post(
        REFINE,
        summary="Refine the masks of one image",
        description=openapi.REFINE_DESCRIPTION,
        response_model=RefineAnswer,
        responses=openapi.REFINE_RESPONSES,
        openapi_extra=openapi.REFINE_BODY,
        tags=["refine"],
    )
    async def refine(
        request: Request,
        details: Annotated[
            bool, Query(description="add patch_boxes and the coarse mask to a json answer")
        ] = False,
        alpha: Alpha = False,
        cutout: Cutout = False,
    ) -> Response:
        wish = _wish(request, details, alpha, cutout)
        with traced.stage("receive"):
            upload = await read_upload(request, settings)
        refinery, patience = app.state.refinery, request.state.patience
        refined = await refinery.refine_upload(upload, patience, wish.is_soft)
        encoded = await refinery.encode(refined, wish, upload.image_name, patience)
        return _respond(request, wish, refined, encoded)


def _add_segment(app: FastAPI, settings: ServiceSettings, traced: Tracing) -> None:
    @app.post(
        SEGMENT,
        summary="Find the instances of one image, with refined masks",
        description=openapi.SEGMENT_DESCRIPTION,
        response_model=RefineAnswer,
        responses=openapi.REFINE_RESPONSES,
        openapi_extra=openapi.SEGMENT_BODY,
        tags=["refine"],
    )
    async def segment(
        request: Request,
        details: Annotated[
            bool, Query(description="add patch_boxes and the detector's mask to a json answer")
        ] = False,
        alpha: Alpha = False,
        cutout: Cutout = False,
    ) -> Response:
        wish = _wish(request, details, alpha, cutout)
        with traced.stage("receive"):
            upload = await read_image_alone(request, settings)
        refinery, patience = app.state.refinery, request.state.patience
        refined = await refinery.segment(upload, patience, wish.is_soft)
        encoded = await refinery.encode(refined, wish, upload.image_name, patience)
        return _respond(request, wish, refined, encoded)


Alpha = Annotated[
    bool, Query(description="add the probabilities of each instance to a json answer")
]
Cutout = Annotated[
    bool, Query(description="answer with the objects on a transparent background, as a PNG")
]


def _wish(request: Request, details: bool, alpha: bool, cutout: bool) -> Wish:
    """How the caller wants the answer. Problem (406): a type that the answer cannot have."""
    if not cutout:
        return Wish(_media_type(request), details, alpha)
    if choose_media_type(request.headers.get("accept", "*/*"), (PNG,)) is None:
        raise Problem(
            HTTPStatus.NOT_ACCEPTABLE, f"Accept: expected {PNG} with cutout", "not_acceptable"
        )
    return Wish(PNG, cutout=True)


def _media_type(request: Request) -> str:
    media_type = choose_media_type(request.headers.get("accept", "*/*"))
    if media_type is None:
        raise Problem(
            HTTPStatus.NOT_ACCEPTABLE,
            f"Accept: expected one of {', '.join(MEDIA_TYPES)}",
            "not_acceptable",
        )
    return media_type


def _respond(
    request: Request, wish: Wish, refined: RefinedRequest, encoded: EncodedAnswer
) -> Response:
    request.state.log = {
        "instances": len(refined.after.instances),
        "patches": refined.num_patches,
        **{f"{stage}_s": round(value, 4) for stage, value in encoded.timings.items()},
    }
    stages = (f"{stage};dur={value * 1000:.1f}" for stage, value in encoded.timings.items())
    headers = {"Server-Timing": ", ".join(stages), "Vary": "Accept"}
    return Response(encoded.content, media_type=wish.media_type, headers=headers)


def _add_progress(app: FastAPI, running: Mapping[str, Patience]) -> None:
    @app.get(
        "/progress/{request_id}",
        summary="How far a request is; its id is what it was sent with in X-Request-ID",
        responses=openapi.NOT_RUNNING,
        tags=["refine"],
    )
    async def progress(request_id: str) -> Progress:
        patience = running.get(request_id)
        if patience is None:
            raise Problem(
                HTTPStatus.NOT_FOUND,
                "expected the X-Request-ID of a request that is being refined, got another",
                "progress",
            )
        standing = patience.standing()
        if standing is None:
            return Progress(patches=0, patches_done=0, ahead=0)
        return Progress(**asdict(standing))


def _add_operation(app: FastAPI, gate: Gate, metrics: Metrics) -> None:
    @app.get("/healthz", summary="Whether the process lives", tags=["operation"])
    async def live() -> Status:
        return Status(status=gate.status)

    @app.get(
        "/readyz",
        summary="Whether requests are taken: the model is warm, nothing is shutting down",
        responses=openapi.NOT_READY,
        tags=["operation"],
    )
    async def ready() -> Status:
        gate.check_ready()
        return Status(status="ok")

    @app.get(
        "/metrics",
        summary="Counters for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        tags=["operation"],
    )
    async def read_metrics() -> Response:
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_problem_handlers(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        request.scope["state"]["reason"] = error.reason
        return problem_response(error.status_code, error.detail, request.scope, error.headers)

    @app.exception_handler(HTTPException)
    async def http_exception(request: Request, error: HTTPException) -> Response:
        detail = _HTTP_WORDS.get(error.status_code, str(error.detail))
        return problem_response(error.status_code, detail, request.scope, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        request.scope["state"]["reason"] = "content"
        return problem_response(422, _in_words(error.errors()), request.scope)


_HTTP_WORDS = {
    404: NOTHING_HERE,
    405: "This address takes another method: see the header Allow, or GET /docs.",
}


def _in_words(errors: Any) -> str:
    first = errors[0]
    name = ".".join(str(part) for part in first["loc"][1:])
    message: str = first["msg"]
    return f"{name}: {message[0].lower()}{message[1:]}"
