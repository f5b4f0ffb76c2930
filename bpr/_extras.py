"""Libraries that only `bpr evaluate` needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

MODULES = {
    "cityscapesscripts": "cityscapesscripts",
    "faster-coco-eval": "faster_coco_eval",
    "jinja2": "jinja2",
}


def check_extra() -> None:
    """Say what is missing before hours of work, not after.

    Raises:
        ValueError: a library is not installed.
    """
    for library, module in MODULES.items():
        with needs_extra(library):
            if importlib.util.find_spec(module) is None:
                raise ModuleNotFoundError(name=module)


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
