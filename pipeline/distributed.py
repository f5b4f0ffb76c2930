"""The batch jobs on Ray: a deterministic plan, plain tasks, and an actor pool for the network.

Ray schedules and retries. What is here bounds how much is on its way, finds the one image that
ends its process, and turns Ray's errors into ours. Results do not depend on any of it.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before ray is imported

import ray
from ray import exceptions

from bpr.pipeline.batch.engine import ImageOutcome, OpenedImage, Tell, read_image, write_image
from bpr.pipeline.batch.job import Job
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.extraction.shard import Shard, ShardResult, extract_shard, try_image
from bpr.pipeline.plan import Answer, Plan
from bpr.pipeline.refine import predict
from bpr.pipeline.runner import Runner
from bpr.pipeline.settings import PatchSettings

RETRIES = 2  # of a task whose process or machine died
BYTES_PER_IMAGE = 64_000_000  # 2048 x 1024 RGB with masks, and logits of 565 patches of 128 px
SECONDS_TO_TIDY_UP = 10.0
SECONDS_TO_RESTART = 120.0  # until an actor that died counts as lost
WAITING_PER_CPU = 2  # tasks submitted for each core: the next one is there when one ends
_LOST = (
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.ObjectLostError,
    exceptions.RayActorError,
)
logger = logging.getLogger(__name__)

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
        _knock(address)
        context = start_ray(how)
    except Exception as error:  # Ray raises that and no less where it does not start
        reason = str(error).splitlines()[0]
        wanted = (
            f"--ray-address {address}: expected a running Ray cluster"
            if workers is None
            else f"--workers {workers}: expected Ray to start"
        )
        raise ValueError(f"{wanted}, got: {reason}") from None
    try:
        yield Cluster(context.dashboard_url or None)
    finally:
        ray.shutdown()


def start_ray(how: dict[str, Any]) -> Any:
    """Start or join Ray; once more where a busy machine takes longer than Ray's 30 s."""
    try:
        return ray.init(**how)
    except Exception:
        if how["address"] != "local":
            raise
        ray.shutdown()
        return ray.init(**how)


def _knock(address: str | None) -> None:
    """OSError where nobody listens: Ray would try for minutes and then end this process."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@dataclass(frozen=True)
class Cluster:
    """The Ray that this process has joined."""

    dashboard_url: str | None  # host:port, where one runs

    @property
    def num_cpus(self) -> int:
        """Cores of all machines that are there now."""
        return max(int(_resource("CPU")), 1)

    @property
    def actors_that_fit(self) -> int:
        """Actors of half a core that leave half a core to tasks, beside others on the cluster."""
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        return max(int(2 * free.get("CPU", 0.0)) - 1, 1)

    @property
    def num_gpus(self) -> int:
        """GPUs of all machines that are there now."""
        return int(_resource("GPU"))

    @property
    def object_store_bytes(self) -> int:
        """Shared memory of all machines for what travels between processes."""
        return int(_resource("object_store_memory"))

    def extract(self, shards: Iterable[Shard]) -> Iterator[ShardResult]:
        """Have shards done by tasks; an engine of `bpr.pipeline.extraction.extract.extract`.

        An image that ends its process is found by trying each alone, and left out.
        """
        waiting = iter(shards)
        pending: dict[Any, Shard] = {}
        try:
            while True:
                room = WAITING_PER_CPU * self.num_cpus - len(pending)
                for shard in islice(waiting, max(room, 0)):
                    pending[_extract_task.remote(shard, {})] = shard
                if not pending:
                    return
                (done,), _ = ray.wait(list(pending), num_returns=1)
                shard = pending.pop(done)
                result = _value(done)
                yield result if result is not None else _without_the_culprit(shard)
        except BaseException:
            _call_off(list(pending))
            raise

    def refiner(self, load: Callable[[], Runner], input_size: int, device: str) -> RefiningCluster:
        """The engine that refines here.

        Args:
            load: makes the network's runner; called in the processes of the actors.
            input_size: S of the network, in pixels.
            device: auto (GPUs where there are some), cpu or cuda.
        """
        on_gpus = device == "cuda" or (device == "auto" and self.num_gpus > 0)
        return RefiningCluster(self, load, input_size, on_gpus)


class RefiningCluster:
    """Refines the images of a job; an engine of `bpr.pipeline.batch.run_batch.run_batch`.

    An image is a task that reads it and chooses its patches, a call of an actor that holds the
    network, and a task that reassembles and writes. Between them an image and its masks (bitmaps
    of their windows) travel once, and the logits of its patches once; where there is one machine
    nothing is copied. So many images are on their way as fit into Ray's object store.

    Args:
        cluster: where.
        load: makes the network's runner; called in the processes of the actors.
        input_size: S of the network, in pixels.
        on_gpus: an actor for each GPU; else one for each core.

    Raises:
        ValueError: the network cannot be made there, or there is no GPU.
    """

    def __init__(
        self,
        cluster: Cluster,
        load: Callable[[], Runner],
        input_size: int,
        on_gpus: bool,
    ) -> None:
        self.input_size = input_size
        self._cluster = cluster
        count = cluster.num_gpus if on_gpus else min(cluster.num_cpus, cluster.actors_that_fit)
        if count == 0:
            raise ValueError("--device cuda: expected a cluster with GPUs, found none")
        # Half a core each for the actors leaves the other half to the tasks: all find a place
        # whatever the number of cores, and both together fill it.
        actor = _network_actor.options(
            num_cpus=0.5, num_gpus=int(on_gpus), scheduling_strategy="SPREAD"
        )
        self._actors = [actor.remote(load, on_gpus) for _ in range(count)]
        for ready in [actor.load.remote() for actor in self._actors]:
            if _value(ready) is None:
                raise ValueError(
                    "network: expected it to load on the cluster, but its process died"
                )

    def __call__(self, job: Job, settings: PatchSettings, journal: AnyJournal, tell: Tell) -> None:
        """Do all images of a job."""
        run = _Refinement(job, settings, journal, tell, self._actors)
        keys = iter(job.keys())
        limit = max(self._cluster.object_store_bytes // BYTES_PER_IMAGE, 2)
        limit = min(limit, WAITING_PER_CPU * (self._cluster.num_cpus + len(self._actors)))
        try:
            while True:
                for key in islice(keys, max(limit - run.num_images, 0)):
                    run.begin(key)
                if run.num_images == 0:
                    return
                run.go_on()
        except BaseException:
            run.call_off()
            raise


@dataclass(frozen=True, eq=False, kw_only=True)
class _Step:
    """A step of an image that is being done."""

    kind: str  # read, predict or write
    key: str
    planned: Any = None  # reference to the image and its patches
    image: OpenedImage | None = None
    answer: Any = None  # reference to what the network says
    actor: int = -1
    attempt: int = 0  # of predicting it alone


class _Refinement:
    """The images on their way through a cluster."""

    def __init__(
        self, job: Job, settings: PatchSettings, journal: AnyJournal, tell: Tell, actors: list[Any]
    ) -> None:
        self._job, self._settings, self._journal, self._tell = job, settings, journal, tell
        self._actors = actors
        self._busy = [0] * len(actors)  # calls that each actor has
        self._steps: dict[Any, _Step] = {}  # by the reference that says when a step is done
        self._ready: deque[_Step] = deque()  # images that are read
        self._suspects: deque[_Step] = deque()  # images whose actor died
        self._is_tried_alone = False  # a suspect is: nothing else may die with it

    @property
    def num_images(self) -> int:
        """Images on their way."""
        return len(self._steps) + len(self._ready) + len(self._suspects)

    def begin(self, key: str) -> None:
        """Have an image read."""
        known = self._journal.read(key) if key in self._journal else None
        done, planned = _read_task.remote(self._job.part(key), key, known, self._settings)
        self._steps[done] = _Step(kind="read", key=key, planned=planned)

    def go_on(self) -> None:
        """Wait until some step is done and begin the next one of its image."""
        self._begin_predicting()
        (done,), _ = ray.wait(list(self._steps), num_returns=1)
        step = self._steps.pop(done)
        if step.kind == "predict":
            self._busy[step.actor] -= 1
            self._is_tried_alone = self._is_tried_alone and not step.attempt
        result = _value(done)
        if isinstance(result, ImageOutcome):
            self._tell(result)
        elif result is None and step.kind == "predict" and step.attempt < RETRIES:
            self._suspects.append(step)
        elif result is None:
            self._tell(ImageOutcome(step.key, reason=DIED))
        elif step.kind == "read":
            self._ready.append(replace(step, image=result))
        else:
            written = _write_task.remote(self._job.part(step.key), step.image, step.answer)
            self._steps[written] = _Step(kind="write", key=step.key)

    def call_off(self) -> None:
        """End what is on its way."""
        _call_off(list(self._steps))

    def _begin_predicting(self) -> None:
        """An actor that dies takes all its calls along: then each of them is tried alone."""
        if self._suspects and not any(self._busy):
            step = self._suspects.popleft()
            self._is_tried_alone = True
            _wait_for(self._actors[0])
            self._predict(replace(step, attempt=step.attempt + 1), 0)
        elif not self._suspects and not self._is_tried_alone:
            while self._ready:
                idlest = min(range(len(self._actors)), key=self._busy.__getitem__)
                self._predict(self._ready.popleft(), idlest)

    def _predict(self, step: _Step, actor: int) -> None:
        self._busy[actor] += 1
        done, answer = self._actors[actor].predict.remote(step.planned)
        self._steps[done] = replace(step, kind="predict", answer=answer, actor=actor)


def _wait_for(actor: Any) -> None:
    """Wait until an actor whose process died is there again: seconds on a busy machine."""
    end = time.monotonic() + SECONDS_TO_RESTART
    while time.monotonic() < end:
        try:
            ray.get(actor.load.remote())
        except exceptions.ActorUnavailableError:
            time.sleep(0.5)
        except _LOST:
            return
        else:
            return


def _call_off(tasks: list[Any]) -> None:
    """End tasks so that they remove what they have half-written: they see an interrupt."""
    for task in tasks:
        ray.cancel(task)
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=SECONDS_TO_TIDY_UP)


def _without_the_culprit(shard: Shard) -> ShardResult:
    """Do a shard whose task died, without the images that end their process also when alone."""
    tries = {key: _try_task.remote(shard, key) for key in shard.keys}
    crashed = {key: DIED for key, task in tries.items() if _value(task) is None}
    for without in (crashed, dict.fromkeys(shard.keys, f"{DIED}, with others of its shard")):
        result = _value(_extract_task.remote(shard, without))
        if result is not None:
            return result  # type: ignore[no-any-return]
    raise ValueError(f"{shard.name}: expected a process that lives long enough to leave it empty")


def _resource(name: str) -> float:
    return float(ray.cluster_resources().get(name, 0))  # type: ignore[no-untyped-call]


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


def _extract(shard: Shard, crashed: dict[str, str]) -> Any:
    return _telling(extract_shard, shard, crashed)


def _read(job: Job, key: str, known: Any, settings: PatchSettings) -> tuple[Any, Plan | None]:
    """What is known of the image, for the scheduling process, and its plan, for an actor."""
    _be_one_of_many()
    logger.info("image %s: reading", key)
    result = _telling(read_image, job, key, known, settings)
    if isinstance(result, ImageOutcome) and result.reason:
        logger.warning("image %s: %s", key, result.reason)
    return result if isinstance(result, tuple) else (result, None)


class _Network:
    """The network in a process of its own."""

    def __init__(self, load: Callable[[], Runner], on_gpu: bool) -> None:
        self._load, self._on_gpu = load, on_gpu
        self._runner: Runner | None = None

    @ray.method(max_task_retries=RETRIES)
    def load(self) -> Any:
        """Make the network; errors for the user become values. Waits for a restart."""
        refused = _telling(self._loaded)
        return refused if isinstance(refused, _Refusal) else True

    @ray.method(num_returns=2)
    def predict(self, planned: Plan) -> tuple[Any, Answer | None]:
        """Whether it went well, and the answer."""
        _be_one_of_many()
        logger.info("image %s: predicting", planned.name)
        (answer,) = predict([planned], self._loaded())
        return True, answer

    def _loaded(self) -> Runner:
        if self._runner is None:
            with nullcontext() if self._on_gpu else _one_core():
                self._runner = self._load()
        return self._runner


def _write(job: Job, image: OpenedImage, answer: Answer) -> Any:
    _be_one_of_many()
    logger.info("image %s: writing", image.key)
    return _telling(write_image, job, image, answer)


@contextmanager
def _one_core() -> Iterator[None]:
    """Let libraries that count the cores while they load see one: there is an actor for each."""
    if not hasattr(os, "sched_setaffinity"):  # only Linux can
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _try(shard: Shard, key: str) -> Any:
    _telling(try_image, shard, key)
    return True


# Ray's types know no tasks of several results.
_extract_task: Any = ray.remote(num_cpus=1, max_retries=RETRIES)(_extract)
_try_task: Any = ray.remote(num_cpus=1, max_retries=RETRIES)(_try)
_read_task: Any = ray.remote(num_cpus=0.5, max_retries=RETRIES, num_returns=2)(_read)
_write_task: Any = ray.remote(num_cpus=0.5, max_retries=RETRIES)(_write)
_network_actor: Any = ray.remote(max_restarts=-1)(_Network)
