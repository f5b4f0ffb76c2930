"""Sharpen the masks of a folder, a COCO json or mask files.

bpr refine predictions --images leftImg8bit/val --out refined
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bpr import __version__
from bpr.pipeline.batch.cityscapes_job import CityscapesJob
from bpr.pipeline.batch.coco_job import CocoJob
from bpr.pipeline.batch.engine import InThisProcess, RefineEngine
from bpr.pipeline.batch.job import Job
from bpr.pipeline.batch.label_files_job import LabelFilesJob, LabelMe, find_label_format
from bpr.pipeline.batch.mask_files_job import MaskFilesJob
from bpr.pipeline.batch.run_batch import BatchProgress, run_batch
from bpr.pipeline.formats.cityscapes import has_prediction_files
from bpr.pipeline.formats.polygons import DEFAULT_TOLERANCE, MAX_TOLERANCE
from bpr.pipeline.host import DEFAULT_BATCH_SIZE
from bpr.pipeline.network import load_network, load_runner
from bpr.refiner.model_config import DEFAULT_WEIGHTS, ModelConfig
from bpr.refiner.weights_info import read_weights_info
from bpr.scripts.options import (
    add_cluster_options,
    add_network_options,
    add_prediction,
    asks_for_cluster,
    open_cluster,
    parse_path,
    patch_settings,
)
from bpr.scripts.outcome import conclude
from bpr.scripts.progress import ProgressLine, per_second


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr refine`."""
    add_prediction(
        parser,
        "folder of <image>_pred.txt files and mask PNGs (Cityscapes), of LabelMe jsons, or of YOLO "
        "segmentation txts; COCO json, results or a data set's labels; or, with --masks, one image",
    )
    parser.add_argument(
        "--images",
        type=parse_path,
        metavar="DIR",
        help="folder of the images, subfolders included (default for LabelMe: PRED)",
    )
    parser.add_argument(
        "--images-json",
        type=parse_path,
        metavar="J",
        help="any COCO json with 'images', for the file name of each image id; without it labels "
        "have their own, and images of results are named by the id, plain or with zeros to 12 "
        "digits",
    )
    parser.add_argument(
        "--polygon-tolerance",
        type=float,
        metavar="PX",
        help="how far polygons may be from the refined outlines, in pixels (default for LabelMe "
        f"and YOLO: {DEFAULT_TOLERANCE}; COCO masks are RLE unless this is given); refining moves "
        "outlines by 1 to 3",
    )
    parser.add_argument(
        "--out",
        type=parse_path,
        required=True,
        help="folder for the same files refined (a json file where PRED is one)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="do again what an earlier run has done"
    )
    add_refine_options(parser)
    add_cluster_options(parser)


def add_refine_options(parser: argparse.ArgumentParser) -> None:
    """Declare what every command that refines takes."""
    group = parser.add_argument_group("refinement")
    group.add_argument(
        "--weights",
        default=DEFAULT_WEIGHTS,
        metavar="NAME_OR_PATH",
        help="shipped weights by name, a .safetensors of ours, or a published .pth "
        "(default: %(default)s)",
    )
    add_network_options(group)
    group.add_argument(
        "--compat", action="store_true", help="cut and merge patches exactly as the reference does"
    )
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="patches at once (default: as many as keep the processors busy; a GPU chooses itself)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Refine; 1 where some images failed."""
    job = _job(arguments)
    wanted = (arguments.weights, arguments.device, arguments.backend, arguments.compat)
    if asks_for_cluster(arguments):
        weights = read_weights_info(arguments.weights)
        with open_cluster(arguments) as cluster:
            engine: RefineEngine = cluster.refiner(
                partial(load_runner, *wanted, batch_size(arguments, DEFAULT_BATCH_SIZE)),
                weights.config.input_size,
                arguments.device,
            )
            progress = _refine(arguments, job, engine, weights.config, weights.name, weights.sha256)
    else:
        network = load_network(*wanted)
        engine = InThisProcess(network.runner(batch_size(arguments, network.batch_size)))
        progress = _refine(
            arguments, job, engine, network.config, network.name, network.weights_sha256
        )
    return conclude(progress, "refined", f"{progress.counted['patches']} patches", job.report)


def _refine(
    arguments: argparse.Namespace,
    job: Job,
    engine: RefineEngine,
    config: ModelConfig,
    weights: str,
    weights_sha256: str,
) -> BatchProgress:
    settings = patch_settings(arguments, config.patch_size, config.padding, arguments.compat)
    about = {"bpr": __version__, "weights": weights, "weights_sha256": weights_sha256}
    with ProgressLine("images", len(job.keys())) as line:
        rate = per_second()
        return run_batch(
            job,
            engine,
            settings,
            about,
            arguments.overwrite,
            lambda progress: line.show(progress.finished, _remark(progress, rate)),
        )


def batch_size(arguments: argparse.Namespace, default: int) -> int:
    """What --batch-size asks for."""
    return default if arguments.batch_size is None else int(arguments.batch_size)


def _job(arguments: argparse.Namespace) -> Job:
    pred: Path = arguments.pred
    if not pred.exists():
        raise ValueError(f"{pred}: expected predictions, found no file or folder")
    if arguments.images_json and (arguments.masks or pred.is_dir()):
        raise ValueError(f"--images-json: expected a COCO results json with it, got {pred}")
    tolerance: float | None = arguments.polygon_tolerance
    if tolerance is not None and not 0 <= tolerance <= MAX_TOLERANCE:
        raise ValueError(
            f"--polygon-tolerance: expected pixels in 0..{MAX_TOLERANCE:g}, got {tolerance:g}"
        )
    if arguments.masks:
        if pred.is_dir():
            raise ValueError(f"--masks: expected the masks of one image, got the folder {pred}")
        return MaskFilesJob(pred, arguments.masks, arguments.out)
    if not pred.is_dir() and pred.suffix.lower() != ".json":
        raise ValueError(
            f"{pred}: expected a folder of <image>_pred.txt files, LabelMe jsons or YOLO txts, or "
            "a COCO json; for one image, name its masks with --masks"
        )
    labels = None
    if pred.is_dir() and not has_prediction_files(pred):
        labels = find_label_format(pred)
    images: Path | None = arguments.images
    if images is None and isinstance(labels, LabelMe):
        images = pred
    if images is None:
        raise ValueError(f"--images: expected the folder of the images of {pred}, got none")
    if labels is not None:
        within = DEFAULT_TOLERANCE if tolerance is None else tolerance
        print(
            f"{pred}: refined polygons will be within {within:g} px of the outlines of the masks; "
            "they have no holes, the report counts those that are lost",
            file=sys.stderr,
        )
        return LabelFilesJob(pred, images, arguments.out, labels, within)
    if pred.is_dir():
        return CityscapesJob(pred, images, arguments.out)
    return CocoJob(pred, images, arguments.images_json, arguments.out, tolerance)


def _remark(progress: BatchProgress, rate: Callable[[int], str]) -> str:
    patches = progress.counted["patches"]
    remark = f"{patches} patches, {rate(patches)}"
    return remark + f", {len(progress.failures)} failed" if progress.failures else remark
