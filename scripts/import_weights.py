"""Convert published BPR weights (mmsegmentation layout) to a safetensors file of ours.

bpr import-weights hrnet18s_128-24055c80.pth hrnet18s_128.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

from refiner.checkpoints import convert_weights


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr import-weights`."""
    parser.add_argument("source", type=Path, metavar="SRC", help="published .pth; never executed")
    parser.add_argument("out", type=Path, metavar="OUT", help="safetensors file to write")


def run(arguments: argparse.Namespace) -> int:
    """Convert and say what was read."""
    report = convert_weights(arguments.source, arguments.out)
    config = report.config
    print(
        f"{arguments.out}: {report.architecture}, {report.num_tensors} tensors, "
        f"input {config.input_size} px, patch {config.patch_size} px"
    )
    print(f"data: {config.data}")
    print(f"licence: {config.licence}")
    return 0
