"""The `bpr` command: finds the file of a command and runs it.

bpr refine predictions --images images --out refined
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Protocol

from pipeline.version import VERSION

COMMANDS = {
    "demo": "refine coarse masks on photographs that come along, and draw what changed",
    "refine": "sharpen the masks of a prediction folder, a COCO results json or mask files",
    "evaluate": "say with the field's metrics what refinement did, and where it did harm",
    "train-refiner": "train the patch network on photographs with instance maps",
    "import-weights": "convert published BPR weights to a safetensors file",
}

INPUT_FAILED = 1  # exit status: some inputs failed, the others are done
COMMAND_WRONG = 2
INTERRUPTED = 130


class Command(Protocol):
    """What a file of this package offers."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Declare arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; returns the exit status. ValueError: the command was wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `bpr` with arguments (those of the process if not given); returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        "bpr",
        description="Sharpens the boundaries of instance masks after the fact.",
        epilog="Start with: bpr demo. Every command explains itself: bpr COMMAND --help.",
    )
    parser.add_argument("--version", action="version", version=f"bpr {VERSION}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    loaded: dict[str, Command] = {}
    for name, summary in COMMANDS.items():
        # Only the command that is asked for is imported: torch takes seconds.
        if name not in argv[:1]:
            commands.add_parser(name, help=summary)
            continue
        command: Command = importlib.import_module(f"scripts.{name.replace('-', '_')}")
        loaded[name] = command
        described = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="Example:\n  " + (command.__doc__ or "").strip().splitlines()[-1].strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.configure(described)
    arguments = parser.parse_args(argv)
    try:
        return loaded[arguments.command].run(arguments)
    except ValueError as error:
        print(f"bpr {arguments.command}: {error}", file=sys.stderr)
        return COMMAND_WRONG
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(f"bpr {arguments.command}: cannot use{where}: {error.strerror}.", file=sys.stderr)
        print("What is done stays; the same command goes on from there.", file=sys.stderr)
        return INPUT_FAILED
    except KeyboardInterrupt:
        print(
            f"\nbpr {arguments.command}: interrupted. What is done stays; "
            "the same command goes on from there.",
            file=sys.stderr,
        )
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
