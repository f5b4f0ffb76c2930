"""The processes of a training that torchrun started, or the only one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
