"""What the trainings of both networks share: processes, checkpoints and CSV logs."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


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
    os.replace(partial, path)


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
