"""What a batch command says at its end."""

from __future__ import annotations

from pathlib import Path

from bpr.pipeline.batch.run_batch import BatchProgress
from bpr.scripts.main import INPUT_FAILED
from bpr.scripts.options import print_some


def conclude(progress: BatchProgress, done: str, counted: str, report: Path) -> int:
    """Print what became of the images.

    Args:
        progress: at the end of the run.
        done: what was done to them.
        counted: what was counted, in words.
        report: where all of it stands.

    Returns:
        The exit status.
    """
    print(
        f"{progress.done} of {progress.total} images {done} ({counted}), "
        f"{progress.already_done} already done, {len(progress.failures)} failed. "
        f"Report: {report}"
    )
    failures = [f"{failure.image}: {failure.reason}" for failure in progress.failures]
    print_some("still holds an earlier result of", progress.stale, f", all in {report}")
    print_some("failed", failures, f", all in {report}")
    return INPUT_FAILED if progress.failures else 0
