"""What the trainings of both networks share: processes, checkpoints and CSV logs."""

from __future__ import annotations

import csv
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from bpr._replace import replace_file


@dataclass(frozen=True)
class Process:
    """This process among those that train one network together."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"  # "cpu", "cuda" or "cuda:<index>"

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and talks."""
        return self.rank == 0

    def shared(self, network: nn.Module) -> nn.Module:
        """The network as the processes train it: gradients are averaged over all of them."""
        return DistributedDataParallel(network) if self.count > 1 else network


ALONE = Process()


@contextmanager
def joined(device: str) -> Iterator[Process]:
    """Join the processes that torchrun started (its variables are in the environment).

    Args:
        device: "auto", "cpu" or "cuda"; with several processes each takes a GPU of its own.

    Raises:
        ValueError: there is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: expected a GPU that PyTorch can use, got none")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Process(device=device)
        return
    if device == "cuda":
        index = int(os.environ["LOCAL_RANK"])
        if index >= torch.cuda.device_count():
            raise ValueError(
                f"torchrun --nproc-per-node: expected at most {torch.cuda.device_count()} "
                "processes, one for each GPU of a machine"
            )
        torch.cuda.set_device(index)
        device = f"cuda:{index}"
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Process(distributed.get_rank(), count, device)
    finally:
        distributed.destroy_process_group()


CHECKPOINT_S = 300.0
"""Seconds between checkpoints: what a power cut costs at most."""


class Interrupted(KeyboardInterrupt):
    """A training was stopped by Ctrl-C or SIGTERM, after its state was saved.

    Args:
        step: that was saved.
        checkpoint: the file.
    """

    def __init__(self, step: int, checkpoint: Path) -> None:
        super().__init__(f"saved after step {step} to {checkpoint}")


@dataclass
class StopRequest:
    """Whether somebody has asked for an end."""

    is_made: bool = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Let a step be finished and saved when Ctrl-C or SIGTERM comes.

    The second signal interrupts at once, as it does elsewhere. A signal that is ignored (Ctrl-C,
    by a command in the background) stays so. Outside of the main thread, where signals cannot be
    taken, the request is never made.
    """
    request = StopRequest()
    known = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in known.items() if handler != signal.SIG_IGN}

    def ask(_number: int, _frame: object) -> None:
        if request.is_made:
            raise KeyboardInterrupt
        request.is_made = True

    try:
        for number in before:
            signal.signal(number, ask)
    except ValueError:  # another thread than the main one
        before = {}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class SaveClock:
    """When a training saves its state: by time, so that a kill costs minutes at most.

    Args:
        every_s: seconds from one checkpoint to the next.
        now: the clock, in seconds.
    """

    every_s: float = CHECKPOINT_S
    now: Callable[[], float] = time.monotonic
    _saved_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._saved_at = self.now()

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is as old as it may be."""
        return self.now() - self._saved_at >= self.every_s

    def saved(self) -> None:
        """Note that a checkpoint was written."""
        self._saved_at = self.now()


class Pace:
    """How long a training still takes, from the steps of this run.

    Args:
        first: step at which the run begins.
        last: step at which it ends.
    """

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last, self._started = first, last, time.monotonic()

    def time_left(self, step: int) -> str:
        """In words, after a step: "about 3 h 05 min left"."""
        done = step - self._first
        if done <= 0:
            return "time left unknown"
        minutes = (time.monotonic() - self._started) / done * (self._last - step) / 60
        if minutes < 1:
            return "less than a minute left"
        hours, rest = divmod(round(minutes), 60)
        return f"about {hours} h {rest:02} min left" if hours else f"about {rest} min left"


def computes_bfloat16(device: str) -> bool:
    """Whether a device multiplies matrices in bfloat16: elsewhere it is several times slower.

    Args:
        device: "cpu" or of a GPU.
    """
    if device != "cpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # oneDNN says yes on every processor with AVX-512, and then emulates
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def uses_bfloat16(precision: str, device: str) -> bool:
    """Whether forward passes run in bfloat16.

    Args:
        precision: "float32", "bfloat16", or "auto": bfloat16 where the device computes in it.
        device: "cpu" or of a GPU.
    """
    return computes_bfloat16(device) if precision == "auto" else precision == "bfloat16"


def save_checkpoint(path: Path, about: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a checkpoint that appears under its name only when it is complete.

    Args:
        path: of the file; its folder is made where it is missing.
        about: what makes this training what it is (data, seed, sizes), json-ready.
        state: what a resumed training needs, tensors and plain values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    torch.save({"about": dict(about), **state}, partial)
    replace_file(partial, path)


def load_checkpoint(path: Path, about: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote.

    Raises:
        ValueError: the checkpoint is damaged, or of another training; the message says what
            differs.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        found = state["about"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, UnpicklingError):
        raise ValueError(
            f"{path}: expected a checkpoint of a training, got a damaged or other "
            "file; delete it to start over"
        ) from None
    changes = [
        f"{name} was {found.get(name)!r}, is {about.get(name)!r}"
        for name in sorted({*found, *about})
        if found.get(name) != about.get(name)
    ]
    if changes:
        raise ValueError(
            f"{path}: belongs to another training ({'; '.join(changes)}); choose another folder"
        )
    return state


def append_row(log: Path, row: Mapping[str, float]) -> None:
    """Add a row; the first one brings the names of the columns and the folder."""
    log.parent.mkdir(parents=True, exist_ok=True)
    is_new = not log.exists()
    with log.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(row)
        writer.writerow([v if isinstance(v, int) else f"{v:.6g}" for v in row.values()])


def forget_rows_after(log: Path, step: int) -> None:
    """Drop rows that a killed run wrote after its last checkpoint: they will come again.

    The first column is the step.
    """
    if log.exists():
        lines = log.read_text().splitlines(keepends=True)
        kept = [line for line in lines[1:] if int(line.split(",")[0]) <= step]
        log.write_text("".join(lines[:1] + kept))
