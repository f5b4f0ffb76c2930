"""Libraries that only `bpr evaluate` needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs_extra(library: str) -> Iterator[None]:
    """Say how to install a library that an import inside the block does not find.

    Raises:
        ValueError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{library}: expected it to be installed, found no module {error.name!r}; "
            "pip install cityscapesscripts faster-coco-eval jinja2"
        ) from None
