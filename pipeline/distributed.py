"""The batch jobs on Ray: a deterministic plan, plain tasks, and an actor pool for the network.

Ray schedules and retries. What is here bounds how much is on its way, finds the one image that
ends its process, and turns Ray's errors into ours. Results do not depend on any of it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import exceptions

from pipeline.extraction.shard import Shard, ShardResult, extract_shard, try_image

RETRIES = 2  # of a task whose process or machine died
WAITING_PER_CPU = 2  # tasks submitted for each core: the next one is there when one ends
_LOST = (
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.ObjectLostError,
    exceptions.RayActorError,
)
DIED = f"its process died {RETRIES + 1} times"


@contextmanager
def open_cluster(workers: int | None, address: str | None = None) -> Iterator[Cluster]:
    """Start Ray on this machine, or join a running cluster; leave it at the end.

    Args:
        workers: processes on this machine; None to join.
        address: of the cluster: "auto", host:port or ray://host:port.

    Raises:
        ValueError: there is no cluster.
    """
    # Ray's new default, asked for so that it does not warn about the old one
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if workers is not None:
        how.update(address="local", num_cpus=workers, include_dashboard=False)
    else:
        how.update(address=address)
    try:
        context = ray.init(**how)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--ray-address {address}: expected a running Ray cluster, got: {reason}"
        ) from None
    try:
        yield Cluster(context.dashboard_url or None)
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Cluster:
    """The Ray that this process has joined."""

    dashboard_url: str | None  # host:port, where one runs

    @property
    def num_cpus(self) -> int:
        """Cores of all machines that are there now."""
        return max(int(ray.cluster_resources().get("CPU", 0)), 1)  # type: ignore[no-untyped-call]

    def extract(self, shards: Iterable[Shard]) -> Iterator[ShardResult]:
        """Have shards done by tasks; an engine of `pipeline.extraction.run.extract`.

        An image that ends its process is found by trying each alone, and left out.
        """
        waiting = iter(shards)
        pending: dict[Any, Shard] = {}
        while True:
            room = WAITING_PER_CPU * self.num_cpus - len(pending)
            for shard in _next(waiting, room):
                pending[_extract.remote(shard, {})] = shard
            if not pending:
                return
            (done,), _ = ray.wait(list(pending), num_returns=1)
            shard = pending.pop(done)
            result = _value(done)
            yield result if result is not None else _without_the_culprit(shard)


def _without_the_culprit(shard: Shard) -> ShardResult:
    """Do a shard whose task died, without the images that end their process also when alone."""
    tries = {key: _try.remote(shard, key) for key in shard.keys}
    crashed = {key: DIED for key, task in tries.items() if _value(task) is None}
    for without in (crashed, dict.fromkeys(shard.keys, f"{DIED}, with others of its shard")):
        result = _value(_extract.remote(shard, without))
        if result is not None:
            return result  # type: ignore[no-any-return]
    raise ValueError(f"{shard.name}: expected a process that lives long enough to leave it empty")


def _next(items: Iterator[Shard], count: int) -> Iterator[Shard]:
    for _ in range(count):
        item = next(items, None)
        if item is None:
            return
        yield item


@dataclass(frozen=True)
class _Refusal:
    """An error to be raised where the user sees it, without Ray's traceback."""

    kind: type[Exception]
    arguments: tuple[Any, ...]


def _value(task: Any) -> Any:
    """The result of a task; None if its process or machine died too often.

    Raises:
        ValueError, OSError: as the task did.
    """
    try:
        result = ray.get(task)
    except _LOST:
        return None
    if isinstance(result, _Refusal):
        raise result.kind(*result.arguments)
    return result


def _telling(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function; errors that are meant for the user become values."""
    _be_one_of_many()
    try:
        return function(*arguments)
    except OSError as error:
        return _Refusal(OSError, (error.errno, error.strerror or str(error), error.filename))
    except ValueError as error:
        return _Refusal(ValueError, (str(error),))


def _be_one_of_many() -> None:
    """Settings of a worker process."""
    import cv2

    cv2.setNumThreads(1)  # the tasks are the parallelism
    logging.basicConfig(level=logging.INFO)


@ray.remote(num_cpus=1, max_retries=RETRIES)
def _extract(shard: Shard, crashed: dict[str, str]) -> Any:
    return _telling(extract_shard, shard, crashed)


@ray.remote(num_cpus=1, max_retries=RETRIES)
def _try(shard: Shard, key: str) -> Any:
    _telling(try_image, shard, key)
    return True
