"""Train a detector on photographs with accurate masks: COCO, Cityscapes or instance maps.

bpr train-detector --images photos --ground-truth truth.json --preset small --out runs/first
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from bpr._training_run import Process, joined
from bpr.detector.backbone import load_imagenet
from bpr.detector.build import Detector, build_detector
from bpr.detector.categories import Categories
from bpr.detector.checkpoints import DetectorInfo, load_detector, save_detector
from bpr.detector.presets import PRESETS
from bpr.detector.training import DetectorTrainer
from bpr.detector.transfer import transfer
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.open_ground_truth import open_ground_truth
from bpr.pipeline.training.detection_stream import (
    DetectionBatches,
    DetectionSource,
    DetectionStream,
    load,
    readable,
)
from bpr.scripts.options import parse_path
from bpr.scripts.progress import ProgressLine
from bpr.scripts.training_options import add_training_options, set_threads, with_origin


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr train-detector`."""
    parser.add_argument(
        "--images", type=parse_path, required=True, metavar="DIR", help="photographs"
    )
    parser.add_argument(
        "--ground-truth",
        type=parse_path,
        required=True,
        metavar="GT",
        help="COCO json, Cityscapes gtFine folder, or a folder of instance maps (8-bit PNGs of "
        "the stems of the photographs; all objects are of one category)",
    )
    parser.add_argument(
        "--preset", choices=list(PRESETS), required=True, help="network, sizes and schedule"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="RUN",
        help="folder for checkpoint, log.csv and weights; the same command goes on from there",
    )
    parser.add_argument(
        "--start-from",
        metavar="WEIGHTS",
        help="a detector to go on from, by path or name (lite; categories it shares are recognised "
        "by name), or imagenet: a backbone that is downloaded (default: random weights)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="batches; the drops of the learning rate move along (default: the preset's)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images of all processes together; learning rate and steps follow "
        "(default: the preset's)",
    )
    parser.add_argument(
        "--bfloat16", action="store_true", help="forward passes in bfloat16 (default: float32)"
    )
    add_training_options(parser, loaders=2, task="read images")


def run(arguments: argparse.Namespace) -> int:
    """Train, or go on training; RUN/<preset>.safetensors is written with every checkpoint."""
    set_threads(arguments)
    with joined(arguments.device) as process:
        _train(arguments, process)
    return 0


def _train(arguments: argparse.Namespace, process: Process) -> None:
    source = DetectionSource(
        open_ground_truth(arguments.ground_truth), ImageIndex(arguments.images)
    )
    named = source.categories()
    categories = Categories(tuple(named.values()), tuple(named))
    preset = PRESETS[arguments.preset]
    schedule = preset.schedule
    if arguments.batch_size is not None:
        schedule = schedule.for_batch_size(arguments.batch_size)
    if arguments.steps is not None:
        schedule = schedule.for_steps(arguments.steps)
    share, rest = divmod(schedule.batch_size, process.count)
    if rest:
        raise ValueError(
            f"--batch-size: expected a multiple of the {process.count} processes, "
            f"got {schedule.batch_size}"
        )
    torch.manual_seed(arguments.seed)
    model = build_detector(preset, len(categories))
    said, origin = _begin(model, arguments, categories)
    trainer = DetectorTrainer(
        model,
        schedule,
        arguments.out,
        {
            "preset": arguments.preset,
            "images": str(arguments.images.resolve()),
            "ground_truth": str(arguments.ground_truth.resolve()),
            "start_from": arguments.start_from,
        },
        arguments.seed,
        arguments.bfloat16,
        process,
    )
    stream = DetectionStream(
        source,
        DetectionBatches(share, arguments.seed),
        trainer.step * process.count + process.rank,
        process.count,
    )
    loader = load(stream, arguments.loaders)
    if not process.is_first:
        trainer.run(readable(loader))
        return
    print(
        f"{len(stream)} images, {len(categories)} categories; {said}; "
        f"step {trainer.step} of {schedule.steps}",
        flush=True,
    )
    weights = arguments.out / f"{arguments.preset}.safetensors"
    info = DetectorInfo(
        arguments.preset,
        categories,
        with_origin(arguments.data, origin.data if origin else ""),
        with_origin(arguments.licence, origin.licence if origin else ""),
    )
    with ProgressLine("steps", schedule.steps) as progress:
        trainer.run(
            readable(loader),
            lambda row: progress.show(
                int(row["step"]), f"loss {row['loss']:.3f}, {row['images_per_s']:.1f} images/s"
            ),
            lambda: save_detector(weights, model, info),
        )
    if not weights.is_file():  # a run that ended right after its last checkpoint
        save_detector(weights, model, info)
    print(f"{weights}: trained for {trainer.step} steps")


def _begin(
    model: Detector, arguments: argparse.Namespace, categories: Categories
) -> tuple[str, DetectorInfo | None]:
    """Give a new detector what --start-from says; returns that in words, and whose it was."""
    if arguments.start_from is None:
        return "from random weights", None
    if arguments.start_from == "imagenet":
        load_imagenet(model.backbone, model.preset)
        return "from an ImageNet backbone", None
    source, info = load_detector(arguments.start_from)
    if source.preset.conventions != model.preset.conventions:
        raise ValueError(
            f"--start-from {arguments.start_from}: expected weights that see images as "
            f"{arguments.preset} does, got {info.preset}"
        )
    try:
        taken = transfer(
            model,
            categories.names,
            source.state_dict(),
            info.categories.names,
            lambda number: build_detector(model.preset, number),
        )
    except ValueError as error:
        raise ValueError(f"--start-from {arguments.start_from}: {error}") from None
    fresh = f", new: {', '.join(taken.fresh)}" if taken.fresh else ""
    more = f", {len(taken.missing)} begin anew" if taken.missing else ""
    said = (
        f"{taken.num_tensors} tensors of {arguments.start_from}{more}; "
        f"{len(taken.kept)} categories known{fresh}"
    )
    return said, info
