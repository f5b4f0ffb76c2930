"""Train a detector on photographs with accurate masks: COCO, Cityscapes or instance maps.

bpr train-detector --images photos --ground-truth truth.json --preset small --out runs/first
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bpr._training_run import Pace, Process, joined, uses_bfloat16
from bpr.detector.build import Detector, build_detector
from bpr.detector.categories import Categories
from bpr.detector.checkpoints import DetectorInfo, load_detector, save_detector
from bpr.detector.imagenet import backbone_changes, is_backbone_file, load_backbone
from bpr.detector.presets import CHANGEABLE, PRESETS, change_preset, find_preset
from bpr.detector.training import DetectorTrainer, Events
from bpr.detector.transfer import transfer
from bpr.pipeline.datasets.coco_keypoints import read_keypoints
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.open_ground_truth import open_ground_truth
from bpr.pipeline.files import write_atomically
from bpr.pipeline.formats.images import encode_png
from bpr.pipeline.training.curves import draw_curves
from bpr.pipeline.training.detection_stream import (
    DetectionBatches,
    DetectionSource,
    DetectionStream,
    load,
    readable,
)
from bpr.pipeline.training.repeat_factors import repeat_factors
from bpr.pipeline.training.scan import Scan, recall, remember, scan
from bpr.scripts.options import parse_path, print_some
from bpr.scripts.progress import ProgressLine
from bpr.scripts.training_options import (
    add_training_options,
    run_claimed,
    save_clock,
    set_threads,
    with_origin,
)


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
        help="COCO json, Cityscapes gtFine folder, or a folder of instance maps (8-bit PNGs named "
        "like the photographs; all objects are of one category)",
    )
    parser.add_argument(
        "--preset",
        choices=list(PRESETS),
        metavar="NAME",
        help="network, image sizes and schedule (default: those of the detector in --start-from). "
        f"One of: {', '.join(PRESETS)}",
    )
    parser.add_argument(
        "--change",
        type=_change,
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help=f"change a field of the preset: {', '.join(CHANGEABLE)}; may be repeated",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="RUN",
        help="folder for checkpoint, log.csv and weights; run the same command again to resume",
    )
    parser.add_argument(
        "--start-from",
        metavar="WEIGHTS",
        help="a detector by path or name (categories it shares are recognised by name); a ResNet "
        "classifier by path (MSRA's R-50.pkl or R-101.pkl, torchvision's, timm's); or imagenet, a "
        "backbone that is downloaded (default: random weights)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="number of batches; the drops of the learning rate scale with it (default: the "
        "preset's)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images in a batch, over all processes; learning rate and steps follow it "
        "(default: the preset's)",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out images in which the scan of the data finds a fault (default: list the "
        "faults and stop)",
    )
    group = parser.add_argument_group("validation")
    group.add_argument(
        "--validation-images",
        type=parse_path,
        metavar="DIR",
        help="photographs that training does not see: AP is measured on them, and pictures are "
        "drawn",
    )
    group.add_argument(
        "--validation-ground-truth",
        type=parse_path,
        metavar="GT",
        help="ground truth of --validation-images, with the categories of --ground-truth",
    )
    group.add_argument(
        "--validate-every",
        type=int,
        default=Events.validate_every,
        metavar="N",
        help="steps between validations; there is one at the end too (default: %(default)s)",
    )
    add_training_options(parser, loaders=2, task="read images")


def run(arguments: argparse.Namespace) -> int:
    """Train, or resume; RUN/<preset>.safetensors is written with every checkpoint."""
    set_threads(arguments)
    if (arguments.validation_images is None) != (arguments.validation_ground_truth is None):
        raise ValueError("--validation-images, --validation-ground-truth: expected both or none")
    if arguments.validate_every < 1:
        raise ValueError(f"--validate-every: expected an int > 0, got {arguments.validate_every}")
    with joined(arguments.device) as process, ExitStack() as held:
        _train(arguments, process, held)
    return 0


@dataclass(frozen=True, kw_only=True)
class _Beginning:
    """The detector to train, and where its weights are from."""

    model: Detector
    preset: str
    changes: Mapping[str, Any]
    origin: DetectorInfo | None  # of weights of a detector
    said: str  # description for the terminal


def _train(arguments: argparse.Namespace, process: Process, held: ExitStack) -> None:
    source = _source(arguments.ground_truth, arguments.images)
    named = source.categories()
    categories = Categories(tuple(named.values()), tuple(named))
    clock = save_clock(arguments)
    torch.manual_seed(arguments.seed)
    begun = _begin(arguments, categories)
    preset = begun.model.preset
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
    held.enter_context(run_claimed(arguments, process))
    scanned = _scan(arguments, source, process)
    source = replace(source, without=scanned.unusable)
    if preset.keypoints:
        points = read_keypoints(arguments.ground_truth, preset.keypoints)
        source = replace(source, keypoints=points)
    labels = {key: set(found) for key, found in scanned.labels.items() if found}
    trainer = DetectorTrainer(
        begun.model,
        schedule,
        arguments.out,
        {
            "preset": begun.preset,
            "changes": dict(begun.changes),
            "images": str(arguments.images.resolve()),
            "ground_truth": str(arguments.ground_truth.resolve()),
            "images_used": len(source.keys()),
            "start_from": arguments.start_from,
        },
        arguments.seed,
        uses_bfloat16(arguments.precision, process.device),
        process,
    )
    stream = DetectionStream(
        source,
        DetectionBatches(share, arguments.seed),
        trainer.step * process.count + process.rank,
        process.count,
        repeat_factors(labels, preset.repeat_threshold),
    )
    loader = load(stream, arguments.loaders)
    if not process.is_first:
        trainer.run(readable(loader))
        return
    print(
        f"{len(stream)} images, {len(categories)} categories; {begun.said}; "
        f"step {trainer.step} of {schedule.steps}",
        flush=True,
    )
    weights = arguments.out / f"{begun.preset}.safetensors"
    info = DetectorInfo(
        preset=begun.preset,
        categories=categories,
        data=with_origin(arguments.data, begun.origin.data if begun.origin else ""),
        licence=with_origin(arguments.licence, begun.origin.licence if begun.origin else ""),
        changes=begun.changes,
    )
    with ProgressLine("steps", schedule.steps, at_once=True) as progress:
        board = _Board(arguments.out, progress, Pace(trainer.step, schedule.steps))

        def checkpoint() -> None:
            save_detector(weights, begun.model, info)
            board.draw()

        events = Events(
            on_log=board.log,
            on_step=board.step,
            on_checkpoint=checkpoint,
            validate=_validation(arguments, begun.model, info, process.device, board),
            validate_every=arguments.validate_every,
        )
        trainer.run(readable(loader), events, clock)
    if not weights.is_file():  # a run that ended right after its last checkpoint
        save_detector(weights, begun.model, info)
    print(f"{weights}: trained for {trainer.step} steps; curves beside it")


class _Board:
    """Shows how a training goes: progress, curves, and TensorBoard where it is installed."""

    def __init__(self, folder: Path, progress: ProgressLine, pace: Pace) -> None:
        self._folder, self._progress, self._pace = folder, progress, pace
        self._said = ""
        self._writer: Any = _tensorboard(folder)

    def log(self, row: Mapping[str, float]) -> None:
        """A row of the log."""
        self._said = f"loss {row['loss']:.3f}, {row['images_per_s']:.1f} images/s, "
        self._write(row, "training")

    def step(self, step: int) -> None:
        """A step was done."""
        self._progress.show(step, self._said + self._pace.time_left(step))

    def validated(self, scores: Mapping[str, float], step: int) -> None:
        """The detector was scored."""
        self._write({"step": step, **scores}, "validation")

    def draw(self) -> None:
        """Draw the curves anew."""
        logs = [self._folder / name for name in ("log.csv", "validation.csv")]
        draw_curves(logs, self._folder / "curves.png")

    def _write(self, row: Mapping[str, float], kind: str) -> None:
        if self._writer is not None:
            for name, value in row.items():
                self._writer.add_scalar(f"{kind}/{name}", value, int(row["step"]))


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder / "tensorboard")


def _source(ground_truth: Path, images: Path) -> DetectionSource:
    return DetectionSource(open_ground_truth(ground_truth), ImageIndex(images))


def _scan(arguments: argparse.Namespace, source: DetectionSource, process: Process) -> Scan:
    """Read all data once, and end where they are faulty.

    Raises:
        ValueError: there are faults, and no --skip-bad.
    """
    kept = arguments.out / "scan.json"
    is_begun = (arguments.out / "checkpoint.pt").is_file()
    found = recall(kept, arguments.ground_truth, arguments.images) if is_begun else None
    if found is None:
        with ProgressLine("images read", len(source.keys())) as progress:
            show = progress.show if process.is_first else lambda *_: None
            found = scan(source, arguments.loaders, lambda done: show(done, "looking for faults"))
    if process.is_first:
        remember(found, kept, arguments.ground_truth, arguments.images)
    faults = [fault for of_image in found.faults.values() for fault in of_image]
    if process.is_first:
        print_some("nothing annotated, left out", found.empty, f", all in {kept}")
        print_some("fault", faults, f", all in {kept}")
    if faults and not arguments.skip_bad:
        raise ValueError(
            f"expected data without faults, found {len(faults)} in {len(source.keys())} images, "
            "listed above; pass --skip-bad to train without these images"
        )
    if not any(found.labels.values()):
        raise ValueError("ground truth: expected images with objects, found none")
    return found


def _validation(
    arguments: argparse.Namespace,
    model: Detector,
    info: DetectorInfo,
    device: str,
    board: _Board,
) -> Callable[[int], Mapping[str, float]] | None:
    if arguments.validation_images is None:
        return None
    from bpr.pipeline.training.detector_validation import validate_detector

    source = _source(arguments.validation_ground_truth, arguments.validation_images)
    if tuple(source.categories()) != info.categories.ids:
        raise ValueError(
            "--validation-ground-truth: expected the categories of --ground-truth, got "
            f"{', '.join(source.categories().values())}"
        )

    def validate(step: int) -> Mapping[str, float]:
        found = validate_detector(model, info, source, device)
        picture = arguments.out / "predictions" / f"step_{step:07}.png"
        write_atomically(picture, encode_png(found.picture))
        board.validated(found.scores, step)
        return found.scores

    return validate


def _begin(arguments: argparse.Namespace, categories: Categories) -> _Beginning:
    """Make the detector that the options ask for, with the weights of --start-from."""
    start, wanted = arguments.start_from, dict(arguments.change)
    if start is None or start == "imagenet" or is_backbone_file(start):
        if arguments.preset is None:
            raise ValueError("--preset: expected one, as --start-from names no detector")
        plain = find_preset(arguments.preset)
        changes = {**(backbone_changes(start, plain) if start else {}), **wanted}
        model = build_detector(change_preset(plain, changes), len(categories))
        if start:
            load_backbone(model.backbone, model.preset, start)
        said = f"from the backbone of {start}" if start else "from random weights"
        return _Beginning(
            model=model, preset=arguments.preset, changes=changes, origin=None, said=said
        )
    source, info = load_detector(start)
    name = arguments.preset or info.preset
    changes = {**(info.changes if name == info.preset else {}), **wanted}
    model = build_detector(change_preset(find_preset(name), changes), len(categories))
    if source.preset.conventions != model.preset.conventions:
        raise ValueError(
            f"--start-from {start}: expected weights that see images as {name} does, got "
            f"{info.preset}"
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
        raise ValueError(f"--start-from {start}: {error}") from None
    fresh = f", new: {', '.join(taken.fresh)}" if taken.fresh else ""
    more = f", {len(taken.missing)} begin anew" if taken.missing else ""
    said = (
        f"{taken.num_tensors} tensors of {start}{more}; {len(taken.kept)} categories known{fresh}"
    )
    return _Beginning(model=model, preset=name, changes=changes, origin=info, said=said)


def _change(text: str) -> tuple[str, Any]:
    name, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"expected FIELD=VALUE, got {text!r}")
    known = {"true": True, "false": False}
    return name, known.get(value.lower(), int(value) if value.isdecimal() else value)
