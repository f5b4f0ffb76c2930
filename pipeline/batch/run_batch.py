"""The batch run: the images of a job done one by one, resumable, with a report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bpr.pipeline.batch.engine import ImageOutcome, RefineEngine, Tell
from bpr.pipeline.batch.job import ImageJob, Job
from bpr.pipeline.batch.journal import AnyJournal, OtherSetup, open_journal
from bpr.pipeline.files import write_atomically
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.settings import PatchSettings

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Failure:
    """An image that was left out, and why."""

    image: str
    reason: str


@dataclass(frozen=True)
class LeftInImage:
    """An object that stays as it is, though its image is done."""

    image: str
    object: LeftObject


@dataclass(frozen=True)
class Counted:
    """What a run does to an image, and what it counts there."""

    done: str  # "refined"
    counted: tuple[str, ...]  # numbers of a journal entry that are added up


REFINED = Counted("refined", ("instances", "patches", "changed_pixels"))

Work = Callable[[AnyJournal, Tell], None]
"""Does all images but those that the journal knows and that are still there; see `RefineEngine`."""


@dataclass(frozen=True, kw_only=True)
class BatchProgress:
    """How far a run is."""

    total: int  # images
    done: int = 0
    already_done: int = 0
    failures: tuple[Failure, ...] = ()
    counted: Mapping[str, int] = field(default_factory=dict)  # of this run, see `Counted`
    stale: tuple[str, ...] = ()  # failed or gone now, but an earlier run's results are there
    remarks: tuple[str, ...] = ()  # see `ImageJob`
    left: tuple[LeftInImage, ...] = ()  # objects that stay as they are, of all images that are done
    instances: int = 0  # of all images that are done, by earlier runs too

    @property
    def finished(self) -> int:
        """Images that need no more work."""
        return self.done + self.already_done + len(self.failures)


def run_batch(
    job: Job,
    engine: RefineEngine,
    settings: PatchSettings,
    about: Mapping[str, Any],
    overwrite: bool = False,
    on_progress: Callable[[BatchProgress], None] = lambda _: None,
) -> BatchProgress:
    """Refine what a job holds and write its report.

    Every finished image is in the journal: after a kill the same call goes on. Images that cannot
    be read are reported and left out.

    Args:
        job: what to refine.
        engine: who does it.
        settings: how patches are cut.
        about: what else the results depend on (weights, version), json-ready; a journal made
            with another `about` or other settings is not continued.
        overwrite: forget what earlier runs did.
        on_progress: called after every image.

    Raises:
        ValueError: the output belongs to a run with other settings, or to something else.
        OSError: the output cannot be written.
    """
    header = {
        "source": str(job.source.resolve()),
        "settings": asdict(settings),
        "input_size": engine.input_size,
        **about,
    }

    def work(journal: AnyJournal, tell: Tell) -> None:
        engine(job, settings, journal, tell)

    return run_images(job, work, header, REFINED, overwrite, on_progress)


def run_images(
    job: ImageJob,
    work: Work,
    header: Mapping[str, Any],
    tally: Counted,
    overwrite: bool = False,
    on_progress: Callable[[BatchProgress], None] = lambda _: None,
) -> BatchProgress:
    """Do something to all images of a job and write its report; see `run_batch`.

    Args:
        job: whose images.
        work: does them.
        header: all that the results depend on, json-ready: a journal made with another one is
            not continued.
        tally: what the report says of them.
        overwrite: forget what earlier runs did.
        on_progress: called after every image.

    Raises:
        ValueError: the output belongs to a run with another header, or to something else.
        OSError: the output cannot be written.
    """
    begun = (job.work / JOURNAL).exists()
    if not overwrite and not begun and (existing := job.existing_output()):
        raise ValueError(
            f"{existing}: exists, but not from a run that can be continued; "
            "choose another place or add --overwrite"
        )
    try:
        journal = open_journal(job.work / JOURNAL, header, start_over=overwrite)
    except OtherSetup as difference:
        raise ValueError(
            f"{job.work}: belongs to a run with another set-up ({difference}); "
            "choose another place or add --overwrite"
        ) from None
    with closing(journal):
        for torn in job.work.glob("*.partial"):
            torn.unlink()
        return _run(job, work, header, tally, journal, on_progress)


def _run(
    job: ImageJob,
    work: Work,
    header: Mapping[str, Any],
    tally: Counted,
    journal: AnyJournal,
    on_progress: Callable[[BatchProgress], None],
) -> BatchProgress:
    started = time.perf_counter()
    keys = job.keys()
    counts = _Counts(len(keys), tally, on_progress)

    def tell(outcome: ImageOutcome) -> None:
        if outcome.entry is not None:
            journal.append(outcome.key, outcome.entry)
            counts.finish(outcome.entry)
        elif outcome.reason:
            counts.fail(outcome.key, outcome.reason)
        else:
            counts.skip()

    work(journal, tell)
    order = {key: position for position, key in enumerate(keys)}
    failures = sorted(counts.progress.failures, key=lambda failure: order[failure.image])
    failed = {failure.image for failure in failures}
    job.finish(journal, failed)
    done = set(keys) - failed
    stale = [k for k in journal if k not in done and job.leaves_files(journal.read(k))]
    elapsed = time.perf_counter() - started
    done_entries = _DoneEntries.read(journal, [key for key in keys if key not in failed], tally)
    progress = replace(
        counts.progress,
        failures=tuple(failures),
        stale=tuple(stale),
        remarks=tuple(job.remarks),
        left=tuple(done_entries.left),
        instances=done_entries.instances,
    )
    report = _report(header, tally, progress, done_entries, elapsed)
    write_atomically(job.report, json.dumps(report, indent=1).encode() + b"\n", job.work)
    return progress


class _Counts:
    """The progress of a run, told to the caller as it changes."""

    def __init__(
        self, total: int, tally: Counted, on_progress: Callable[[BatchProgress], None]
    ) -> None:
        self.progress = BatchProgress(total=total, counted=dict.fromkeys(tally.counted, 0))
        self._tell = on_progress

    def skip(self) -> None:
        self._change(already_done=self.progress.already_done + 1)

    def fail(self, key: str, reason: str) -> None:
        self._change(failures=(*self.progress.failures, Failure(key, reason)))

    def finish(self, entry: Mapping[str, Any]) -> None:
        counted = {name: count + entry[name] for name, count in self.progress.counted.items()}
        self._change(done=self.progress.done + 1, counted=counted)

    def _change(self, **fields: Any) -> None:
        self.progress = replace(self.progress, **fields)
        self._tell(self.progress)


@dataclass(eq=False, kw_only=True)
class _DoneEntries:
    """What the journal says about the images that are done, by earlier runs too."""

    totals: dict[str, int]
    instances: int = 0
    left: list[LeftInImage] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)
    found_nothing: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, journal: AnyJournal, keys: Sequence[str], tally: Counted) -> _DoneEntries:
        """Add up the entries, one at a time: they may hold masks."""
        found = cls(totals=dict.fromkeys(tally.counted, 0))
        for key in keys:
            entry = journal.read(key)
            for name in found.totals:
                found.totals[name] += entry[name]
            left = [LeftInImage(key, LeftObject(**one)) for one in entry.get("left", ())]
            found.instances += entry["instances"]
            found.left += left
            found.found_nothing += [key] * (not entry["instances"] and not left)
            found.notes += [{"image": key, "note": note} for note in entry["notes"]]
        return found


def _report(
    header: Mapping[str, Any],
    tally: Counted,
    progress: BatchProgress,
    done: _DoneEntries,
    elapsed: float,
) -> dict[str, Any]:
    return {
        **header,
        "images": {
            "total": progress.total,
            tally.done: progress.done,
            "already_done": progress.already_done,
            "failed": len(progress.failures),
        },
        **done.totals,
        "elapsed_s": round(elapsed, 3),
        "failures": [asdict(failure) for failure in progress.failures],
        "stale": list(progress.stale),
        "remarks": list(progress.remarks),
        "left_as_they_are": [{"image": one.image, **asdict(one.object)} for one in progress.left],
        "notes": done.notes,
        "found_nothing": done.found_nothing,
    }
