"""Patches of many requests through one network, a share of every batch for each.

A request has one patch or thousands. While several wait, half of each batch is divided among them
in turn, so that a small request is answered after a few batches, whatever stands before it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from bpr.pipeline.plan import Answer, Plan
from bpr.pipeline.runner import PendingImage, Runner

logger = logging.getLogger(__name__)


class NetworkFailed(Exception):
    """The network could not be run on a batch that held patches of this request."""


class Closed(Exception):
    """The batcher was closed before it came to this request."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a request gets back."""

    answer: Answer
    queue_s: float  # from `submit` to the first patch that was cut
    network_s: float  # from there to the last answer


@dataclass(eq=False)
class _Waiting:
    """A request whose patches are not all predicted."""

    pending: PendingImage
    future: Future[Predicted]
    arrived: float = field(default_factory=time.perf_counter)
    begun: float | None = None


class Batcher:
    """Runs the network in a thread of its own, for whoever submits.

    Args:
        runner: runs the network; only the batcher's thread adds patches and runs it.
        wait_s: how long the first request of a batch that is not full waits for others.
        on_batch: told the number of patches of every batch that was run.
    """

    def __init__(
        self,
        runner: Runner,
        wait_s: float,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._runner, self._wait_s = runner, wait_s
        self._on_batch = on_batch
        self._changed = threading.Condition()
        self._line: deque[_Waiting] = deque()  # whoever is first gets the next share
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    def submit(self, planned: Plan) -> Future[Predicted]:
        """Put a request in line. Cancelling the future takes it out again.

        The future's exception is NetworkFailed or Closed where there is no answer.
        """
        pending = self._runner.open(planned)
        future: Future[Predicted] = Future()
        if pending.is_complete:
            future.set_result(Predicted(pending.answer(), 0.0, 0.0))
            return future
        with self._changed:
            if self._is_closed:
                future.set_exception(Closed())
            else:
                self._line.append(_Waiting(pending, future))
                self._changed.notify()
        return future

    @property
    def queued_patches(self) -> int:
        """Patches that somebody waits for and no batch holds yet."""
        with self._changed:
            return sum(w.pending.uncut for w in self._line if not w.future.done())

    def close(self) -> None:
        """Stop after the current batch; who still waits gets Closed."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._run_batch():
            pass
        with self._changed:
            for waiting in self._line:
                _settle(waiting.future, Closed())
            self._line.clear()

    def _run_batch(self) -> bool:
        """Wait for a batch and run it; False at the end. Keeps nothing of it when it returns."""
        line = self._wait_for_work()
        if line is None:
            return False
        members: list[_Waiting] = []
        try:
            members = _fill(self._runner, line)
            size = self._runner.batch_size - self._runner.room
            self._runner.run()
        except Exception as error:  # a bad batch must not end the service
            logger.exception("the network failed")
            for waiting in members or line:
                _settle(waiting.future, NetworkFailed(str(error)))
            self._runner.clear()
        else:
            self._on_batch(size)
            for waiting in members:
                if waiting.pending.is_complete:
                    _settle(waiting.future, _predicted(waiting))
        with self._changed:
            # who got nothing is first next time; if all got something, another one is first
            waiting_longer = [waiting for waiting in self._line if waiting not in members]
            self._line = deque([*waiting_longer, *members[1:], *members[:1]])
        return True

    def _wait_for_work(self) -> list[_Waiting] | None:
        """The line, once a batch is full or someone has waited enough; None at the end."""
        with self._changed:
            while True:
                self._line = deque(w for w in self._line if not w.future.done())
                if self._is_closed:
                    return None
                if not self._line:
                    self._changed.wait()
                    continue
                patches = sum(waiting.pending.uncut for waiting in self._line)
                oldest = min(waiting.arrived for waiting in self._line)
                remaining = oldest + self._wait_s - time.perf_counter()
                if patches >= self._runner.batch_size or remaining <= 0:
                    return list(self._line)
                self._changed.wait(remaining)


def _fill(runner: Runner, line: list[_Waiting]) -> list[_Waiting]:
    """Half of a batch for whoever came first, the rest for all others in line, evenly.

    The half makes equal requests end one after the other, so that some are decoded and encoded
    while others are predicted; the rest lets a small one pass a large one.

    Returns:
        Who got a share.
    """
    members: list[_Waiting] = []

    def give(waiting: _Waiting, share: int) -> None:
        if waiting.begun is None:
            waiting.begun = time.perf_counter()
        if waiting not in members:
            members.append(waiting)
        runner.add(waiting.pending, share)

    first = min(line, key=lambda waiting: waiting.arrived)
    others = [waiting for waiting in line if waiting is not first]
    give(first, runner.room - runner.room // 2 if others else runner.room)
    hungry = others
    while runner.room and hungry:
        share = max(runner.room // len(hungry), 1)
        for waiting in hungry:
            if runner.room == 0:
                break
            give(waiting, share)
        hungry = [waiting for waiting in hungry if waiting.pending.uncut]
    if runner.room:
        give(first, runner.room)
    return members


def _predicted(waiting: _Waiting) -> Predicted:
    now = time.perf_counter()
    begun = now if waiting.begun is None else waiting.begun
    return Predicted(waiting.pending.answer(), begun - waiting.arrived, now - begun)


def _settle(future: Future[Predicted], outcome: Predicted | Exception) -> None:
    """Give a future its outcome, unless it was cancelled in the meantime."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
