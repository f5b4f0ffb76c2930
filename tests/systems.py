"""What tests need of the system that they run on."""

import multiprocessing
import os

import pytest

needs_signals = pytest.mark.skipif(
    os.name != "posix", reason="Windows ends a process where POSIX sends it a signal"
)
START_METHODS = [
    pytest.param(
        "fork",
        marks=pytest.mark.skipif(
            "fork" not in multiprocessing.get_all_start_methods(), reason="Windows cannot fork"
        ),
    ),
    pytest.param("spawn", marks=pytest.mark.slow),  # how macOS and Windows start processes
]
