"""Sharpen the masks of a folder, a COCO json or mask files.

bpr refine predictions --images leftImg8bit/val --out refined
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from bpr import __version__
from bpr.pipeline.batch.chosen_images import ChosenImages
from bpr.pipeline.batch.engine import InThisProcess, RefineEngine
from bpr.pipeline.batch.job import Job
from bpr.pipeline.batch.open_job import (
    DATUMARO,
    FORMATS,
    LABELME,
    MASKS,
    YOLO,
    JobRequest,
    open_job,
)
from bpr.pipeline.batch.run_batch import BatchProgress, run_batch
from bpr.pipeline.batch.soft_job import SoftJob, soft_folder
from bpr.pipeline.formats.polygons import DEFAULT_TOLERANCE, MAX_TOLERANCE
from bpr.pipeline.host import DEFAULT_BATCH_SIZE
from bpr.pipeline.network import load_network, load_runner
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.model_config import (
    DEFAULT_WEIGHTS,
    PAPER_WEIGHTS,
    ModelConfig,
    default_weights,
)
from bpr.refiner.weights_info import read_weights_info
from bpr.scripts.main import INPUT_FAILED
from bpr.scripts.options import (
    add_cluster_options,
    add_max_pixels,
    add_network_options,
    add_prediction,
    asks_for_cluster,
    open_cluster,
    parse_path,
    patch_settings,
    print_some,
)
from bpr.scripts.outcome import conclude, explain_nothing
from bpr.scripts.progress import ProgressLine, per_second


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr refine`."""
    add_prediction(
        parser,
        "your masks: a folder of <image>_pred.txt files and mask PNGs (Cityscapes), LabelMe jsons, "
        "YOLO segmentation txts, jsons of SAM, mask files, or photographs with their COCO json; a "
        "COCO json with labels or results; or, with --masks, one image",
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
        help="COCO json whose 'images' name the file of each image id. COCO labels need none. "
        "Without "
        "it, the image of a COCO result is the file named after its id, also with zeros to 12 "
        "digits",
    )
    parser.add_argument(
        "--polygon-tolerance",
        type=float,
        metavar="PX",
        help="largest distance between a polygon and the refined outline, in pixels (default for "
        f"LabelMe and YOLO: {DEFAULT_TOLERANCE}; COCO masks are written as RLE unless you give "
        "this). Refining moves outlines by 1 to 3 pixels",
    )
    parser.add_argument(
        "--out",
        type=parse_path,
        required=True,
        help="folder for the refined files; a json file if PRED is a json file",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start again instead of resuming an earlier run"
    )
    parser.add_argument(
        "--format",
        type=_format,
        metavar="NAME",
        help="format of PRED (default: recognised from its files): "
        + "; ".join(f"{name}: {what}" for name, what in FORMATS.items()),
    )
    parser.add_argument(
        "--include", metavar="PATTERN", help="refine only images whose names match: 'city/*'"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="refine only the first N images")
    parser.add_argument(
        "--dry-run", action="store_true", help="read everything, print what would be done, and stop"
    )
    parser.add_argument("--quiet", action="store_true", help="print only problems, no progress")
    parser.add_argument(
        "--include-crowds",
        action="store_true",
        help="also refine annotations of a COCO json with iscrowd 1. CVAT exports its masks like "
        "this",
    )
    parser.add_argument(
        "--overlaps",
        choices=("keep", "resolve"),
        help="keep: refined masks may overlap; resolve: each pixel belongs to one mask, the one "
        "whose probability is higher (default: masks that did not overlap do not overlap "
        "afterwards)",
    )
    parser.add_argument(
        "--soft",
        action="store_true",
        help="write probabilities too, as 8-bit PNGs (255 is certain; 0 or 255 outside of "
        "patches): mask files hold them, other formats get a folder 'soft'",
    )
    add_max_pixels(parser)
    add_refine_options(parser)
    add_cluster_options(parser)


def _format(text: str) -> str:
    if text.partition(":")[0] != DATUMARO and text not in FORMATS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(FORMATS)}, got {text!r}")
    return text


def add_refine_options(parser: argparse.ArgumentParser) -> None:
    """Declare what every command that refines takes."""
    group = parser.add_argument_group("refinement")
    group.add_argument(
        "--weights",
        metavar="NAME_OR_PATH",
        help="name of bundled weights, a .safetensors file of bpr, or a published .pth file "
        f"(default: {DEFAULT_WEIGHTS}; with --compat or --padding {PAPER_WEIGHTS})",
    )
    add_network_options(group)
    group.add_argument(
        "--compat",
        action="store_true",
        help="cut and merge patches exactly as the authors' code does",
    )
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="patches that go through the network together (default: chosen for the processors, or "
        "for the memory of the GPU)",
    )


def chosen_weights(arguments: argparse.Namespace) -> str:
    """The weights named by `--weights`, else the bundled ones that fit the other options."""
    named: str | None = arguments.weights
    return named or default_weights(arguments.compat, arguments.padding)


def run(arguments: argparse.Namespace) -> int:
    """Refine; 1 where some images failed."""
    job = _job(arguments)
    if arguments.dry_run:
        return _say_what_would_be_done(arguments, job)
    named = chosen_weights(arguments)
    wanted = (named, arguments.device, arguments.backend, arguments.compat)
    if asks_for_cluster(arguments):
        weights = read_weights_info(named)
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
    counted = f"{progress.counted['patches']} patches"
    status = conclude(progress, "refined", counted, job.report, arguments.quiet)
    return max(status, explain_nothing(progress, arguments.pred))


def _refine(
    arguments: argparse.Namespace,
    job: Job,
    engine: RefineEngine,
    config: ModelConfig,
    weights: str,
    weights_sha256: str,
) -> BatchProgress:
    settings = replace(
        patch_settings(arguments, config.patch_size, config.padding, arguments.compat),
        overlaps=arguments.overlaps or PatchSettings.overlaps,
        soft=arguments.soft,
    )
    about = {"bpr": __version__, "weights": weights, "weights_sha256": weights_sha256}
    with ProgressLine("images", len(job.keys()), is_quiet=arguments.quiet) as line:
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
    tolerance: float | None = arguments.polygon_tolerance
    if tolerance is not None and not 0 <= tolerance <= MAX_TOLERANCE:
        raise ValueError(
            f"--polygon-tolerance: expected pixels in 0..{MAX_TOLERANCE:g}, got {tolerance:g}"
        )
    opened = open_job(
        JobRequest(
            pred=arguments.pred,
            out=arguments.out,
            images=arguments.images,
            images_json=arguments.images_json,
            masks=arguments.masks or (),
            polygon_tolerance=tolerance,
            include_crowds=arguments.include_crowds,
            max_pixels=arguments.max_pixels,
            format=arguments.format,
        )
    )
    job = opened.job
    if arguments.soft and opened.format != MASKS:  # those hold them in place
        job = SoftJob(job, soft_folder(arguments.out))
    if arguments.include is not None or arguments.limit is not None:
        job = ChosenImages(job, arguments.include, arguments.limit)
    if not arguments.quiet:
        print(f"{arguments.pred}: taken for {FORMATS[opened.format]}", file=sys.stderr)
    if opened.format in (LABELME, YOLO) and not arguments.quiet:
        within = DEFAULT_TOLERANCE if tolerance is None else tolerance
        print(
            f"{arguments.pred}: refined polygons will be within {within:g} px of the outlines of "
            "the masks; they have no holes, the report counts those that are lost",
            file=sys.stderr,
        )
    return job


def _say_what_would_be_done(arguments: argparse.Namespace, job: Job) -> int:
    """Read what would be refined, and write nothing."""
    instances, failures = 0, []
    for key in job.keys():  # noqa: SIM118
        try:
            instances += len(job.read(key).prediction.instances)
        except ValueError as error:
            failures.append(f"{key}: {error}")
    print(
        f"{len(job.keys())} images with {instances} objects would be refined into "
        f"{arguments.out}, {len(failures)} would fail"
    )
    for remark in job.remarks:
        print(f"note: {remark}", file=sys.stderr)
    print_some("would fail", failures, "")
    return INPUT_FAILED if failures else 0


def _remark(progress: BatchProgress, rate: Callable[[int], str]) -> str:
    patches = progress.counted["patches"]
    remark = f"{patches} patches, {rate(patches)}"
    return remark + f", {len(progress.failures)} failed" if progress.failures else remark
