"""One request, stage by stage: threads decode and encode, the batcher runs the network."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np

from bpr.pipeline.formats.images import encode_png
from bpr.pipeline.instance import (
    Float32Array,
    Instance,
    Int64Array,
    Mask,
    Prediction,
    UInt8Array,
)
from bpr.pipeline.network import LoadedNetwork
from bpr.pipeline.plan import Plan
from bpr.pipeline.refine import merge, plan
from bpr.pipeline.runner import Runner
from bpr.pipeline.settings import PatchSettings
from bpr.service.answers import (
    JSON,
    ZIP,
    describe_alpha,
    describe_instances,
    encode_cutout,
    encode_instance_map,
    encode_zip,
)
from bpr.service.batching import Batcher, Closed, NetworkFailed
from bpr.service.finding import find_instances
from bpr.service.inputs import (
    Patience,
    RequestInputs,
    Upload,
    no_standing,
    read_inputs,
    read_photograph,
)
from bpr.service.metrics import Metrics
from bpr.service.problems import draining, too_large, unavailable
from bpr.service.schemas import Model
from bpr.service.settings import ServiceSettings
from bpr.service.threads import end_of, result_of
from bpr.service.tracing import Tracing

if TYPE_CHECKING:  # a service without a detector starts without PyTorch
    from bpr.pipeline.detection import InstanceDetector

Result = TypeVar("Result")


@dataclass(frozen=True)
class Wish:
    """How the caller wants the answer."""

    media_type: str
    details: bool = False  # of every instance, in json
    alpha: bool = False  # probabilities of every instance, in json
    cutout: bool = False  # the objects on a transparent background, as PNG

    @property
    def is_soft(self) -> bool:
        """Whether the answer needs probabilities."""
        return self.alpha or self.cutout


@dataclass(frozen=True, eq=False, kw_only=True)
class RefinedRequest:
    """What a request came to, before it is encoded."""

    inputs: RequestInputs
    after: Prediction  # the refined instances, in the order of the inputs
    boxes: tuple[Int64Array, ...]  # per instance (N, 4), the patches that were redrawn
    timings: dict[str, float]  # seconds by stage

    @property
    def num_patches(self) -> int:
        """Patches of all instances."""
        return sum(len(boxes) for boxes in self.boxes)


@dataclass(frozen=True, eq=False)
class EncodedAnswer:
    """The body of an answer."""

    content: bytes
    timings: dict[str, float]  # seconds by stage, encoding included


class Refinery:
    """Refines uploads.

    Args:
        runner: of the network.
        network: the same, for patches that clients have cut themselves.
        detector: finds what is in images that come alone; None where there is no such thing.
        model: what answers say about them.
        patches: how patches are cut.
        settings: limits and sizes.
        metrics: told what was done.
        tracing: gets a span of every stage.
    """

    def __init__(
        self,
        *,
        runner: Runner,
        network: LoadedNetwork,
        detector: InstanceDetector | None,
        model: Model,
        patches: PatchSettings,
        settings: ServiceSettings,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self.model = model
        self.is_warm = False
        self._runner, self._network, self._detector = runner, network, detector
        self._patches, self._settings = patches, settings
        self._metrics, self._tracing = metrics, tracing
        cv2.setNumThreads(1)  # requests run beside each other already
        self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="stage")
        # one image at a time: detectors hold much memory, and use all cores alone
        self._detecting = ThreadPoolExecutor(1, thread_name_prefix="detector")
        self._batcher = Batcher(runner, settings.batch_wait_s, self._count_batch)
        metrics.watch(
            "bpr_queued_patches", "Patches that wait for a batch",
            lambda: self._batcher.queued_patches,
        )  # fmt: skip

    async def warm_up(self) -> None:
        """Refine a drawn disc: the first run is slow, and shows whether the network works at all.

        Raises:
            NetworkFailed: it does not.
        """
        await result_of(self._batcher.submit(_warm_up_plan(self._patches)))
        if self._detector is not None:
            side = self._runner.input_size
            image = np.zeros((side, side, 3), np.uint8)
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._detecting, self._detector, image)
        self.is_warm = True

    def close(self) -> None:
        """End the threads; requests on their way get a problem."""
        self.is_warm = False
        self._batcher.close()
        for pool in (self._detecting, self._pool):
            pool.shutdown(wait=True, cancel_futures=True)

    async def refine(
        self, read: Callable[[], RequestInputs], patience: Patience, soft: bool = False
    ) -> RefinedRequest:
        """Refine what a request holds.

        Cancelling stops it after the instance or the batch it is at; it returns when no thread
        works for it any more.

        Args:
            read: decodes the request; called in a thread.
            patience: of the caller.
            soft: whether the answer needs probabilities.

        Raises:
            Problem: as `read`; 413 too many patches; 503 out of time or the network failed.
        """
        started = time.perf_counter()
        with self._tracing.stage("read"):
            inputs = await self._in_thread(patience, read)
        return await self._run(inputs, {"decode": time.perf_counter() - started}, patience, soft)

    async def refine_upload(
        self, upload: Upload, patience: Patience, soft: bool = False
    ) -> RefinedRequest:
        """Refine the masks of an upload.

        Raises:
            Problem: see `read_inputs` and `refine`.
        """
        read = partial(read_inputs, upload, self._settings, patience)
        return await self.refine(read, patience, soft)

    async def segment(
        self, upload: Upload, patience: Patience, soft: bool = False
    ) -> RefinedRequest:
        """Find the instances of an image and refine them.

        Raises:
            Problem: see `read_photograph`, `find_instances` and `refine`.
        """
        started = time.perf_counter()
        with self._tracing.stage("read"):
            photograph = await self._in_thread(patience, read_photograph, upload, self._settings)
        timings = {"decode": time.perf_counter() - started}
        started = time.perf_counter()
        with self._tracing.stage("detect"):
            inputs = await self._in_thread(
                patience,
                find_instances,
                *(photograph, self._detector, self._settings, patience),
                pool=self._detecting,
            )
        timings["detect"] = time.perf_counter() - started
        return await self._run(inputs, timings, patience, soft)

    @property
    def patch_shape(self) -> tuple[int, int, int]:
        """S, S, C of the network's patches."""
        side = self._network.input_size
        return side, side, self._network.config.channels

    async def infer(self, patches: UInt8Array, patience: Patience) -> Float32Array:
        """Run the network on patches that a client has cut, in turn with the batches of others.

        Args:
            patches: (N, S, S, C) uint8, see `patch_shape`.
            patience: of the caller.

        Returns:
            (N, S, S) float32 logits of the object.

        Raises:
            Problem: 503 out of time or the network failed.
        """
        logits = np.empty(patches.shape[:3], np.float32)
        step = self._runner.batch_size
        started = time.perf_counter()
        with self._tracing.stage("network", patches=len(patches)):
            for start in range(0, len(patches), step):
                batch = patches[start : start + step]
                future = self._batcher.call(partial(self._network.predict, batch))
                predicted: Float32Array = await self._outcome(future, patience)
                logits[start : start + step] = predicted
                self._count_batch(len(batch))
        self._metrics.observe_stage("network", time.perf_counter() - started)
        return logits

    async def encode(
        self, refined: RefinedRequest, wish: Wish, image_name: str, patience: Patience
    ) -> EncodedAnswer:
        """Write an answer as the caller wants it.

        Args:
            refined: from `refine_upload` or `segment`.
            wish: the type of answer.
            image_name: of the uploaded file, for the names in a zip.
            patience: of the caller.
        """
        with self._tracing.stage("encode"):
            encoded = await self._in_thread(patience, self._encode, refined, wish, image_name)
        self._metrics.observe_stage("encode", encoded.timings["encode"])
        return encoded

    async def _run(
        self, inputs: RequestInputs, timings: dict[str, float], patience: Patience, soft: bool
    ) -> RefinedRequest:
        started = time.perf_counter()
        with self._tracing.stage("plan"):
            planned = await self._in_thread(patience, self._plan, inputs, patience, soft)
        timings["plan"] = time.perf_counter() - started
        patches = planned.num_patches
        self._check_hope(patches, patience)
        submitted = self._batcher.submit(planned)
        patience.standing = lambda: self._batcher.standing(submitted)
        del planned
        with self._tracing.stage("network", patches=patches):
            try:
                predicted = await self._outcome(submitted, patience)
            finally:
                # a closed connection keeps its patience until the next full garbage collection
                patience.standing = no_standing
        timings["queue"], timings["network"] = predicted.queue_s, predicted.network_s
        started = time.perf_counter()
        with self._tracing.stage("merge"):
            merged = await self._in_thread(patience, merge, predicted.answer)
        timings["merge"] = time.perf_counter() - started
        for stage, seconds in timings.items():
            self._metrics.observe_stage(stage, seconds)
        self._metrics.instances.inc(len(merged.instances))
        return RefinedRequest(
            inputs=inputs, after=merged, boxes=predicted.answer.boxes, timings=timings
        )

    async def _outcome(self, submitted: Future[Result], patience: Patience) -> Result:
        """What the batcher gives. Problem (503) where that is nothing."""
        try:
            return await asyncio.wait_for(result_of(submitted), patience.remaining_s)
        except asyncio.TimeoutError:
            raise patience.problem() from None
        except NetworkFailed:
            raise unavailable(
                "The network failed on these patches. Try again; the operator's log says why.",
                "network_failed",
            ) from None
        except Closed:
            raise draining() from None

    def _check_hope(self, patches: int, patience: Patience) -> None:
        """Problem (503) now rather than at the deadline, where a request cannot be done by then."""
        expected = self._batcher.seconds_for(patches)
        if expected > patience.remaining_s:
            raise unavailable(
                f"The service needs about {expected:.0f} s for these {patches} patches beside its "
                f"other work, and has {patience.remaining_s:.0f} s. Send fewer instances, or try "
                "again when there is less to do.",
                "no_hope",
                min(max(int(expected / 2), 2), 60),
            )

    async def _in_thread(
        self,
        patience: Patience,
        function: Callable[..., Result],
        *arguments: Any,
        pool: ThreadPoolExecutor | None = None,
    ) -> Result:
        """Run a stage in a pool. When cancelled, ask it to stop and wait until it has."""
        future = (pool or self._pool).submit(function, *arguments)
        try:
            await end_of(future)
            return future.result()
        except asyncio.CancelledError:
            patience.give_up()
            if not future.cancel():
                await end_of(future)
            raise
        finally:
            del future  # an exception of it holds this frame

    def _plan(self, inputs: RequestInputs, patience: Patience, soft: bool) -> Plan:
        """As `plan`, an instance at a time: a request over its limits stops in between."""
        boxes, total = [], 0
        for instance in inputs.prediction.instances:
            patience.check()
            alone = Prediction(inputs.prediction.size, (instance,))
            (own,) = plan(inputs.image, alone, self._patches).boxes
            boxes.append(own)
            total += len(own)
            if total > self._settings.max_patches:
                raise too_large(
                    f"instances: expected boundaries that at most {self._settings.max_patches} "
                    "patches cover, got longer ones. Send fewer instances at once.",
                    "patches",
                )
        return Plan(
            image=inputs.image,
            prediction=inputs.prediction,
            boxes=tuple(boxes),
            settings=replace(self._patches, soft=soft),
        )

    def _encode(self, refined: RefinedRequest, wish: Wish, image_name: str) -> EncodedAnswer:
        started = time.perf_counter()
        timings = dict(refined.timings)
        if wish.media_type == JSON:
            instances = describe_instances(
                refined.inputs.prediction, refined.after, refined.boxes, wish.details
            )
            if wish.alpha:
                for described, instance in zip(instances, refined.after.instances, strict=True):
                    described["alpha"] = describe_alpha(instance)
            timings["encode"] = time.perf_counter() - started
            height, width = refined.after.size
            answer = {
                "image": {"height": height, "width": width},
                "instances": instances,
                "patches": refined.num_patches,
                "changed_pixels": sum(item["changed_pixels"] for item in instances),
                "notes": list(refined.inputs.notes),
                "timings": {stage: round(seconds, 6) for stage, seconds in timings.items()},
                "model": self.model.model_dump(exclude_none=True),
            }
            return EncodedAnswer(json.dumps(answer, allow_nan=False).encode("ascii"), timings)
        if wish.media_type == ZIP:
            content = encode_zip(refined.after, image_name)
        elif wish.cutout:
            content = encode_cutout(refined.inputs.image, refined.after)
        elif refined.inputs.map is not None:
            masks = [instance.mask for instance in refined.after.instances]
            content = encode_png(refined.inputs.map.with_masks(masks))
        else:
            content = encode_instance_map(refined.after, refined.inputs.values)
        timings["encode"] = time.perf_counter() - started
        return EncodedAnswer(content, timings)

    def _count_batch(self, patches: int) -> None:
        if not self.is_warm:
            return  # nobody has asked for these
        self._metrics.patches.inc(patches)
        self._metrics.batch_fill.observe(patches / self._runner.batch_size)


def _warm_up_plan(patches: PatchSettings) -> Plan:
    """A disc on a grey image, with the patches along its boundary."""
    rows, columns = np.ogrid[:128, :128]
    disc = (rows - 64) ** 2 + (columns - 64) ** 2 < 48**2
    prediction = Prediction((128, 128), (Instance(mask=Mask.from_array(disc), label=0, score=1.0),))
    return plan(np.full((128, 128, 3), 127, np.uint8), prediction, patches)
