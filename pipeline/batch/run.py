"""The batch run: read, refine and write a job's images, overlapped, resumable, with a report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.batch.job import Job
from pipeline.batch.journal import Journal, OtherSetup
from pipeline.files import write_atomically
from pipeline.instance import Prediction, differing_pixels
from pipeline.predictor import MaskPredictor
from pipeline.refine import Answer, Plan, merge, plan, predict
from pipeline.settings import PatchSettings
from pipeline.threads import map_ahead

JOURNAL = "journal.jsonl"
READERS = 2  # threads that decode images and choose patches
WRITERS = 2  # threads that reassemble and encode masks
AHEAD = 4  # images read before the network needs them, and as many being written


@dataclass(frozen=True)
class Failure:
    """An image that was left out, and why."""

    image: str
    reason: str


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    total: int  # images
    refined: int = 0
    already_done: int = 0
    failures: tuple[Failure, ...] = ()
    patches: int = 0  # of this run
    stale: tuple[str, ...] = ()  # failed or gone now, but an earlier run's results are there

    @property
    def finished(self) -> int:
        """Images that need no more work."""
        return self.refined + self.already_done + len(self.failures)


def run_batch(
    job: Job,
    predictor: MaskPredictor,
    settings: PatchSettings,
    batch_size: int,
    about: Mapping[str, Any],
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Refine what a job holds and write its report.

    Images are read ahead and written behind the network by threads; memory holds a few images,
    whatever the size of the job. Every finished image is in the journal: after a kill the same
    call goes on. Images that cannot be read are reported and left out.

    Args:
        job: what to refine.
        predictor: the network.
        settings: how patches are cut.
        batch_size: patches predicted together.
        about: what else the results depend on (weights, version), json-ready; a journal made
            with another `about` or other settings is not continued.
        overwrite: forget what earlier runs did.
        on_progress: called after every image.

    Raises:
        ValueError: the output belongs to a run with other settings, or to something else.
        OSError: the output cannot be written.
    """
    if batch_size <= 0:
        raise ValueError(f"batch_size: expected an int > 0, got {batch_size}")
    begun = (job.work / JOURNAL).exists()
    if not overwrite and not begun and (existing := job.existing_output()):
        raise ValueError(
            f"{existing}: exists, but not from a run that can be continued; "
            "choose another place or add --overwrite"
        )
    header = {
        "source": str(job.source.resolve()),
        "settings": asdict(settings),
        "input_size": predictor.input_size,
        **about,
    }
    try:
        journal = Journal(job.work / JOURNAL, header, start_over=overwrite)
    except OtherSetup as difference:
        raise ValueError(
            f"{job.work}: belongs to a run with another set-up ({difference}); "
            "choose another place or add --overwrite"
        ) from None
    with closing(journal):
        for torn in job.work.glob("*.partial"):
            torn.unlink()
        return _run(job, predictor, settings, batch_size, header, journal, on_progress)


@dataclass(frozen=True, eq=False)
class _Read:
    """What is kept of an image on its way, or why it is not."""

    key: str
    stamp: str
    notes: tuple[str, ...] = ()
    source: Any = None  # of the job, for writing
    reason: str = ""
    is_done: bool = False


def _run(
    job: Job,
    predictor: MaskPredictor,
    settings: PatchSettings,
    batch_size: int,
    header: Mapping[str, Any],
    journal: Journal,
    on_progress: Callable[[Progress], None],
) -> Progress:
    started = time.perf_counter()
    keys = job.keys()
    counts = _Counts(len(keys), on_progress)

    def read(key: str) -> tuple[_Read, Plan | None]:
        stamp = job.stamp(key)
        if key in journal:
            entry = journal.read(key)
            if entry["stamp"] == stamp and job.is_written(entry):
                return _Read(key, stamp, is_done=True), None
        try:
            loaded = job.read(key)
        except ValueError as error:
            return _Read(key, stamp, reason=str(error)), None
        planned = plan(loaded.image, loaded.prediction, settings, key)
        return _Read(key, stamp, loaded.notes, loaded.source), planned

    on_their_way: dict[str, _Read] = {}

    def plans() -> Iterator[Plan]:
        for item, planned in map_ahead(read, keys, READERS, AHEAD):
            if planned is not None:
                on_their_way[item.key] = item
                yield planned
            elif item.is_done:
                counts.skip()
            else:
                counts.fail(item.key, item.reason)

    def write(answer: Answer) -> tuple[_Read, Mapping[str, Any]]:
        item = on_their_way.pop(answer.name)
        refined = merge(answer)
        entry = {
            "stamp": item.stamp,
            "instances": len(refined.instances),
            "patches": answer.num_patches,
            "changed_pixels": _changed_pixels(answer.prediction, refined),
            "notes": list(item.notes),
            **job.write(item.key, item.source, refined),
        }
        return item, entry

    answers = predict(plans(), predictor, batch_size)
    for item, entry in map_ahead(write, answers, WRITERS, AHEAD):
        journal.append(item.key, entry)
        counts.finish(entry["patches"])
    failed = {failure.image for failure in counts.progress.failures}
    job.finish(journal, failed)
    done = set(keys) - failed
    stale = [k for k in journal if k not in done and job.leaves_files(journal.read(k))]
    elapsed = time.perf_counter() - started
    progress = replace(counts.progress, stale=tuple(stale))
    report = _report(header, progress, keys, journal, elapsed)
    write_atomically(job.report, json.dumps(report, indent=1).encode() + b"\n", job.work)
    return progress


class _Counts:
    """The progress of a run, told to the caller as it changes."""

    def __init__(self, total: int, on_progress: Callable[[Progress], None]) -> None:
        self.progress = Progress(total)
        self._tell = on_progress

    def skip(self) -> None:
        self._change(already_done=self.progress.already_done + 1)

    def fail(self, key: str, reason: str) -> None:
        self._change(failures=(*self.progress.failures, Failure(key, reason)))

    def finish(self, patches: int) -> None:
        self._change(refined=self.progress.refined + 1, patches=self.progress.patches + patches)

    def _change(self, **fields: Any) -> None:
        self.progress = replace(self.progress, **fields)
        self._tell(self.progress)


def _changed_pixels(before: Prediction, after: Prediction) -> int:
    return sum(
        differing_pixels(coarse.mask, refined.mask)
        for coarse, refined in zip(before.instances, after.instances, strict=True)
    )


def _report(
    header: Mapping[str, Any],
    progress: Progress,
    keys: Sequence[str],
    journal: Journal,
    elapsed: float,
) -> dict[str, Any]:
    failed = {failure.image for failure in progress.failures}
    totals = {"instances": 0, "patches": 0, "changed_pixels": 0}
    notes = []
    for key in keys:  # the journal may also know images that are no longer there
        if key not in failed:
            entry = journal.read(key)
            for name in totals:
                totals[name] += entry[name]
            notes += [{"image": key, "note": note} for note in entry["notes"]]
    return {
        **header,
        "images": {
            "total": progress.total,
            "refined": progress.refined,
            "already_done": progress.already_done,
            "failed": len(failed),
        },
        **totals,
        "elapsed_s": round(elapsed, 3),
        "failures": [asdict(failure) for failure in progress.failures],
        "stale": list(progress.stale),
        "notes": notes,
    }
