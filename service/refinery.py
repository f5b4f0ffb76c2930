"""One request, stage by stage: threads decode and encode, the batcher runs the network."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np

from bpr.pipeline.instance import Prediction
from bpr.pipeline.predictor import MaskPredictor
from bpr.pipeline.refine import Plan, merge, plan
from bpr.pipeline.settings import PatchSettings
from bpr.service.answers import (
    JSON,
    ZIP,
    Refined,
    describe_instances,
    encode_instance_map,
    encode_zip,
)
from bpr.service.batching import Batcher, Closed, NetworkFailed
from bpr.service.finding import find_instances
from bpr.service.inputs import Patience, RequestInputs, Upload, read_inputs, read_photograph
from bpr.service.metrics import Metrics
from bpr.service.problems import draining, too_large, unavailable
from bpr.service.schemas import Model
from bpr.service.settings import ServiceSettings

if TYPE_CHECKING:  # a service without a detector starts without PyTorch
    from bpr.pipeline.detection import InstanceDetector

Result = TypeVar("Result")


@dataclass(frozen=True)
class Wish:
    """How the caller wants the answer."""

    media_type: str
    details: bool = False  # of every instance, in json


@dataclass(frozen=True, eq=False)
class RefineryAnswer:
    """A finished answer."""

    content: bytes
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage
    instances: int = 0
    patches: int = 0


class Refinery:
    """Refines uploads.

    Args:
        predictor: the network.
        detector: finds what is in images that come alone; None where there is no such thing.
        model: what answers say about them.
        patches: how patches are cut.
        settings: limits and sizes.
        metrics: told what was done.
    """

    def __init__(
        self,
        predictor: MaskPredictor,
        detector: InstanceDetector | None,
        model: Model,
        patches: PatchSettings,
        settings: ServiceSettings,
        metrics: Metrics,
    ) -> None:
        self.model = model
        self.is_warm = False
        self._predictor, self._detector = predictor, detector
        self._patches, self._settings = patches, settings
        self._metrics = metrics
        cv2.setNumThreads(1)  # requests run beside each other already
        self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="stage")
        # one image at a time: detectors hold much memory, and use all cores alone
        self._detecting = ThreadPoolExecutor(1, thread_name_prefix="detector")
        self._batcher = Batcher(
            predictor, settings.batch_size, settings.batch_wait_s, self._count_batch
        )
        metrics.watch(
            "bpr_queued_patches", "Patches that wait for a batch",
            lambda: self._batcher.queued_patches,
        )  # fmt: skip

    async def warm_up(self) -> None:
        """Run one full batch: the first is slow, and shows whether the network works at all."""
        side = self._predictor.input_size
        batch = np.zeros((self._settings.batch_size, side, side, 4), np.uint8)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._pool, self._predictor, batch)
        if self._detector is not None:
            await loop.run_in_executor(self._detecting, self._detector, batch[0, ..., :3])
        self.is_warm = True

    def close(self) -> None:
        """End the threads; requests on their way get a problem."""
        self.is_warm = False
        self._batcher.close()
        for pool in (self._detecting, self._pool):
            pool.shutdown(wait=True, cancel_futures=True)

    async def refine(self, upload: Upload, wish: Wish, patience: Patience) -> RefineryAnswer:
        """Refine an upload.

        Cancelling stops it after the instance or the batch it is at; it returns when no thread
        works for it any more.

        Raises:
            Problem: see `read_inputs`; 413 too many patches; 503 out of time or the network
                failed.
        """
        started = time.perf_counter()
        inputs = await self._in_thread(patience, read_inputs, upload, self._settings, patience)
        timings = {"decode": time.perf_counter() - started}
        return await self._answer(inputs, upload.image_name, timings, wish, patience)

    async def segment(self, upload: Upload, wish: Wish, patience: Patience) -> RefineryAnswer:
        """Find the instances of an image and refine them.

        Raises:
            Problem: see `read_photograph`, `find_instances` and `refine`.
        """
        started = time.perf_counter()
        photograph = await self._in_thread(patience, read_photograph, upload, self._settings)
        timings = {"decode": time.perf_counter() - started}
        started = time.perf_counter()
        inputs = await self._in_thread(
            patience,
            find_instances,
            *(photograph, self._detector, self._settings, patience),
            pool=self._detecting,
        )
        timings["detect"] = time.perf_counter() - started
        return await self._answer(inputs, upload.image_name, timings, wish, patience)

    async def _answer(
        self,
        inputs: RequestInputs,
        image_name: str,
        timings: dict[str, float],
        wish: Wish,
        patience: Patience,
    ) -> RefineryAnswer:
        started = time.perf_counter()
        planned = await self._in_thread(patience, self._plan, inputs, patience)
        timings["plan"] = time.perf_counter() - started
        submitted = self._batcher.submit(planned)
        num_patches = planned.num_patches
        del planned
        try:
            predicted = await asyncio.wait_for(asyncio.wrap_future(submitted), patience.remaining_s)
        except asyncio.TimeoutError:
            raise patience.problem() from None
        except NetworkFailed:
            raise unavailable(
                "The network failed on these patches. Try again; the operator's log says why.",
                "network_failed",
            ) from None
        except Closed:
            raise draining() from None
        timings["queue"], timings["network"] = predicted.queue_s, predicted.network_s
        started = time.perf_counter()
        merged = await self._in_thread(patience, merge, predicted.answer)
        timings["merge"] = time.perf_counter() - started
        refined = Refined(inputs.prediction, merged, predicted.answer.boxes)
        content = await self._in_thread(
            patience, self._encode, inputs, refined, wish, image_name, timings
        )
        for stage, seconds in timings.items():
            self._metrics.observe_stage(stage, seconds)
        self._metrics.instances.inc(len(merged.instances))
        return RefineryAnswer(content, timings, len(merged.instances), num_patches)

    async def _in_thread(
        self,
        patience: Patience,
        function: Callable[..., Result],
        *arguments: Any,
        pool: ThreadPoolExecutor | None = None,
    ) -> Result:
        """Run a stage in a pool. When cancelled, ask it to stop and wait until it has."""
        future = (pool or self._pool).submit(function, *arguments)
        wrapped = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(wrapped)
        except asyncio.CancelledError:
            patience.give_up()
            if not future.cancel():
                await asyncio.wait([wrapped])
            raise

    def _plan(self, inputs: RequestInputs, patience: Patience) -> Plan:
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
        return Plan(inputs.image, inputs.prediction, tuple(boxes), self._patches)

    def _encode(
        self,
        inputs: RequestInputs,
        refined: Refined,
        wish: Wish,
        image_name: str,
        timings: dict[str, float],
    ) -> bytes:
        started = time.perf_counter()
        if wish.media_type == JSON:
            instances = describe_instances(refined, wish.details)
            timings["encode"] = time.perf_counter() - started
            height, width = refined.after.size
            answer = {
                "image": {"height": height, "width": width},
                "instances": instances,
                "patches": sum(len(boxes) for boxes in refined.boxes),
                "changed_pixels": sum(item["changed_pixels"] for item in instances),
                "notes": list(inputs.notes),
                "timings": {stage: round(seconds, 6) for stage, seconds in timings.items()},
                "model": self.model.model_dump(exclude_none=True),
            }
            return json.dumps(answer, allow_nan=False).encode("ascii")
        if wish.media_type == ZIP:
            content = encode_zip(refined.after, image_name)
        else:
            content = encode_instance_map(refined.after, inputs.values)
        timings["encode"] = time.perf_counter() - started
        return content

    def _count_batch(self, patches: int) -> None:
        self._metrics.patches.inc(patches)
        self._metrics.batch_fill.observe(patches / self._settings.batch_size)
