"""Checkpoints of a training: whole files, and only those of the same training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch


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
