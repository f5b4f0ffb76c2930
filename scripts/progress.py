"""Progress on stderr: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0


def per_second() -> Callable[[int], str]:
    """Start timing. The returned function formats a count as a rate ("12/s")."""
    started = time.monotonic()

    def say(count: int) -> str:
        return f"{count / max(time.monotonic() - started, 1e-3):.0f}/s"

    return say


class ProgressLine:
    """Shows how much of a total is done.

    Args:
        what: plural noun of what is counted.
        total: how many there are.
        at_once: whether a plain line is printed for the first item, before any seconds have
            passed.
        is_quiet: show nothing.
    """

    def __init__(
        self, what: str, total: int, at_once: bool = False, is_quiet: bool = False
    ) -> None:
        self._what, self._total, self._is_quiet = what, total, is_quiet
        shows_bar = sys.stderr.isatty() and not is_quiet
        self._bar = tqdm(total=total, unit=f" {what}") if shows_bar else None
        self._last = -SECONDS_BETWEEN_LINES if at_once else time.monotonic()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, remark: str) -> None:
        """Update to `done`, with a short remark behind."""
        if self._bar is not None:
            self._bar.set_postfix_str(remark, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if not self._is_quiet and now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            print(f"{done} of {self._total} {self._what}, {remark}", file=sys.stderr, flush=True)
