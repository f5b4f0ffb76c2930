"""The same app on a Ray cluster: replicas behind Ray Serve's proxies.

Each replica has its own network, batches and places. Ray would queue without end and answer in
plain text what is too much; so it passes every request on, and the replica's own gate says 429.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
import uuid
from functools import partial
from typing import Any

from bpr.service.ray_proxy import CALLBACK

# before ray is imported; a cluster that runs already has its own
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", CALLBACK)

import ray
from fastapi import FastAPI
from ray import serve

from bpr.pipeline.distributed import start_ray
from bpr.service.app import create_app, load_networks
from bpr.service.gate import Gate
from bpr.service.logs import start_logging
from bpr.service.settings import ServiceSettings
from bpr.service.tracing import start_tracing

logger = logging.getLogger(__name__)

APPLICATION = "bpr"
_FAREWELL_S = 3.0  # drained replicas refuse in words for so long before they are deleted
_REFUSALS = 1000  # requests beyond the places that a replica may be refusing at one time


def serve_on_ray(settings: ServiceSettings) -> None:
    """Run the service on the cluster at `settings.ray_address` until SIGTERM or SIGINT.

    Then the replicas that run refuse new requests, those in process finish, and the application is
    deleted. Ray Serve itself goes on: other applications may run on it.

    Raises:
        ConnectionError: there is no cluster at that address.
    """
    is_over = threading.Event()
    start_ray({"address": settings.ray_address, "include_dashboard": False, "log_to_driver": False})
    for kind in (signal.SIGTERM, signal.SIGINT):  # after ray, which handles them too
        signal.signal(kind, lambda *_: is_over.set())
    start_logging(settings.log_level)  # ray has set up its own
    try:
        serve.start(http_options={"host": settings.host, "port": settings.port})
        version = uuid.uuid4().hex
        _deploy(settings, version, is_draining=False)
        logger.info("listening", extra={"url": f"http://{settings.host}:{settings.port}"})
        is_over.wait()
        _deploy(settings, version, is_draining=True)
        time.sleep(_FAREWELL_S)
        serve.delete(APPLICATION)  # shutdown would cut requests off
    finally:
        ray.shutdown()


def replica_settings(settings: ServiceSettings) -> ServiceSettings:
    """The settings in a replica: jobs join its cluster by the address that is good there."""
    return settings.model_copy(update={"ray_address": ray.get_runtime_context().gcs_address})


def _deploy(settings: ServiceSettings, version: str, is_draining: bool) -> None:
    """Start the replicas, or tell the running ones to drain.

    Ray replaces replicas whose version is another one, and gives each deployment a new version
    unless it has one. So both calls name the same: only the user_config differs, and Ray passes
    it to the replicas that run.
    """

    def build() -> FastAPI:
        # in the replica: an app with a network in it cannot be sent there
        start_logging(settings.log_level)
        here = replica_settings(settings)
        return create_app(here, partial(load_networks, here), start_tracing(here))

    @serve.ingress(build)
    class Refiner:
        """A replica. Ray's wrapper of the class has the app."""

        app: FastAPI

        async def reconfigure(self, config: dict[str, Any]) -> None:
            """Called by Ray when the replica starts, before requests come, and to drain it."""
            gate: Gate = self.app.state.gate
            if config["is_draining"]:
                gate.drain()
            while gate.status == "loading":
                if gate.failure is not None:
                    raise gate.failure
                await asyncio.sleep(0.05)

    deployment = serve.deployment(
        name="Refiner",
        num_replicas=settings.ray_replicas,
        ray_actor_options={"num_cpus": settings.ray_cpus, "num_gpus": settings.ray_gpus},
        max_ongoing_requests=settings.max_requests + _REFUSALS,
        graceful_shutdown_timeout_s=settings.drain_timeout_s,
        user_config={"is_draining": is_draining},
    )(Refiner).options(version=version, _internal=True)
    serve.run(deployment.bind(), name=APPLICATION, route_prefix="/")
