"""Convert published weights, of BPR or of a detector, to a safetensors file of bpr.

bpr import-weights hrnet18s_128-24055c80.pth hrnet18s_128.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bpr._extras import require
from bpr._published_weights import read_published
from bpr._weight_files import OtherTensors, read_safetensors
from bpr.detector.presets import PRESETS
from bpr.refiner.checkpoints import convert_weights, is_published_refiner

SHOWN = 8  # tensors or names of each kind; --list prints all


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr import-weights`."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="SRC",
        help="published .pth, .pkl or .safetensors file, or a folder with model.safetensors, of "
        "BPR, detectron2, BMask R-CNN, mmdetection, RefineMask or torchvision, or a Lightning "
        "checkpoint of one of them. No code in it is run",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="safetensors file to write")
    parser.add_argument(
        "--preset",
        choices=list(PRESETS),
        metavar="NAME",
        help="configuration of a detector (default: the first one with these tensors. Several can "
        "have the same tensors; they differ in training and in image sizes)",
    )
    parser.add_argument(
        "--which",
        choices=["model", "ema"],
        default="model",
        help="model: the weights; ema: their moving average, which some files have too "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--list", action="store_true", help="print where each tensor of a detector was put"
    )


def run(arguments: argparse.Namespace) -> int:
    """Convert and say what was read."""
    if _is_ours(arguments.source):
        raise ValueError(
            f"{arguments.source}: expected a checkpoint of another program, got weights of bpr; "
            "they are used as they are"
        )
    if is_published_refiner(read_published(arguments.source, arguments.which)):
        return _import_refiner(arguments)
    return _import_detector(arguments)


def _is_ours(source: Path) -> bool:
    if source.suffix != ".safetensors" or not source.is_file():
        return False
    return not {"bpr", "bpr-detector"}.isdisjoint(read_safetensors(source)[0])


def _import_refiner(arguments: argparse.Namespace) -> int:
    if arguments.preset is not None or arguments.list or arguments.which != "model":
        raise ValueError(
            f"--preset, --list, --which: expected a detector, got weights of a refiner in "
            f"{arguments.source}"
        )
    report = convert_weights(arguments.source, arguments.out)
    config = report.config
    print(
        f"{arguments.out}: {report.architecture}, {report.num_tensors} tensors, "
        f"input {config.input_size} px, patch {config.patch_size} px"
    )
    print(f"data: {config.data}")
    print(f"licence: {config.licence}")
    return 0


def _import_detector(arguments: argparse.Namespace) -> int:
    require("torchvision", purpose=f"{arguments.source} is a detector")
    from bpr.detector.checkpoints import convert_detector

    try:
        report = convert_detector(
            arguments.source, arguments.out, arguments.preset, arguments.which
        )
    except OtherTensors as error:
        if arguments.list:
            for name in error.missing:
                print(f"missing: {name}")
            for name in error.unexpected:
                print(f"unexpected: {name}")
        raise
    info = report.info
    print(
        f"{arguments.out}: {info.preset}, {len(info.categories)} categories, read as "
        f"{report.layout}'s"
    )
    print(f"taken: {report.taken}")
    for assumption in report.assumed:
        print(f"assumed: {assumption}")
    for name, value in info.changes.items():
        print(f"unlike the preset: {name} is {value}")
    print(f"tensors: {len(report.renamed)} used, {len(report.left_over)} left over")
    if arguments.list:
        for name, own in report.renamed.items():
            print(f"used: {name} -> {own}")
    if report.missing:
        print(f"batch norms: {len(report.missing)} statistics missing, set to mean 0, variance 1")
    for name in report.left_over if arguments.list else report.left_over[:SHOWN]:
        print(f"left over, of no use in inference: {name}")
    if not arguments.list and len(report.left_over) > SHOWN:
        print("--list prints them all")
    names = info.categories.names
    print(f"categories: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}")
    print(f"data: {info.data}")
    print(f"licence: {info.licence}")
    return 0
