"""A finished file takes the place of another one."""

from __future__ import annotations

import os
import time
from pathlib import Path

_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8) if os.name == "nt" else ()
"""Seconds between tries. Windows refuses while another program has one of the files open, a virus
scanner for instance."""


def replace_file(source: Path, target: Path) -> None:
    """Rename a file, over another one if there is one.

    Args:
        source: on the same file system as `target`.
        target: its new name.

    Raises:
        OSError: it cannot be renamed; on Windows after more tries.
    """
    for wait_s in _WAITS_S:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(wait_s)
    os.replace(source, target)
