"""Who refines the images of a job: the steps of one image, and the engine of a single process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bpr.pipeline.batch.job import ImageJob, Job, Loaded
from bpr.pipeline.batch.journal import AnyJournal, Entry
from bpr.pipeline.instance import Box, Prediction, differing_pixels, grow
from bpr.pipeline.plan import Answer, Plan
from bpr.pipeline.refine import merge, plan, predict
from bpr.pipeline.runner import Runner
from bpr.pipeline.settings import PatchSettings
from bpr.pipeline.threads import map_ahead

READERS = 2  # threads that decode images and choose patches
WRITERS = 2  # threads that reassemble and encode masks
AHEAD = 4  # images read before the network needs them, and as many being written


@dataclass(frozen=True, eq=False)
class ImageOutcome:
    """What became of an image: refined, failed, or, with neither, done by an earlier run."""

    key: str
    entry: Mapping[str, Any] | None = None  # for the journal
    reason: str = ""  # why it failed


Tell = Callable[[ImageOutcome], None]


class RefineEngine(Protocol):
    """Takes every image of a job through its steps, in any order."""

    @property
    def input_size(self) -> int:
        """S of the network, in pixels."""

    def __call__(self, job: Job, settings: PatchSettings, journal: AnyJournal, tell: Tell) -> None:
        """Do all images of a job but those that the journal knows and that are still there.

        Args:
            job: what to refine.
            settings: how patches are cut.
            journal: of what earlier runs have done.
            tell: called with what became of each image, as soon as it is known, in this thread.

        Raises:
            OSError: the output cannot be written.
        """


@dataclass(frozen=True, eq=False)
class OpenedImage:
    """What is kept of an image on its way to its writing."""

    key: str
    stamp: str
    notes: tuple[str, ...] = ()
    source: Any = None  # of the job, for writing


def read_image(
    job: Job, key: str, known: Entry | None, settings: PatchSettings
) -> tuple[OpenedImage, Plan] | ImageOutcome:
    """Read an image and choose its patches; an outcome where there is nothing more to do.

    Args:
        job: whose image it is.
        key: of the image.
        known: what the journal knows of it.
        settings: how patches are cut.
    """
    opened = open_image(job, key, known)
    if isinstance(opened, ImageOutcome):
        return opened
    image, loaded = opened
    planned = plan(loaded.image, loaded.prediction, settings, key)
    if loaded.fill is not None:
        try:
            loaded.fill(_surroundings(planned))
        except ValueError as error:
            return ImageOutcome(key, reason=str(error))
    return image, planned


def _surroundings(planned: Plan) -> list[Box]:
    """All that refining may look at: patches, those of later passes too, and colours around."""
    found = []
    for instance, boxes in zip(planned.prediction.instances, planned.boxes, strict=True):
        if len(boxes):
            x0, y0, x1, y1 = instance.mask.window
            reach = max(x1 - x0, y1 - y0) + int(boxes[0, 2] - boxes[0, 0])
            margin = reach + planned.settings.padding
            found.append(grow(instance.mask.window, margin, planned.prediction.size))
    return found


def open_image(
    job: ImageJob, key: str, known: Entry | None
) -> tuple[OpenedImage, Loaded] | ImageOutcome:
    """Read an image unless the journal knows it as done; an outcome where it is or cannot be."""
    stamp = job.stamp(key)
    if known is not None and known["stamp"] == stamp and job.is_written(known):
        return ImageOutcome(key)
    try:
        loaded = job.read(key)
    except ValueError as error:
        return ImageOutcome(key, reason=str(error))
    except MemoryError:
        return ImageOutcome(key, reason=f"{key}: expected memory to read the image, got less")
    return OpenedImage(key, stamp, loaded.notes, loaded.source), loaded


def write_image(job: ImageJob, image: OpenedImage, answer: Answer) -> ImageOutcome:
    """Put the patches of an image back into its masks and write them."""
    refined = merge(answer)
    counted = {
        "patches": answer.num_patches,
        "changed_pixels": _changed_pixels(answer.prediction, refined),
    }
    return write_prediction(job, image, refined, counted)


def write_prediction(
    job: ImageJob, image: OpenedImage, prediction: Prediction, counted: Mapping[str, int]
) -> ImageOutcome:
    """Write the prediction and record it, with `counted`, in the journal."""
    entry = {
        "stamp": image.stamp,
        "instances": len(prediction.instances),
        **counted,
        "notes": list(image.notes),
        **job.write(image.key, image.source, prediction),
    }
    return ImageOutcome(image.key, entry)


class InThisProcess:
    """Images are read ahead and written behind the network by threads; memory holds a few.

    Args:
        runner: runs the network.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    @property
    def input_size(self) -> int:
        """S of the network, in pixels."""
        return self._runner.input_size

    def __call__(self, job: Job, settings: PatchSettings, journal: AnyJournal, tell: Tell) -> None:
        """Do all images of a job."""
        on_their_way: dict[str, OpenedImage] = {}

        def read(key: str) -> tuple[OpenedImage, Plan] | ImageOutcome:
            known = journal.read(key) if key in journal else None
            return read_image(job, key, known, settings)

        def plans() -> Iterator[Plan]:
            for item in map_ahead(read, job.keys(), READERS, AHEAD):
                if isinstance(item, ImageOutcome):
                    tell(item)
                else:
                    image, planned = item
                    on_their_way[image.key] = image
                    yield planned

        def write(answer: Answer) -> ImageOutcome:
            return write_image(job, on_their_way.pop(answer.name), answer)

        answers = predict(plans(), self._runner)
        for outcome in map_ahead(write, answers, WRITERS, AHEAD):
            tell(outcome)


def _changed_pixels(before: Prediction, after: Prediction) -> int:
    return sum(
        differing_pixels(coarse.mask, refined.mask)
        for coarse, refined in zip(before.instances, after.instances, strict=True)
    )
