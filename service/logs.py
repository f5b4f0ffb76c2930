"""Structured logs: one json object per line on stderr."""

from __future__ import annotations

import logging

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter


def start_logging(level: str) -> None:
    """Send all loggers of the process, uvicorn's too, to stderr as json."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp="time",
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's, for terminals
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # what it has to say of a body that is wrong, the answer says
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
