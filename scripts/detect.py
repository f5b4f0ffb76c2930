"""Find instances in images with a detector.

bpr detect photos --weights lite --score 0.3 --out predictions
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from bpr import __version__
from bpr._paths import AnyPath
from bpr.pipeline.batch.detect import Refinement, detect_images
from bpr.pipeline.batch.detect_coco_job import DetectCocoJob
from bpr.pipeline.batch.detect_folder_job import DetectFolderJob
from bpr.pipeline.batch.drawn_job import DrawnJob
from bpr.pipeline.batch.job import ImageJob
from bpr.pipeline.batch.run_batch import BatchProgress, Counted, run_images
from bpr.pipeline.detection import DetectionSettings, InstanceDetector
from bpr.pipeline.network import load_network
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.model_config import DEFAULT_WEIGHTS
from bpr.scripts.options import add_max_pixels, parse_path
from bpr.scripts.outcome import conclude
from bpr.scripts.progress import ProgressLine

DETECTED = Counted("detected", ("instances",))
REFINED = Counted("detected", ("instances", "patches", "changed_pixels"))


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr detect`."""
    parser.add_argument(
        "images",
        type=parse_path,
        metavar="IMAGES",
        help="folder of images, subfolders included, or one image",
    )
    parser.add_argument(
        "--weights",
        required=True,
        metavar="NAME_OR_PATH",
        help="a detector: lite, which is bundled and knows only the category 'object'; the name of "
        "published weights, which are downloaded once (maskrcnn_resnet50_fpn_coco, "
        "maskrcnn_resnet50_fpn_v2_coco); or the path of weights of bpr or of a published "
        "checkpoint",
    )
    parser.add_argument(
        "--out",
        type=parse_path,
        required=True,
        help="folder for a Cityscapes prediction (<image>_pred.txt and a PNG for each instance), "
        "or a .json for COCO results",
    )
    parser.add_argument(
        "--images-json",
        type=parse_path,
        metavar="J",
        help="COCO json whose 'images' give each file its id, if OUT is a .json. Only these files "
        "are read. Without it, the id is the name of the file",
    )
    parser.add_argument(
        "--pictures",
        type=parse_path,
        metavar="DIR",
        help="folder for a PNG of each image on which the found masks are drawn",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start again instead of resuming an earlier run"
    )
    add_max_pixels(parser)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    group = parser.add_argument_group("detection (defaults are the detector's own)")
    group.add_argument(
        "--score", type=float, metavar="S", help="keep only instances with a higher score, 0 to 1"
    )
    group.add_argument(
        "--nms-iou",
        type=float,
        metavar="IOU",
        help="of two boxes of a category that overlap by more, only the better one is kept",
    )
    group.add_argument(
        "--detections", type=int, metavar="N", help="largest number of instances in an image"
    )
    group.add_argument(
        "--flip",
        action="store_true",
        help="also detect in the mirrored image; takes twice the time",
    )
    group.add_argument(
        "--scales",
        type=int,
        nargs="+",
        default=(),
        metavar="PIXELS",
        help="detect at each of these sizes of the shorter side",
    )
    parser.add_argument(
        "--refine",
        nargs="?",
        const=DEFAULT_WEIGHTS,
        metavar="NAME_OR_PATH",
        help="refine masks before they are written, with these weights of bpr refine "
        f"(default: {DEFAULT_WEIGHTS})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Detect; 1 where some images failed."""
    settings = DetectionSettings(
        score=arguments.score,
        nms_iou=arguments.nms_iou,
        detections=arguments.detections,
        flip=arguments.flip,
        scales=tuple(arguments.scales),
    )
    into_json = _json_job(arguments)  # what is wrong with it is said before anything is loaded
    detector = InstanceDetector(arguments.weights, arguments.device, settings)
    job: ImageJob = into_json or DetectFolderJob(
        arguments.images, detector.categories, arguments.out, max_pixels=arguments.max_pixels
    )
    if arguments.pictures is not None:
        images: AnyPath = arguments.images
        folder = images.parent if images.is_file() else images
        if arguments.pictures.resolve() == folder.resolve():
            raise ValueError(f"--pictures: expected another folder than {folder}")
        job = DrawnJob(job, detector.categories, arguments.pictures)
    refinement, refined_by = _refinement(arguments)
    header = {
        "source": str(job.source.resolve()),
        "bpr": __version__,
        "weights": detector.name,
        "weights_sha256": detector.weights_sha256,
        "settings": asdict(settings),
        **refined_by,
    }
    tally = DETECTED if refinement is None else REFINED
    with ProgressLine("images", len(job.keys())) as line:
        progress = run_images(
            job,
            partial(detect_images, job, detector, refinement),
            header,
            tally,
            arguments.overwrite,
            lambda progress: line.show(progress.finished, _remark(progress)),
        )
    refined = "" if refinement is None else ", refined"
    counted = f"{progress.counted['instances']} instances{refined}"
    return conclude(progress, "detected", counted, job.report)


def _json_job(arguments: argparse.Namespace) -> ImageJob | None:
    """The job of a COCO json; None where --out is a folder."""
    out: AnyPath = arguments.out
    if out.suffix.lower() == ".json":
        return DetectCocoJob(
            arguments.images, arguments.images_json, out, max_pixels=arguments.max_pixels
        )
    if arguments.images_json is not None:
        raise ValueError(f"--images-json: expected a .json as --out with it, got {out}")
    return None


def _refinement(arguments: argparse.Namespace) -> tuple[Refinement | None, Mapping[str, Any]]:
    """What --refine asks for, and what the results depend on by it."""
    if arguments.refine is None:
        return None, {}
    network = load_network(arguments.refine, arguments.device)
    settings = PatchSettings(patch_size=network.config.patch_size, padding=network.config.padding)
    about = {
        "refined_by": network.name,
        "refined_by_sha256": network.weights_sha256,
        "patch_settings": asdict(settings),
        "input_size": network.input_size,
    }
    return Refinement(network.runner(network.batch_size), settings), about


def _remark(progress: BatchProgress) -> str:
    remark = f"{progress.counted['instances']} instances"
    return remark + f", {len(progress.failures)} failed" if progress.failures else remark
