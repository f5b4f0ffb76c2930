"""Train a patch network on photographs with accurate masks.

Coarse masks are simulated; masks that your own model predicted are mixed with them.

bpr train-refiner --images photos --ground-truth maps --predictions results.json --out runs/mine
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from bpr._training_run import Pace, Process, joined, uses_bfloat16
from bpr.pipeline.settings import PatchSettings
from bpr.pipeline.training.curves import draw_curves
from bpr.pipeline.training.patch_dataset import (
    PatchDataset,
    Patches,
    open_patches,
    patch_geometry,
)
from bpr.pipeline.training.patch_stream import (
    LabelledImage,
    PatchStream,
    StreamSettings,
    find_labelled_images,
)
from bpr.pipeline.training.validation import validate
from bpr.refiner.checkpoints import load_model, save_model
from bpr.refiner.model_config import DEFAULT_ARCHITECTURE, ModelConfig
from bpr.refiner.network import PAPER_ARCHITECTURES, PatchNetwork, imagenet_network
from bpr.refiner.recipes import RECIPES
from bpr.refiner.torch_predictor import TorchPredictor
from bpr.refiner.training import RefinerTrainer, Validate
from bpr.refiner.unet import PatchUNet
from bpr.scripts.options import parse_path
from bpr.scripts.progress import ProgressLine
from bpr.scripts.train_passes import INPUT_SIZE, STEPS, train_passes
from bpr.scripts.training_options import (
    add_training_options,
    run_claimed,
    save_clock,
    set_threads,
    with_origin,
)

PASSES = PatchUNet.architecture
DEFAULT_SIZE = 128  # pixels, of the networks of the paper


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr train-refiner`."""
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs")
    parser.add_argument(
        "--ground-truth",
        "--instance-maps",
        type=Path,
        metavar="GT",
        help="their accurate masks: a folder of instance maps (8-bit PNGs of the same stems: 0 "
        "background, k instance, 255 unknown); for unet-lite0 also a COCO json or a Cityscapes "
        "folder",
    )
    parser.add_argument(
        "--predictions",
        type=parse_path,
        nargs="*",
        default=[],
        metavar="PRED",
        help="masks that your model made of these photographs: COCO results jsons or Cityscapes "
        "prediction folders; unet-lite0 then starts from the weights of this name and learns "
        "from them and from simulated ones",
    )
    parser.add_argument(
        "--pool",
        type=Path,
        metavar="DIR",
        help="instead of these: photographs and masks that an earlier run of unet-lite0 packed "
        "(RUN/pool); training starts from the shipped weights too",
    )
    parser.add_argument(
        "--patches",
        type=Path,
        metavar="DATASET",
        help="patch data set of `bpr extract` (its split train), instead of --images and "
        "--instance-maps",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="RUN",
        help="folder for checkpoint, log.csv and weights; run the same command again to resume",
    )
    parser.add_argument(
        "--architecture",
        choices=[*PAPER_ARCHITECTURES, PASSES],
        help=f"network; {PASSES} refines in passes (default: that of the weights in "
        f"--start-from; {PASSES} with --predictions or --pool; else hrnet18s)",
    )
    parser.add_argument(
        "--start-from",
        metavar="WEIGHTS",
        help="weights to start from: a name or a path; for a network of the paper also imagenet, "
        f"which downloads them; for {PASSES} also the .pth of an EfficientNet-Lite0 trained on "
        "ImageNet (default: random weights)",
    )
    parser.add_argument(
        "--recipe",
        choices=list(RECIPES),
        help="optimizer and schedule of a network of the paper: bpr's, or the paper's "
        "(default: bpr)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"number of batches (default: that of the recipe; {STEPS} for {PASSES})",
    )
    parser.add_argument(
        "--input-size",
        type=int,
        metavar="S",
        help="side of a patch as the network sees it, pixels (default: "
        f"{DEFAULT_SIZE}; {INPUT_SIZE} for {PASSES})",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=32,
        metavar="N",
        help="patches in a batch of each process (default: %(default)s)",
    )
    parser.add_argument(
        "--validation-images",
        type=parse_path,
        metavar="DIR",
        help="photographs that training does not see; the weights that refine them best are kept",
    )
    parser.add_argument(
        "--validation-maps",
        type=parse_path,
        metavar="DIR",
        help="instance maps of --validation-images",
    )
    parser.add_argument(
        "--validation-instances",
        type=int,
        default=90,
        metavar="N",
        help="largest number of instances refined in each validation (default: %(default)s)",
    )
    add_training_options(parser, loaders=1, task="make patches")


def run(arguments: argparse.Namespace) -> int:
    """Train, or resume a training, then write RUN/<architecture>.safetensors."""
    if (arguments.validation_images is None) != (arguments.validation_maps is None):
        raise ValueError("--validation-images, --validation-maps: expected both or none")
    photographs = (arguments.images is not None, arguments.ground_truth is not None)
    packed = (arguments.patches is not None) + (arguments.pool is not None)
    if packed > 1 or photographs != (packed == 0,) * 2:
        raise ValueError(
            "expected --images with --ground-truth, or --patches alone, or --pool alone"
        )
    set_threads(arguments)
    with joined(arguments.device) as process, ExitStack() as held:
        train = train_passes if _architecture(arguments) == PASSES else _train
        train(arguments, process, held)
    return 0


def _architecture(arguments: argparse.Namespace) -> str:
    """The network to train; `start_from` is filled in where masks of one's own model are given.

    Raises:
        ValueError: an option that this network does not have.
    """
    for_passes = bool(arguments.predictions) or arguments.pool is not None
    start_from: str | None = arguments.start_from
    if arguments.architecture is not None:
        architecture = str(arguments.architecture)
    elif for_passes:
        architecture = PASSES
    elif start_from is None or start_from == "imagenet":
        architecture = DEFAULT_ARCHITECTURE
    else:
        architecture = load_model(start_from).config.architecture
    if for_passes and architecture != PASSES:
        raise ValueError(
            f"--predictions, --pool: expected --architecture {PASSES} for them, got {architecture}"
        )
    if for_passes and start_from is None:
        arguments.start_from = PASSES
    return architecture


def _train(arguments: argparse.Namespace, process: Process, held: ExitStack) -> None:
    source, about = _source(arguments)
    recipe = RECIPES[arguments.recipe or "bpr"]
    input_size = arguments.input_size or DEFAULT_SIZE
    if recipe.bfloat16 or arguments.precision != "auto":
        in_bfloat16 = uses_bfloat16(arguments.precision, process.device)
        recipe = replace(recipe, bfloat16=in_bfloat16)
    clock = save_clock(arguments)
    if arguments.steps is not None:
        recipe = replace(recipe, steps=arguments.steps)
    torch.manual_seed(arguments.seed)
    network, origin = _first_network(arguments)
    held.enter_context(run_claimed(arguments, process))
    trainer = RefinerTrainer(
        network,
        recipe,
        arguments.out,
        {
            **about,
            "input_size": input_size,
            "batch_size": arguments.batch_size,
            "seed": arguments.seed,
            "start_from": arguments.start_from,
        },
        process,
    )
    settings = StreamSettings(input_size, arguments.batch_size, arguments.seed)
    start = trainer.step * process.count + process.rank
    stream: PatchStream | PatchDataset
    if isinstance(source, list):
        stream, what = PatchStream(source, settings, start, process.count), "photographs"
    else:
        stream, what = PatchDataset(source, settings, start, process.count), "patches"
    loader = DataLoader(stream, batch_size=None, num_workers=arguments.loaders, prefetch_factor=4)
    if not process.is_first:
        trainer.run(loader)
        return
    print(f"{len(source)} {what}; step {trainer.step} of {recipe.steps}")
    pace, said = Pace(trainer.step, recipe.steps), ""

    def log(row: Mapping[str, float]) -> None:
        nonlocal said
        said = f"loss {row['loss']:.4f}, {row['patches_per_s']:.0f} patches/s, "
        logs = [arguments.out / name for name in ("log.csv", "validation.csv")]
        draw_curves(logs, arguments.out / "curves.png")

    with ProgressLine("steps", recipe.steps, at_once=True) as progress:
        network = trainer.run(
            loader,
            _validation(arguments, process.device, input_size),
            log,
            lambda step: progress.show(step, said + pace.time_left(step)),
            clock,
        )
    weights = arguments.out / f"{network.architecture}.safetensors"
    patch_size, padding = (
        (None, 0) if isinstance(source, list) else patch_geometry(arguments.patches)
    )
    config = ModelConfig(
        architecture=network.architecture,
        input_size=input_size,
        patch_size=patch_size,
        padding=padding,
        data=with_origin(arguments.data, origin.data if origin else ""),
        licence=with_origin(arguments.licence, origin.licence if origin else ""),
    )
    save_model(weights, network, config)
    print(f"{weights}: trained for {trainer.step} steps; logs beside it")


def _source(arguments: argparse.Namespace) -> tuple[list[LabelledImage] | Patches, dict[str, str]]:
    """Where patches come from, and what makes it another training."""
    if arguments.patches is not None:
        return open_patches(arguments.patches), {"patches": str(arguments.patches.resolve())}
    images = find_labelled_images(arguments.images, arguments.ground_truth)
    return images, {
        "images": str(arguments.images.resolve()),
        "ground_truth": str(arguments.ground_truth.resolve()),
    }


def _first_network(arguments: argparse.Namespace) -> tuple[PatchNetwork, ModelConfig | None]:
    """The network to begin with, and what is known of the weights that it has from elsewhere."""
    architecture = arguments.architecture or DEFAULT_ARCHITECTURE
    if arguments.start_from is None:
        return PatchNetwork(architecture), None
    if arguments.start_from == "imagenet":
        return imagenet_network(architecture), None
    model = load_model(arguments.start_from)
    if arguments.architecture not in (None, model.config.architecture):
        raise ValueError(
            f"--start-from {arguments.start_from}: expected weights of {arguments.architecture}, "
            f"got {model.config.architecture} (see --architecture)"
        )
    assert isinstance(model.network, PatchNetwork)  # --architecture names no other
    return model.network, model.config


def _validation(arguments: argparse.Namespace, device: str, input_size: int) -> Validate | None:
    if arguments.validation_images is None:
        return None
    images = find_labelled_images(arguments.validation_images, arguments.validation_maps)

    def score(network: PatchNetwork) -> Mapping[str, float]:
        predictor = TorchPredictor(network, input_size, device)
        return validate(predictor, images, PatchSettings(), arguments.validation_instances)

    return score
