"""Arguments of the commands that train."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext

import cv2
import torch

from bpr._training_run import CHECKPOINT_S, Process, SaveClock
from bpr.pipeline.files import claimed


def add_training_options(parser: argparse.ArgumentParser, loaders: int, task: str) -> None:
    """Where a training runs, and what its weights say of themselves.

    Args:
        parser: of the command.
        loaders: how many there are by default.
        task: what the loaders do, for the help text.
    """
    parser.add_argument("--seed", type=_seed, default=0)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of PyTorch on a CPU (default: PyTorch's choice)",
    )
    parser.add_argument(
        "--loaders",
        type=int,
        default=loaders,
        metavar="N",
        help=f"processes that {task}, for each training process (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="number format of forward passes. auto: bfloat16 on processors that compute in it, "
        "else float32, because bfloat16 is several times slower there (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=CHECKPOINT_S / 60,
        metavar="M",
        help="minutes between checkpoints; Ctrl-C and SIGTERM save one too (default: %(default)g)",
    )
    parser.add_argument(
        "--data", default="", help="description of the photographs, stored in the weights file"
    )
    parser.add_argument(
        "--licence", default="", help="licence of the weights, stored in the weights file"
    )


def set_threads(arguments: argparse.Namespace) -> None:
    """What `add_training_options` says of threads.

    Raises:
        ValueError: a number out of range.
    """
    if arguments.loaders < 1:
        raise ValueError(f"--loaders: expected an int > 0, got {arguments.loaders}")
    if arguments.threads is not None and arguments.threads < 1:
        raise ValueError(f"--threads: expected an int > 0, got {arguments.threads}")
    cv2.setNumThreads(1)  # the loaders are the parallelism
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)


def save_clock(arguments: argparse.Namespace) -> SaveClock:
    """What `add_training_options` says of checkpoints.

    Raises:
        ValueError: no time at all.
    """
    if not arguments.checkpoint_minutes > 0:
        raise ValueError(
            f"--checkpoint-minutes: expected a number > 0, got {arguments.checkpoint_minutes:g}"
        )
    return SaveClock(60 * arguments.checkpoint_minutes)


def run_claimed(arguments: argparse.Namespace, process: Process) -> AbstractContextManager[None]:
    """Keep other trainings out of RUN. It is made, so check all options before.

    Raises:
        ValueError: another training writes to it.
    """
    if not process.is_first:
        return nullcontext()
    return claimed(arguments.out / "lock", str(arguments.out))


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an int >= 0, got {text!r}")
    return int(text)


def with_origin(said: str, before: str) -> str:
    """What a user says of the weights, and what was said of those that they started from."""
    return "; ".join(filter(None, (said, before and f"started from: {before}")))
