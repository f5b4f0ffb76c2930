"""What a batch command says at its end."""

from __future__ import annotations

import sys

from bpr._paths import AnyPath
from bpr.pipeline.batch.run_batch import BatchProgress
from bpr.scripts.main import INPUT_FAILED
from bpr.scripts.options import print_some


def conclude(
    progress: BatchProgress, done: str, counted: str, report: AnyPath, is_quiet: bool = False
) -> int:
    """Print what became of the images.

    Args:
        progress: at the end of the run.
        done: what was done to them.
        counted: name of what was counted.
        report: where all of it stands.
        is_quiet: print only what went wrong.

    Returns:
        The exit status.
    """
    summary = (
        f"{progress.done} of {progress.total} images {done} ({counted}), "
        f"{progress.already_done} already done, {len(progress.failures)} failed. "
        f"Report: {report}"
    )
    if not is_quiet:
        print(summary)
    failures = [f"{failure.image}: {failure.reason}" for failure in progress.failures]
    left = [f"{one.image}, {one.object.name}: {one.object.reason}" for one in progress.left]
    for remark in progress.remarks if not is_quiet else ():
        print(f"note: {remark}", file=sys.stderr)
    print_some("still holds an earlier result of", progress.stale, f", all in {report}")
    print_some("left as it is", left, f", all in {report}")
    print_some("failed", failures, f", all in {report}")
    is_damaged = any(one.object.is_damaged for one in progress.left)
    return INPUT_FAILED if progress.failures or is_damaged else 0


def explain_nothing(progress: BatchProgress, source: AnyPath) -> int:
    """Say so where a run refined no object at all; returns the exit status.

    Images that are known to have no object (empty label files, what `bpr detect` recorded) are
    no reason to fail: then nothing was left alone.
    """
    nothing_left = not (progress.left or progress.remarks or progress.failures)
    if progress.instances or (progress.total and nothing_left):
        return 0
    print(
        f"{source}: expected objects to refine, found none; {len(progress.left)} objects left as "
        "they are in images that were read, and what the notes above name",
        file=sys.stderr,
    )
    return INPUT_FAILED
