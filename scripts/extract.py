"""Make a patch dataset for training: coarse and accurate masks, cut along the coarse boundary.

bpr extract predictions --images leftImg8bit/train --ground-truth gtFine/train --out patches
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from bpr.pipeline.batch.job_predictions import open_masks
from bpr.pipeline.datasets.coco_images import image_keys
from bpr.pipeline.datasets.coco_truth import CocoTruth
from bpr.pipeline.datasets.ground_truth import GroundTruth
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.open_ground_truth import open_ground_truth
from bpr.pipeline.datasets.predictions import Predictions
from bpr.pipeline.extraction.extract import (
    ExtractEngine,
    Extraction,
    ExtractProgress,
    extract,
    one_after_another,
)
from bpr.pipeline.extraction.settings import (
    FOLDERS,
    SHARDS,
    TRAIN_MIN_IOU,
    ExtractionSettings,
)
from bpr.pipeline.extraction.source import Source
from bpr.pipeline.formats import coco
from bpr.scripts.main import INPUT_FAILED
from bpr.scripts.options import (
    add_cluster_options,
    add_patch_options,
    asks_for_cluster,
    open_cluster,
    parse_path,
    patch_settings,
    print_some,
)
from bpr.scripts.progress import ProgressLine, per_second

REFERENCE_PATCH_SIZE = 64  # pixels
NMS_IOU = 0.25  # the reference's, for training


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr extract`."""
    parser.add_argument(
        "pred",
        type=parse_path,
        nargs="?",
        metavar="PRED",
        help="coarse masks: a folder of <image>_pred.txt files and mask PNGs (Cityscapes) or a "
        "COCO results json. Without PRED they are simulated from the ground truth",
    )
    parser.add_argument(
        "--images",
        type=parse_path,
        required=True,
        metavar="DIR",
        help="folder of the images, subfolders included",
    )
    parser.add_argument(
        "--ground-truth",
        type=parse_path,
        required=True,
        metavar="GT",
        help="COCO json, Cityscapes gtFine folder, or instance-map PNGs (0 background, k object, "
        "255 unknown)",
    )
    parser.add_argument(
        "--images-json",
        type=parse_path,
        metavar="J",
        help="COCO json whose 'images' name the files, if PRED is COCO results and GT is not a "
        "json",
    )
    parser.add_argument(
        "--out", type=parse_path, required=True, metavar="OUT", help="folder of the dataset"
    )
    parser.add_argument(
        "--split", default="train", help="name of this part of the dataset (default: %(default)s)"
    )
    parser.add_argument(
        "--layout",
        choices=[SHARDS, FOLDERS],
        default=SHARDS,
        help="shards: webdataset tars; folders: what the authors' training code reads "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--min-iou",
        type=_min_iou,
        default="auto",
        metavar="IOU|none|auto",
        help="leave out instances unless their IoU with the ground truth is above this; auto: "
        f"{TRAIN_MIN_IOU} for the split train, none for other splits (default: %(default)s)",
    )
    parser.add_argument(
        "--class-agnostic",
        action="store_true",
        help="ignore labels when an instance is matched to its ground truth (instance maps have "
        "no labels)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the simulated coarse masks (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start again instead of resuming an earlier run"
    )
    group = parser.add_argument_group("patches")
    add_patch_options(group, NMS_IOU, f"{REFERENCE_PATCH_SIZE}")
    group.add_argument(
        "--compat", action="store_true", help="cut patches exactly as the authors' code does"
    )
    group.add_argument(
        "--images-per-shard",
        type=int,
        default=ExtractionSettings.images_per_shard,
        metavar="N",
        help="images that one task reads, and whose patches one file holds (default: %(default)s)",
    )
    add_cluster_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Extract; 1 where some images failed."""
    min_iou = arguments.min_iou
    if min_iou == "auto":
        min_iou = TRAIN_MIN_IOU if arguments.split == "train" else None
    settings = ExtractionSettings(
        patches=patch_settings(arguments, REFERENCE_PATCH_SIZE, 0, arguments.compat),
        split=arguments.split,
        layout=arguments.layout,
        min_iou=min_iou,
        images_per_shard=arguments.images_per_shard,
        seed=arguments.seed,
    )
    source = _source(arguments)
    inputs = {
        name: str(path.resolve())
        for name, path in (
            ("predictions", arguments.pred),
            ("ground_truth", arguments.ground_truth),
            ("images", arguments.images),
        )
        if path is not None
    }
    extraction = Extraction(source, settings, arguments.out, inputs)
    if not asks_for_cluster(arguments):
        progress = _extract(arguments, extraction, one_after_another)
    else:
        with open_cluster(arguments) as cluster:
            progress = _extract(arguments, extraction, cluster.extract)
    print(
        f"{progress.extracted} of {progress.total} images extracted ({progress.new_patches} "
        f"patches), {progress.already_done} already done, {len(progress.failures)} failed; "
        f"{progress.patches} patches in all. Report: {extraction.report}"
    )
    failures = [f"{failure.image}: {failure.reason}" for failure in progress.failures]
    print_some("failed", failures, f", all in {extraction.report}")
    return INPUT_FAILED if progress.failures else 0


def _extract(
    arguments: argparse.Namespace, extraction: Extraction, engine: ExtractEngine
) -> ExtractProgress:
    with ProgressLine("images", len(extraction.source.keys())) as line:
        rate = per_second()
        return extract(
            extraction,
            engine,
            arguments.overwrite,
            lambda progress: line.show(progress.finished, _remark(progress, rate)),
        )


def _remark(progress: ExtractProgress, rate: Callable[[int], str]) -> str:
    remark = f"{progress.patches} patches, {rate(progress.new_patches)}"
    return remark + (f", {len(progress.failures)} failed" if progress.failures else "")


def _source(arguments: argparse.Namespace) -> Source:
    truth = open_ground_truth(arguments.ground_truth)
    images = ImageIndex(arguments.images, without=arguments.out)
    predictions: Predictions | None = None
    if arguments.pred is not None:
        labels = truth.labels if isinstance(truth, CocoTruth) else None
        predictions = open_masks(
            arguments.pred, None, _keys(arguments, truth), labels, arguments.images
        )
    agnostic = arguments.class_agnostic or truth.categories is None
    agnostic = agnostic or (predictions is not None and not predictions.has_labels)
    return Source(truth, predictions, images, agnostic)


def _keys(arguments: argparse.Namespace, truth: GroundTruth) -> Mapping[coco.ImageId, str] | None:
    """What the ground truth calls the images of a COCO results json."""
    if isinstance(truth, CocoTruth):
        return truth.key_of_ids()
    return image_keys(coco.load_images(arguments.images_json)) if arguments.images_json else None


def _min_iou(text: str) -> float | str | None:
    if text == "auto":
        return text
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a number in [0, 1), none or auto, got {text!r}"
        ) from None
