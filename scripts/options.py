"""Arguments that several commands take, and lists that they print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.settings import PatchSettings

SHOWN_ITEMS = 20


def parse_path(text: str) -> Path:
    """A path that is named; `Path("")` would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got nothing")
    return Path(text)


def add_prediction(parser: argparse.ArgumentParser) -> None:
    """PRED, which may be of three kinds."""
    parser.add_argument(
        "pred",
        type=parse_path,
        metavar="PRED",
        help="folder of <image>_pred.txt files and mask PNGs (Cityscapes), COCO results json, "
        "or, with --masks, one image",
    )
    parser.add_argument(
        "--masks",
        type=parse_path,
        nargs="+",
        metavar="PNG",
        help="one mask file per instance of PRED",
    )


def add_network_options(group: argparse._ArgumentGroup) -> None:
    """Where and how a network runs, and which patches it sees."""
    group.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    group.add_argument("--backend", choices=["auto", "torch", "openvino"], default="auto")
    group.add_argument(
        "--patch-size",
        type=_patch_size,
        metavar="N|auto",
        help="side of the patches in image pixels, even; auto follows the size of the object "
        "(default: what the weights were made for)",
    )
    group.add_argument(
        "--padding", type=int, metavar="N", help="context around a patch, pixels (default: ditto)"
    )
    group.add_argument(
        "--nms-iou",
        type=float,
        default=PatchSettings.nms_iou,
        metavar="IOU",
        help="patches that overlap by this much or more are thinned: lower is faster "
        "(default: %(default)s)",
    )


def patch_settings(
    arguments: argparse.Namespace, patch_size: int | None, padding: int, compat: bool = False
) -> PatchSettings:
    """The settings that the options ask for; what is given where they say nothing."""
    if arguments.patch_size is not None:
        patch_size = None if arguments.patch_size == "auto" else arguments.patch_size
    if arguments.padding is not None:
        padding = arguments.padding
    return PatchSettings(patch_size, padding, arguments.nms_iou, compat)


def print_some(what: str, items: Sequence[str], rest: str) -> None:
    """List the first items on stderr behind what they are; `rest` says where the others are."""
    for item in items[:SHOWN_ITEMS]:
        print(f"{what}: {item}", file=sys.stderr)
    if len(items) > SHOWN_ITEMS:
        print(f"... and {len(items) - SHOWN_ITEMS} more{rest}", file=sys.stderr)


def _patch_size(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an even number or auto, got {text!r}") from None
