"""What programs import: `from bpr import load_refiner`.

Everything else in the package is internal. Nothing is imported before it is asked for (PEP 562),
so that `import bpr` and every command start fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpr.pipeline.adapters.fiftyone_fields import add_refined_field, open_comparison
    from bpr.pipeline.adapters.refiner import Refiner, load_refiner
    from bpr.service.client import Client

__version__ = "0.2.0"

__all__ = ["Client", "Refiner", "add_refined_field", "load_refiner", "open_comparison"]

_MODULES = {
    "Client": "bpr.service.client",
    "Refiner": "bpr.pipeline.adapters.refiner",
    "add_refined_field": "bpr.pipeline.adapters.fiftyone_fields",
    "load_refiner": "bpr.pipeline.adapters.refiner",
    "open_comparison": "bpr.pipeline.adapters.fiftyone_fields",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'bpr' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
