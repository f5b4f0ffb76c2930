"""The `bpr` command: finds the file of a command and runs it.

bpr refine predictions --images images --out refined
"""

from __future__ import annotations

import argparse
import errno
import importlib
import sys
from collections.abc import Sequence
from typing import Protocol

from bpr import __version__
from bpr._extras import EXTRA_OF, install_command

COMMANDS = {
    "demo": "refine coarse masks on photographs that come along, and draw what changed",
    "detect": "find instances in a folder of images, for refine to sharpen",
    "refine": "sharpen the masks of a prediction folder, a COCO results json or mask files",
    "extract": "cut a patch dataset for training from predictions and ground truth",
    "evaluate": "say with the field's metrics what refinement did, and where it did harm",
    "cvat": "refine the masks and polygons of a CVAT task, and push them back",
    "serve": "answer POST /refine over HTTP, with a page to see it work",
    "train-refiner": "train the patch network on photographs with instance maps",
    "train-passes": "train the network that refines in passes, also on your own model's mistakes",
    "train-detector": "train a detector on COCO, Cityscapes or photographs with instance maps",
    "export-weights": "write weights as ONNX or OpenVINO, for other runtimes",
    "import-weights": "convert published weights, of BPR or of a detector, to a safetensors file",
}

_EXTRAS = {"detect": "detect", "train-detector": "detect", "export-weights": "export"}
"""Commands that need more than the first library that is missing: the extra that has all."""

INPUT_FAILED = 1  # exit status: some inputs failed, the others are done
COMMAND_WRONG = 2
INTERRUPTED = 130

# what a user can mend before the same command goes on
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
_GOES_ON = "What is done stays; the same command goes on from there."


class Command(Protocol):
    """What a file of this package offers."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Declare arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; returns the exit status. ValueError: the command was wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `bpr` with arguments (those of the process if not given); returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv and argv[0] in COMMANDS else ""
    said = f"bpr {name}".strip()
    try:
        return _run(argv)
    except ValueError as error:
        print(f"{said}: {error}", file=sys.stderr)
        return COMMAND_WRONG
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRA_OF:
            raise
        command = install_command(_EXTRAS.get(name, EXTRA_OF[module]))
        print(f"{said}: expected {module} to be installed: {command}", file=sys.stderr)
        return COMMAND_WRONG
    except OSError as error:
        reason = error.strerror or str(error)
        where = f" {error.filename}" if error.filename else ""
        print(f"{said}: cannot use{where}: {reason}.", file=sys.stderr)
        if error.errno not in _PASSING:
            return COMMAND_WRONG
        print(_GOES_ON, file=sys.stderr)
        return INPUT_FAILED
    except MemoryError as error:
        print(f"{said}: expected more memory than there is. {error}".rstrip(), file=sys.stderr)
        return INPUT_FAILED
    except KeyboardInterrupt as error:
        # a training says what it saved
        done = f"{error}; the same command resumes there." if str(error) else _GOES_ON
        print(f"\n{said}: interrupted. {done}", file=sys.stderr)
        return INTERRUPTED


def _run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "bpr",
        description="Sharpens the boundaries of instance masks after the fact.",
        epilog="Start with: bpr demo. Every command explains itself: bpr COMMAND --help.",
    )
    parser.add_argument("--version", action="version", version=f"bpr {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    loaded: dict[str, Command] = {}
    for name, summary in COMMANDS.items():
        # Only the command that is asked for is imported: torch takes seconds.
        if name not in argv[:1]:
            commands.add_parser(name, help=summary)
            continue
        command: Command = importlib.import_module(f"bpr.scripts.{name.replace('-', '_')}")
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
    if arguments.command not in loaded:  # "bpr -- refine"
        parser.error("expected the command first")
    return loaded[arguments.command].run(arguments)


if __name__ == "__main__":
    sys.exit(main())
