"""The `bpr` command: finds the file of a command and runs it.

bpr refine predictions --images images --out refined
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import io
import sys
from collections.abc import Sequence
from typing import Protocol

from bpr import __version__
from bpr._extras import EXTRA_OF, install_command

COMMANDS = {
    "demo": "refine coarse masks on bundled photographs and draw what changed",
    "detect": "find objects in a folder of images; bpr refine then sharpens their masks",
    "refine": "sharpen masks that you have: files of YOLO, COCO, LabelMe, Cityscapes, PNGs",
    "extract": "cut training patches from predictions and ground truth",
    "evaluate": "measure what refinement improved and what it made worse",
    "view": "compare two sources of masks over their photographs in a page",
    "cvat": "refine the masks and polygons of a CVAT task and upload them again",
    "serve": "refine masks over HTTP, with a web page",
    "train-refiner": "train a patch network, also on your own model's mistakes",
    "train-detector": "train a detector on COCO, Cityscapes or photographs with instance maps",
    "export-weights": "convert weights to ONNX or OpenVINO",
    "import-weights": "convert published weights of BPR or of a detector to safetensors",
}

_EXTRAS = {"detect": "detect", "train-detector": "detect", "export-weights": "export"}
"""Commands that need more than the first library that is missing: the extra that has all."""

INPUT_FAILED = 1  # exit status: some inputs failed, the rest is done
COMMAND_WRONG = 2
INTERRUPTED = 130

# errors that a user can mend; the same command then resumes
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
_RESUMES = "Finished work is kept. Run the same command again to resume."


class Command(Protocol):
    """The functions that each command's file defines."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the command and return the exit status. ValueError: the command was wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `bpr` with arguments (those of the process if not given); returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv and argv[0] in COMMANDS else ""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a Windows console may lack "→" and "±"
            stream.reconfigure(errors="replace")
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
        print(_RESUMES, file=sys.stderr)
        return INPUT_FAILED
    except MemoryError as error:
        print(f"{said}: expected more memory than there is. {error}".rstrip(), file=sys.stderr)
        return INPUT_FAILED
    except KeyboardInterrupt as error:
        # a training says what it saved
        done = f"{error}; the same command resumes there." if str(error) else _RESUMES
        print(f"\n{said}: interrupted. {done}", file=sys.stderr)
        return INTERRUPTED


def _run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "bpr",
        description="Sharpens the edges of instance masks that you already have.",
        epilog="Start with: bpr demo. Options and an example: bpr COMMAND --help.",
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
    arguments, unknown = parser.parse_known_args(argv)
    if arguments.command not in loaded:  # "bpr -- refine"
        parser.error("expected the command first")
    if unknown:  # argparse would print the usage of `bpr`, which has none of the options
        _refuse_options(commands.choices[arguments.command], unknown)
    return loaded[arguments.command].run(arguments)


def _refuse_options(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> None:
    """End with the command's own usage, and the options that are spelled like the unknown ones."""
    known = [name for action in parser._actions for name in action.option_strings]
    said = []
    for word in unknown:
        alike = difflib.get_close_matches(word.partition("=")[0], known, 1)
        said.append(f"{word} (did you mean {alike[0]}?)" if alike else word)
    parser.error(f"unrecognized arguments: {' '.join(said)}")


if __name__ == "__main__":
    sys.exit(main())
