"""What the trainings of both networks share."""

from __future__ import annotations

import os
import signal
from itertools import count
from pathlib import Path

import pytest

from bpr._training_run import (
    Pace,
    SaveClock,
    computes_bfloat16,
    stop_on_signals,
    uses_bfloat16,
)
from tests.systems import needs_signals


def test_a_checkpoint_is_due_when_the_last_one_is_old_enough() -> None:
    clock = SaveClock(3, now=count().__next__)  # a second passes with every look
    assert [clock.is_due for _ in range(4)] == [False, False, True, True]
    clock.saved()
    assert not clock.is_due


@needs_signals
def test_the_second_signal_interrupts_at_once() -> None:
    own = {
        number: signal.signal(number, signal.default_int_handler)  # a shell may have it ignored
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    with stop_on_signals() as stop:
        assert not stop.is_made
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_made
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    for number, before in own.items():
        assert signal.signal(number, before) is signal.default_int_handler


@needs_signals
def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert not stop.is_made
    signal.signal(signal.SIGINT, before)


def test_time_left_is_told_from_the_first_step_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    pace = Pace(first=100, last=200)
    now[0] = 60.0
    assert pace.time_left(100) == "time left unknown"
    assert pace.time_left(101) == "about 1 h 39 min left"
    assert pace.time_left(120) == "about 4 min left"
    assert pace.time_left(200) == "less than a minute left"


def test_bfloat16_is_chosen_by_looking_at_the_processor() -> None:
    assert uses_bfloat16("bfloat16", "cpu")
    assert not uses_bfloat16("float32", "cpu")
    assert uses_bfloat16("auto", "cpu") == computes_bfloat16("cpu")
    facts = Path("/proc/cpuinfo")
    if not facts.exists():
        pytest.skip("the processor's abilities are listed on Linux only")
    listed = facts.read_text()
    assert computes_bfloat16("cpu") == any(n in listed for n in ("avx512_bf16", "amx_tile"))
