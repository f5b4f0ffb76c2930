"""Which processors there are to run on."""

from __future__ import annotations

import os


def usable_processors() -> int:
    """Processors that this process may use; containers and taskset give fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
