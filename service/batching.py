"""Patches of many requests through one network, a share of every batch for each.

A request has one patch or thousands. While several wait, half of each batch is divided among them
in turn, so that a small request is answered after a few batches, whatever stands before it. A
request of less than half a batch gets all it needs from one batch, which is made smaller for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bpr.pipeline.plan import Answer, Plan
from bpr.pipeline.runner import PendingImage, Runner

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


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


@dataclass(frozen=True)
class Standing:
    """How far a request is."""

    patches: int
    patches_done: int  # those in the batch that is running are counted too
    ahead: int  # requests that came before and are not finished


@dataclass(eq=False, kw_only=True)
class _Waiting:
    """A request whose patches are not all predicted."""

    pending: PendingImage
    patches: int  # in all
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
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._is_closed = False
        self._rate = 0.0  # patches a second while it runs; 0: not known yet
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
                self._line.append(
                    _Waiting(pending=pending, patches=planned.num_patches, future=future)
                )
                self._changed.notify()
        return future

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Run a function of the network between two batches; one after each batch.

        The future's exception is NetworkFailed or Closed where there is no answer.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._is_closed:
                future.set_exception(Closed())
            else:
                self._calls.append((function, future))
                self._changed.notify()
        return future

    @property
    def queued_patches(self) -> int:
        """Patches that somebody waits for and no batch holds yet."""
        with self._changed:
            return sum(w.pending.uncut for w in self._line if not w.future.done())

    def standing(self, future: Future[Predicted]) -> Standing | None:
        """How far a request is; None where it is not in line."""
        with self._changed:
            for waiting in self._line:
                if waiting.future is future:
                    earlier = (w for w in self._line if w.arrived < waiting.arrived)
                    ahead = sum(not w.future.done() for w in earlier)
                    done = waiting.patches - waiting.pending.uncut
                    return Standing(waiting.patches, done, ahead)
        return None

    def seconds_for(self, patches: int) -> float:
        """About how long a new request would take; 0 while the rate is not known.

        It is done when all patches are, or, by its share of the batches, earlier.
        """
        with self._changed:
            others = [w.pending.uncut for w in self._line if not w.future.done()]
            if not self._rate:
                return 0.0
            by_share = 2 * (len(others) + 1) * patches
            return min(sum(others) + patches, by_share) / self._rate

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
            for future in (*(w.future for w in self._line), *(f for _, f in self._calls)):
                _settle(future, Closed())
            self._line.clear()
            self._calls.clear()

    def _run_batch(self) -> bool:
        """Wait for a batch and run it; False at the end. Keeps nothing of it when it returns."""
        line = self._wait_for_work()
        if line is None:
            return False
        self._run_call()
        if not line:
            return True
        members: list[_Waiting] = []
        started = time.perf_counter()
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
            self._learn_rate(size / max(time.perf_counter() - started, 1e-6))
            for waiting in members:
                if waiting.pending.is_complete:
                    _settle(waiting.future, _predicted(waiting))
        with self._changed:
            # who got nothing is first next time; if all got something, another one is first
            waiting_longer = [waiting for waiting in self._line if waiting not in members]
            self._line = deque([*waiting_longer, *members[1:], *members[:1]])
        return True

    def _run_call(self) -> None:
        """Run the function that has waited for the longest time, if there is one."""
        with self._changed:
            if not self._calls:
                return
            function, future = self._calls.popleft()
        if future.done():
            return
        try:
            outcome = function()
        except Exception as error:  # as for a batch
            logger.exception("the network failed")
            outcome = NetworkFailed(str(error))
        _settle(future, outcome)

    def _learn_rate(self, measured: float) -> None:
        """An average in which the last ten batches count most."""
        self._rate = 0.9 * self._rate + 0.1 * measured if self._rate else measured

    def _wait_for_work(self) -> list[_Waiting] | None:
        """The line, once a batch is full or someone has waited enough; None at the end.

        It may be empty where a function is to be called.
        """
        with self._changed:
            while True:
                self._line = deque(w for w in self._line if not w.future.done())
                if self._is_closed:
                    return None
                if self._calls:
                    return list(self._line)
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
    """Half of a batch for the request that came first, the rest for all others in line, evenly.

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

    half = runner.batch_size // 2
    small = [waiting for waiting in line if waiting.patches <= half]
    large = [waiting for waiting in line if waiting.patches > half]
    if small and large:
        # the smaller the batch, the sooner the small ones are done; the oldest large one gets as
        # much as they do, so that no stream of small ones can stop it
        for waiting in sorted(small, key=lambda waiting: waiting.pending.uncut):
            if runner.room > half:
                give(waiting, runner.room - half)
        give(min(large, key=lambda waiting: waiting.arrived), runner.batch_size - runner.room)
        return members
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


def _settle(future: Future[Any], outcome: Any) -> None:
    """Give a future its outcome, unless it was cancelled in the meantime."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
