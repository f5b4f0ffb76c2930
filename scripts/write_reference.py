"""Write docs/reference.md from `--help` and docstrings.

python -m bpr.scripts.write_reference
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import bpr
from bpr.pipeline import instance, refine, settings
from bpr.pipeline.adapters import adapter
from bpr.pipeline.files import write_atomically
from bpr.scripts.main import COMMANDS

PAGE = Path(__file__).resolve().parents[1] / "docs/reference.md"
WIDTH = 100
# Everything behind the three steps, for programs that schedule or convert themselves
BELOW: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (refine, ("refine", "plan", "predict", "merge")),
    (instance, ("Prediction", "Instance", "Mask")),
    (settings, ("PatchSettings",)),
    (adapter, ("Adapter",)),
)
_IN_TABLES = {"serve": "[service.md](service.md)"}  # their defaults depend on the machine

HEAD = """# Reference

Written by `python -m bpr.scripts.write_reference`; a test compares it with the code.
"""


def main() -> None:
    """Write the page."""
    write_atomically(PAGE, page().encode())


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_commands(), *_python()])


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    for name, summary in COMMANDS.items():
        yield f"### bpr {name}\n\n{summary[0].upper()}{summary[1:]}.\n"
        if name in _IN_TABLES:
            yield f"All options are settings: {_IN_TABLES[name]}.\n"
        else:
            yield f"```text\n{_help(name)}```\n"


def _help(name: str) -> str:
    """What --help says, at a width of its own instead of the terminal's."""
    command: Any = importlib.import_module(f"bpr.scripts.{name.replace('-', '_')}")

    class Wide(argparse.RawDescriptionHelpFormatter):
        def __init__(self, prog: str) -> None:
            super().__init__(prog, max_help_position=26, width=WIDTH)

    parser = argparse.ArgumentParser(f"bpr {name}", formatter_class=Wide)
    command.configure(parser)
    # what the terminal says before and after is in this page already
    return parser.format_help()


def _python() -> Iterator[str]:
    yield "## Python\n"
    yield "```python\nfrom bpr import load_refiner\n```\n"
    for name in bpr.__all__:
        yield from _entry(getattr(bpr, name), f"bpr.{name}")
    yield "### Below it\n"
    yield (
        "Refinement in three steps, for programs that schedule or convert themselves. These may "
        "change between minor versions.\n"
    )
    for module, names in BELOW:
        for name in names:
            yield from _entry(getattr(module, name), f"{module.__name__}.{name}")


def _entry(thing: Any, name: str) -> Iterator[str]:
    yield f"#### {name}\n"
    text = inspect.getdoc(thing) or ""
    if inspect.isclass(thing):
        parts = [f"class {name}", _indented(text)]
        for method, function in vars(thing).items():
            if method == "__call__" or (
                inspect.isfunction(function) and not method.startswith("_")
            ):
                shown = _signature(function)
                parts += [f"    {method}{shown}", _indented(inspect.getdoc(function) or "", 8)]
        yield "```text\n" + "\n\n".join(part for part in parts if part.strip()) + "\n```\n"
    else:
        yield f"```text\n{name}{_signature(thing)}\n\n{_indented(text)}\n```\n"


def _signature(function: Any) -> str:
    """As it is written; Pythons print the same annotations in different ways."""
    source = inspect.getsource(function)
    found = re.search(r"def \w+(\(.*?\)(?: -> .+?)?):\n", source, re.DOTALL)
    return " ".join((found[1] if found else "()").split()).replace("( ", "(").replace(", )", ")")


def _indented(text: str, by: int = 4) -> str:
    return "\n".join(f"{' ' * by}{line}".rstrip() for line in text.splitlines())


if __name__ == "__main__":
    main()
