"""Arguments that several commands take, and lists that they print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bpr._extras import needs_extra
from bpr._paths import AnyPath
from bpr.pipeline.files import object_path
from bpr.pipeline.formats.images import MAX_PIXELS
from bpr.pipeline.settings import PASSES_NMS_IOU, PatchSettings
from bpr.refiner.model_config import PatchSize
from bpr.refiner.predictor import BACKENDS, DEVICES

if TYPE_CHECKING:
    from bpr.pipeline.distributed import Cluster

SHOWN_ITEMS = 20


def parse_path(text: str) -> AnyPath:
    """A path that is named; `Path("")` would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got nothing")
    if "://" not in text:
        return Path(text)
    try:
        return object_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_prediction(
    parser: argparse.ArgumentParser,
    kinds: str = "folder of <image>_pred.txt files and mask PNGs (Cityscapes), COCO results json, "
    "or, with --masks, one image",
) -> None:
    """PRED, which may be of several kinds."""
    parser.add_argument("pred", type=parse_path, metavar="PRED", help=kinds)
    parser.add_argument(
        "--masks",
        type=parse_path,
        nargs="+",
        metavar="PNG",
        help="one mask file per instance of PRED",
    )


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """The size of the images that are read."""
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="refuse images and masks with more pixels (default: %(default)s)",
    )


def add_network_options(group: argparse._ArgumentGroup) -> None:
    """Where and how a network runs, and which patches it sees."""
    group.add_argument("--device", choices=DEVICES, default="auto")
    group.add_argument("--backend", choices=BACKENDS, default="auto")
    add_patch_options(group, None, "that of the weights")


def add_patch_options(
    group: argparse._ArgumentGroup, nms_iou: float | None, patch_size: str
) -> None:
    """Which patches are cut; the defaults are the command's own."""
    several = f"{PASSES_NMS_IOU:g} for weights of several passes, else {PatchSettings.nms_iou:g}"
    group.add_argument(
        "--patch-size",
        type=_patch_size,
        metavar="N|auto",
        help="side of the patches in image pixels, even; auto follows the size of the object "
        f"(default: {patch_size})",
    )
    group.add_argument(
        "--padding",
        type=int,
        metavar="N",
        help="pixels around a patch that the network also sees (default: that of the weights, "
        "else 0)",
    )
    group.add_argument(
        "--nms-iou",
        type=float,
        default=nms_iou,
        metavar="IOU",
        help="of patches that overlap by this much or more, only one is kept; lower is faster "
        f"(default: {several if nms_iou is None else nms_iou})",
    )


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """On how many cores or machines to run."""
    group = parser.add_argument_group("distribution")
    group.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="worker processes on this machine, started by Ray; 0: no workers (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--ray-address",
        metavar="ADDR",
        help="address of a running Ray cluster (auto, host:port or ray://host:port); inputs and "
        "output must be on storage that all its machines share",
    )


def asks_for_cluster(arguments: argparse.Namespace) -> bool:
    """The command is to be distributed.

    Raises:
        ValueError: the options contradict one another.
    """
    if arguments.workers < 0:
        raise ValueError(f"--workers: expected an int >= 0, got {arguments.workers}")
    if arguments.workers and arguments.ray_address:
        raise ValueError(
            "--workers, --ray-address: expected one of them; a cluster has its own workers"
        )
    return bool(arguments.workers or arguments.ray_address)


@contextmanager
def open_cluster(arguments: argparse.Namespace) -> Iterator[Cluster]:
    """Start or join Ray as the options say, and tell where to watch it."""
    with needs_extra("--workers, --ray-address"):
        from bpr.pipeline.distributed import open_cluster as open_  # ray takes seconds to import

    with open_(arguments.workers or None, arguments.ray_address) as cluster:
        if cluster.dashboard_url:
            print(f"Ray's dashboard: http://{cluster.dashboard_url}", file=sys.stderr)
        yield cluster


def patch_settings(
    arguments: argparse.Namespace, patch_size: PatchSize, padding: int, compat: bool = False
) -> PatchSettings:
    """The settings that the options ask for; what is given where they say nothing."""
    return PatchSettings.chosen(
        arguments.patch_size,
        arguments.padding,
        default_size=patch_size,
        default_padding=padding,
        nms_iou=arguments.nms_iou,
        compat=compat,
    )


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
