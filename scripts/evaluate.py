"""Measure masks with boundary metrics and average precision, before and after refinement.

bpr evaluate refined --before predictions --ground-truth gtFine --images leftImg8bit --out report
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bpr._extras import require
from bpr.pipeline.batch.job_predictions import open_masks
from bpr.pipeline.datasets.coco_images import image_keys
from bpr.pipeline.datasets.coco_truth import CocoTruth
from bpr.pipeline.datasets.ground_truth import GroundTruth
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.open_ground_truth import open_ground_truth
from bpr.pipeline.datasets.predictions import Predictions
from bpr.pipeline.evaluation.comparison import is_found
from bpr.pipeline.evaluation.evaluate import evaluate
from bpr.pipeline.evaluation.inputs import EvaluationInputs, EvaluationSettings
from bpr.pipeline.evaluation.matching import MatchSettings
from bpr.pipeline.evaluation.objects import objects_csv
from bpr.pipeline.evaluation.page import render_page
from bpr.pipeline.evaluation.report import build_report, is_own_report
from bpr.pipeline.evaluation.result import Evaluation
from bpr.pipeline.evaluation.rivals import GrabCut, GuidedFilter, Method
from bpr.pipeline.evaluation.tables import all_tables, render, worst_table
from bpr.pipeline.files import refuse_to_overwrite, write_atomically
from bpr.pipeline.formats import coco
from bpr.pipeline.settings import PatchSettings
from bpr.scripts.main import INPUT_FAILED
from bpr.scripts.options import add_network_options, add_prediction, patch_settings, print_some
from bpr.scripts.progress import ProgressLine

RIVALS: dict[str, type[GrabCut] | type[GuidedFilter]] = {
    "grabcut": GrabCut,
    "guided-filter": GuidedFilter,
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr evaluate`."""
    add_prediction(parser)
    parser.add_argument(
        "--ground-truth",
        type=Path,
        required=True,
        metavar="GT",
        help="COCO or LVIS json, a Cityscapes gtFine folder, or instance-map PNGs (a folder or "
        "one file; 0 background, k object, 255 not scored)",
    )
    parser.add_argument(
        "--before", type=Path, metavar="PRED0", help="the predictions before refinement"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the images, for pictures and methods"
    )
    parser.add_argument(
        "--images-json",
        type=Path,
        metavar="J",
        help="COCO json with 'images', if PRED is a COCO results json and GT is not a json",
    )
    parser.add_argument(
        "--before-masks",
        type=Path,
        nargs="+",
        metavar="PNG",
        help="the masks of --masks before refinement",
    )
    parser.add_argument(
        "--out", type=Path, metavar="OUT", help="folder for report.json and index.html"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a report.json or index.html in OUT that bpr evaluate did not write",
    )
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="M",
        help="refine the predictions (PRED0 where given) by grabcut, guided-filter or network "
        "weights (name or path) and add a row; may be repeated",
    )
    group = parser.add_argument_group("definitions")
    group.add_argument(
        "--boundary-ratio",
        type=float,
        metavar="R",
        help="width of boundary regions by the image's diagonal (default: 0.005 for Cityscapes, "
        "else 0.02)",
    )
    group.add_argument(
        "--positive-iou",
        type=float,
        default=0.5,
        metavar="IOU",
        help="least mask IoU at which a prediction belongs to an object (default: %(default)s)",
    )
    group.add_argument(
        "--threshold",
        type=float,
        default=0.01,
        metavar="T",
        help="change of Boundary IoU above which an object counts as better or worse "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--class-agnostic", action="store_true", help="ignore labels (always so with instance maps)"
    )
    group.add_argument(
        "--coco-categories",
        action="store_true",
        help="keep COCO's 80 categories of an LVIS json, under COCO's ids: AP* of COCO results",
    )
    group.add_argument(
        "--only-predicted",
        action="store_true",
        help="leave out images without predictions instead of counting their objects as missed",
    )
    group.add_argument(
        "--no-average-precision", action="store_true", help="boundary metrics only: faster"
    )
    group.add_argument(
        "--pictures",
        type=int,
        default=8,
        metavar="N",
        help="number of pictures of gains, and of losses (default: %(default)s)",
    )
    group = parser.add_argument_group("patches of the ceiling and of network methods")
    add_network_options(group)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate. Returns 1 if some images failed or have no counterpart."""
    require("cityscapesscripts", "faster_coco_eval", purpose="bpr evaluate")
    _check_out(arguments)
    truth = open_ground_truth(arguments.ground_truth, arguments.coco_categories)
    keys = _keys(arguments, truth)
    labels = truth.labels if isinstance(truth, CocoTruth) else None
    prediction = open_masks(arguments.pred, arguments.masks, keys, labels, arguments.images)
    before = None
    if arguments.before_masks:
        before = open_masks(arguments.pred, arguments.before_masks, keys, labels, arguments.images)
    elif arguments.before:
        before = open_masks(arguments.before, None, keys, labels, arguments.images)
    settings = _settings(arguments, truth, prediction)
    methods, about_methods = _methods(arguments)
    images = ImageIndex(arguments.images) if arguments.images else None
    inputs = EvaluationInputs(
        truth=truth, prediction=prediction, before=before, methods=methods, images=images
    )
    with ProgressLine("images", len(truth.keys())) as line:
        evaluation = evaluate(
            inputs,
            settings,
            arguments.only_predicted,
            lambda done, objects: line.show(done, f"{objects} objects"),
        )
    report = build_report(evaluation, _about(arguments, about_methods))
    for table in [*all_tables(report), worst_table(report)]:
        if table.rows:
            print(render(table), end="\n\n")
    if arguments.out:
        text = json.dumps(report, indent=1, allow_nan=False) + "\n"
        page = render_page(report, evaluation, images)
        write_atomically(arguments.out / "report.json", text.encode())
        write_atomically(arguments.out / "objects.csv", objects_csv(evaluation).encode())
        for name, content in page.files.items():
            write_atomically(arguments.out / name, content)
        write_atomically(arguments.out / "index.html", page.html.encode())
        print(f"Report: {arguments.out / 'index.html'}; report.json and objects.csv beside it.")
    _say_problems(evaluation)
    return 0 if evaluation.is_complete else INPUT_FAILED


def _check_out(arguments: argparse.Namespace) -> None:
    """Check that the report does not overwrite an input."""
    out = arguments.out
    if not out:
        return
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: expected a folder for the report, got a file")
    inputs = (arguments.pred, arguments.before, arguments.ground_truth, arguments.images)
    if any(path is not None and path.resolve() == out.resolve() for path in inputs):
        raise ValueError(f"--out {out}: expected a folder for the report alone, got that of inputs")
    files = [arguments.images_json, *(arguments.masks or ()), *(arguments.before_masks or ())]
    written = [out / "report.json", out / "index.html"]
    refuse_to_overwrite(written, [path for path in (*inputs, *files) if path is not None])
    there = next((path for path in written if path.exists()), None)
    if there is not None and not arguments.overwrite and not is_own_report(written[0]):
        raise ValueError(
            f"{there}: exists, but not from bpr evaluate; choose another place or add --overwrite"
        )


def _keys(arguments: argparse.Namespace, truth: GroundTruth) -> Mapping[coco.ImageId, str] | None:
    """What the ground truth calls the images of a COCO results json."""
    if isinstance(truth, CocoTruth):
        return truth.key_of_ids()
    return image_keys(coco.load_images(arguments.images_json)) if arguments.images_json else None


def _settings(
    arguments: argparse.Namespace, truth: GroundTruth, prediction: Predictions
) -> EvaluationSettings:
    agnostic = arguments.class_agnostic or truth.categories is None or not prediction.has_labels
    ratio = truth.boundary_ratio if arguments.boundary_ratio is None else arguments.boundary_ratio
    return EvaluationSettings(
        matching=MatchSettings(arguments.positive_iou, agnostic),
        boundary_ratio=ratio,
        threshold=arguments.threshold,
        patches=patch_settings(arguments, PatchSettings().patch_size, PatchSettings().padding),
        num_pictures=arguments.pictures,
        average_precision=not arguments.no_average_precision,
    )


def _methods(arguments: argparse.Namespace) -> tuple[dict[str, Method], dict[str, Any]]:
    """The methods by name, and what the report records of each."""
    methods: dict[str, Method] = {}
    about: dict[str, Any] = {}
    for wanted in arguments.method:
        name = Path(wanted).stem if Path(wanted).suffix else wanted
        if name in methods:
            raise ValueError(f"--method: expected different methods, got {name} twice")
        if name in RIVALS:
            methods[name] = RIVALS[name]()
            about[name] = vars(methods[name])
            continue
        # torch takes seconds to import: only where a network is asked for
        from bpr.pipeline.evaluation.network import load_method

        network = load_method(
            wanted,
            arguments.device,
            arguments.backend,
            lambda *own: patch_settings(arguments, *own),
        )
        methods[name] = network
        about[name] = network.about
    return methods, about


def _about(arguments: argparse.Namespace, methods: dict[str, Any]) -> dict[str, Any]:
    paths = {
        name: str(getattr(arguments, name))
        for name in ("pred", "before", "ground_truth", "images")
        if getattr(arguments, name)
    }
    return {**paths, "methods": methods}


def _say_problems(evaluation: Evaluation) -> None:
    failed = [f"{item.image}: {item.reason}" for item in evaluation.failures]
    print_some("left out, failed", failed, "")
    left_out = [f"{one.image}, {one.annotation}: {one.reason}" for one in evaluation.left_out]
    print_some("annotation left out", left_out, "")
    if not evaluation.objects:
        print("note: the ground truth of these images has no objects", file=sys.stderr)
    elif not is_found(evaluation.base.own_scores).any():
        print(
            "note: no object has a prediction that overlaps it enough "
            f"(IoU {evaluation.settings.matching.positive_iou:g}, --positive-iou)",
            file=sys.stderr,
        )
    print_some("no prediction, objects count as missed", evaluation.without_prediction, "")
    print_some("prediction without ground truth, not scored", evaluation.without_truth, "")
    if evaluation.unlike_images:
        print(
            f"note: in {evaluation.unlike_images} images, the instances before and after are not "
            "the same; each side is matched by itself there",
            file=sys.stderr,
        )
