"""The batch run: a job's images done by an engine, resumable, with a report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.batch.engine import Engine, Outcome
from pipeline.batch.job import Job
from pipeline.batch.journal import AnyJournal, OtherSetup, open_journal
from pipeline.files import write_atomically
from pipeline.settings import PatchSettings

JOURNAL = "journal.jsonl"


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
    engine: Engine,
    settings: PatchSettings,
    about: Mapping[str, Any],
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
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
    begun = (job.work / JOURNAL).exists()
    if not overwrite and not begun and (existing := job.existing_output()):
        raise ValueError(
            f"{existing}: exists, but not from a run that can be continued; "
            "choose another place or add --overwrite"
        )
    header = {
        "source": str(job.source.resolve()),
        "settings": asdict(settings),
        "input_size": engine.input_size,
        **about,
    }
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
        return _run(job, engine, settings, header, journal, on_progress)


def _run(
    job: Job,
    engine: Engine,
    settings: PatchSettings,
    header: Mapping[str, Any],
    journal: AnyJournal,
    on_progress: Callable[[Progress], None],
) -> Progress:
    started = time.perf_counter()
    keys = job.keys()
    counts = _Counts(len(keys), on_progress)

    def tell(outcome: Outcome) -> None:
        if outcome.entry is not None:
            journal.append(outcome.key, outcome.entry)
            counts.finish(outcome.entry["patches"])
        elif outcome.reason:
            counts.fail(outcome.key, outcome.reason)
        else:
            counts.skip()

    engine(job, settings, journal, tell)
    order = {key: position for position, key in enumerate(keys)}
    failures = sorted(counts.progress.failures, key=lambda failure: order[failure.image])
    failed = {failure.image for failure in failures}
    job.finish(journal, failed)
    done = set(keys) - failed
    stale = [k for k in journal if k not in done and job.leaves_files(journal.read(k))]
    elapsed = time.perf_counter() - started
    progress = replace(counts.progress, failures=tuple(failures), stale=tuple(stale))
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


def _report(
    header: Mapping[str, Any],
    progress: Progress,
    keys: Sequence[str],
    journal: AnyJournal,
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
