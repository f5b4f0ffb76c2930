"""Libraries that only some users need, and the command that installs each.

The distribution is `bpr-refine`; its extras group these libraries (pyproject.toml).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

EXTRA_OF = {
    "boto3": "stores",
    "cityscapesscripts": "evaluate",
    "cvat_sdk": "cvat",
    "datumaro": "datumaro",
    "defusedxml": "serve",
    "fastapi": "serve",
    "fastapi_offline": "serve",
    "faster_coco_eval": "evaluate",
    "fsspec": "stores",
    "httpx": "client",
    "onnx": "export",
    "opentelemetry": "otel",
    "prometheus_client": "serve",
    "pydantic_settings": "serve",
    "python_multipart": "serve",
    "pythonjsonlogger": "serve",
    "ray": "ray",
    "s3fs": "stores",
    "timm": "torch",
    "torch": "torch",
    "torchvision": "detect",
    "upath": "stores",
    "uvicorn": "serve",
}
"""Name of a module -> the extra that installs it."""


def install_command(extra: str) -> str:
    """The command that adds an extra to an installed bpr."""
    return f"pip install 'bpr-refine[{extra}]'"


def is_installed(module: str) -> bool:
    """Whether a top-level module can be imported; it is not imported."""
    return importlib.util.find_spec(module) is not None


def require(*modules: str, purpose: str) -> None:
    """Say what is missing before hours of work, not after.

    Args:
        modules: keys of `EXTRA_OF`.
        purpose: what needs them, the first words of the message.

    Raises:
        ValueError: one is not installed; the message has the command that installs it.
    """
    for module in modules:
        if not is_installed(module):
            raise ValueError(missing_message(module, purpose))


@contextmanager
def needs_extra(purpose: str) -> Iterator[None]:
    """Turn a failed import of an optional library into a message with the command to install it.

    Args:
        purpose: what needs the library, the first words of the message.

    Raises:
        ValueError: a module of `EXTRA_OF` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRA_OF:
            raise
        raise ValueError(missing_message(module, purpose)) from None


def missing_message(module: str, purpose: str) -> str:
    """The sentence about a module that is not installed."""
    return f"{purpose}: expected {module} to be installed: {install_command(EXTRA_OF[module])}"
