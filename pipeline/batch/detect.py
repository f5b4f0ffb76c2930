"""Who detects the images of a job: one process, with files read ahead and written behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from bpr.pipeline.batch.engine import (
    AHEAD,
    READERS,
    WRITERS,
    ImageOutcome,
    OpenedImage,
    Tell,
    open_image,
    write_image,
    write_prediction,
)
from bpr.pipeline.batch.job import ImageJob, Loaded
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.instance import Prediction, UInt8Array
from bpr.pipeline.plan import Answer
from bpr.pipeline.refine import plan, predict
from bpr.pipeline.runner import Runner
from bpr.pipeline.settings import PatchSettings
from bpr.pipeline.threads import map_ahead

Detect = Callable[[UInt8Array], Prediction]
"""(H, W, 3) uint8 RGB -> the instances in it."""


@dataclass(frozen=True, eq=False)
class Refinement:
    """How what was detected is refined before it is written."""

    runner: Runner  # of the network
    settings: PatchSettings


class _Detected(NamedTuple):
    key: str
    pixels: UInt8Array
    prediction: Prediction


def detect_images(
    job: ImageJob,
    detect: Detect,
    refinement: Refinement | None,
    journal: AnyJournal,
    tell: Tell,
) -> None:
    """Do all images of a job but those that the journal knows and that are still there.

    Args:
        job: whose images.
        detect: the detector.
        refinement: of its masks, on the one path of `bpr.pipeline.refine`; None leaves them.
        journal: of what earlier runs have done.
        tell: called with what became of each image, as soon as it is known, in this thread.

    Raises:
        OSError: the output cannot be written.
    """
    on_their_way: dict[str, OpenedImage] = {}

    def read(key: str) -> tuple[OpenedImage, Loaded] | ImageOutcome:
        return open_image(job, key, journal.read(key) if key in journal else None)

    def detected() -> Iterator[_Detected]:
        for item in map_ahead(read, job.keys(), READERS, AHEAD):
            if isinstance(item, ImageOutcome):
                tell(item)
            else:
                image, loaded = item
                height, width = loaded.image.shape[:2]
                try:
                    prediction = detect(loaded.image)
                except MemoryError:
                    reason = f"{image.key}: expected memory for {height} x {width} pixels, got less"
                    reason += "; smaller --scales or a smaller image need less"
                    tell(ImageOutcome(image.key, reason=reason))
                    continue
                on_their_way[image.key] = image
                yield _Detected(image.key, loaded.image, prediction)

    def write(found: _Detected) -> ImageOutcome:
        return write_prediction(job, on_their_way.pop(found.key), found.prediction, {})

    def write_refined(answer: Answer) -> ImageOutcome:
        return write_image(job, on_their_way.pop(answer.name), answer)

    if refinement is None:
        outcomes = map_ahead(write, detected(), WRITERS, AHEAD)
    else:
        plans = (
            plan(found.pixels, found.prediction, refinement.settings, found.key)
            for found in detected()
        )
        answers = predict(plans, refinement.runner)
        outcomes = map_ahead(write_refined, answers, WRITERS, AHEAD)
    for outcome in outcomes:
        tell(outcome)
