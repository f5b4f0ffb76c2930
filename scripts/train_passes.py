"""Train the network that refines in passes, also on the mistakes of your own model.

bpr train-passes --images photos --ground-truth maps --predictions results.json --out runs/mine
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from bpr.pipeline.datasets.coco_truth import CocoTruth
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.open_ground_truth import open_ground_truth
from bpr.pipeline.datasets.predictions import open_predictions
from bpr.pipeline.training.chain_stream import ChainSettings, ChainStream
from bpr.pipeline.training.pool import Pool, build_pool
from bpr.pipeline.training.pool_sources import pool_sources
from bpr.pipeline.training.present_network import PresentNetwork
from bpr.refiner.checkpoints import load_model, save_model
from bpr.refiner.model_config import ModelConfig
from bpr.refiner.unet import PatchUNet, start_from_imagenet
from bpr.refiner.unet_training import UNetRecipe, UNetTrainer
from bpr.scripts.options import parse_path
from bpr.scripts.progress import ProgressLine
from bpr.scripts.training_options import add_training_options, set_threads, with_origin

FALLING = 0.3  # of the steps, at the end


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr train-passes`."""
    parser.add_argument("--images", type=parse_path, metavar="DIR", help="photographs")
    parser.add_argument(
        "--ground-truth",
        type=parse_path,
        metavar="GT",
        help="their accurate masks: a COCO json, a Cityscapes folder or instance-map PNGs",
    )
    parser.add_argument(
        "--predictions",
        type=parse_path,
        nargs="*",
        default=[],
        metavar="PRED",
        help="masks that your model made of these photographs: COCO results jsons or Cityscapes "
        "prediction folders; they are mixed with simulated ones",
    )
    parser.add_argument(
        "--pool",
        type=Path,
        metavar="DIR",
        help="instead of these: a folder that an earlier run packed (RUN/pool)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="RUN",
        help="folder for the packed photographs, checkpoint, log.csv and weights; the same "
        "command resumes",
    )
    parser.add_argument(
        "--start-from",
        metavar="WEIGHTS",
        help="weights that refine in passes, by name or path, or the .pth of an EfficientNet-Lite0 "
        "trained on ImageNet (default: random ones)",
    )
    parser.add_argument(
        "--steps", type=int, default=4000, metavar="N", help="batches (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="stop after so long; the same command resumes there (default: at the last step)",
    )
    parser.add_argument(
        "--learning-rate", type=float, default=3e-4, metavar="R", help="default: %(default)s"
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="patches (default: %(default)s)"
    )
    parser.add_argument(
        "--input-size", type=int, default=96, metavar="S", help="pixels (default: %(default)s)"
    )
    add_training_options(parser, loaders=1, task="make patches")


def run(arguments: argparse.Namespace) -> int:
    """Train or resume; at the last step, write RUN/unet-lite0.safetensors."""
    given = (arguments.images is not None, arguments.ground_truth is not None)
    if given != (arguments.pool is None,) * 2:
        raise ValueError("--images, --ground-truth, --pool: expected both of the first or the last")
    set_threads(arguments)
    deadline = float("inf")
    if arguments.minutes is not None:
        deadline = time.time() + 60 * arguments.minutes
    torch.manual_seed(arguments.seed)
    network, origin = _first_network(arguments.start_from)
    recipe = UNetRecipe(
        steps=arguments.steps,
        falling_steps=round(FALLING * arguments.steps),
        learning_rate=arguments.learning_rate,
    )
    trainer = UNetTrainer(network, recipe, arguments.out, arguments.device)
    pool = _pool(arguments)
    print(f"{len(pool)} objects; step {trainer.step} of {recipe.steps}")
    stream = ChainStream(
        pool,
        ChainSettings(arguments.input_size, arguments.batch_size, arguments.seed),
        trainer.step,
        PresentNetwork(arguments.out / "average.pt", known=origin is not None),
    )
    loader = DataLoader(stream, batch_size=None, num_workers=arguments.loaders, prefetch_factor=4)
    with ProgressLine("steps", recipe.steps) as progress:
        average = trainer.run(
            loader,
            lambda row: progress.show(
                int(row["step"]),
                f"loss {row['loss']:.4f}, {row['patches_per_s']:.0f} patches/s",
            ),
            deadline,
        )
    if trainer.step < recipe.steps:
        print(f"stopped at step {trainer.step}: the same command resumes")
        return 0
    weights = arguments.out / f"{PatchUNet.architecture}.safetensors"
    config = ModelConfig(
        architecture=PatchUNet.architecture,
        input_size=arguments.input_size,
        patch_size="passes",
        data=with_origin(arguments.data, origin.data if origin else ""),
        licence=with_origin(arguments.licence, origin.licence if origin else ""),
    )
    save_model(weights, average, config)
    print(f"{weights}: trained for {trainer.step} steps; log.csv beside it")
    return 0


def _pool(arguments: argparse.Namespace) -> Pool:
    if arguments.pool is not None:
        return Pool(arguments.pool)
    folder = arguments.out / "pool"
    if (folder / "index.json").exists():
        return Pool(folder)
    truth = open_ground_truth(arguments.ground_truth)
    keys, labels = None, None
    if isinstance(truth, CocoTruth):
        keys, labels = truth.key_of_ids(), truth.labels
    predictions = [open_predictions(path, None, keys, labels) for path in arguments.predictions]
    pool = build_pool(pool_sources(ImageIndex(arguments.images), truth, predictions), folder)
    if len(pool) == 0:
        raise ValueError(f"{arguments.ground_truth}: expected objects to learn from, found none")
    return pool


def _first_network(start_from: str | None) -> tuple[PatchUNet, ModelConfig | None]:
    """The network to begin with, and what is known of the weights that it has from elsewhere."""
    network = PatchUNet()
    if start_from is None:
        return network, None
    if start_from.endswith(".pth"):
        start_from_imagenet(network, torch.load(start_from, map_location="cpu", weights_only=True))
        return network, None
    model = load_model(start_from)
    if not isinstance(model.network, PatchUNet):
        raise ValueError(
            f"--start-from {start_from}: expected weights that refine in passes, got "
            f"{model.config.architecture}"
        )
    return model.network, model.config
