"""The part of `bpr train-refiner` that trains the network of several passes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch.utils.data import DataLoader

from bpr._training_run import Pace, Process, uses_bfloat16
from bpr.pipeline.datasets.coco_truth import CocoTruth
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.open_ground_truth import open_ground_truth
from bpr.pipeline.datasets.predictions import open_predictions
from bpr.pipeline.training.chain_stream import ChainSettings, ChainStream
from bpr.pipeline.training.curves import draw_curves
from bpr.pipeline.training.pool import Pool, build_pool
from bpr.pipeline.training.pool_sources import pool_sources
from bpr.pipeline.training.present_network import PresentNetwork
from bpr.refiner.checkpoints import load_model, save_model
from bpr.refiner.model_config import ModelConfig
from bpr.refiner.unet import PatchUNet, start_from_imagenet
from bpr.refiner.unet_training import UNetRecipe, UNetTrainer
from bpr.scripts.progress import ProgressLine
from bpr.scripts.training_options import run_claimed, save_clock, with_origin

INPUT_SIZE = 96  # pixels
STEPS = 4000
FALLING = 0.3  # of the steps, at the end
FIRST_RATE, LATER_RATE = 1e-3, 3e-4  # learning rate of a new network and of a trained one
ALONE_WITH_OTHERS = ("patches", "validation_images", "recipe")
"""Options of the networks of a single pass."""


def train_passes(arguments: argparse.Namespace, process: Process, held: ExitStack) -> None:
    """Train or resume; at the last step, write RUN/unet-lite0.safetensors.

    Args:
        held: takes the lock on RUN.

    Raises:
        ValueError: an option of other networks, data that cannot be used, or RUN is in use.
    """
    for name in ALONE_WITH_OTHERS:
        if getattr(arguments, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')}: expected a network of a single pass for this "
                f"option (--architecture hrnet18s), got {PatchUNet.architecture}"
            )
    if process.count > 1:
        raise ValueError(f"torchrun: expected one process for {PatchUNet.architecture}")
    torch.manual_seed(arguments.seed)
    network, origin = _first_network(arguments.start_from)
    steps = STEPS if arguments.steps is None else arguments.steps
    recipe = UNetRecipe(
        steps=steps,
        falling_steps=round(FALLING * steps),
        learning_rate=LATER_RATE if origin else FIRST_RATE,
        bfloat16=_in_bfloat16(arguments.precision, process.device),
    )
    input_size = arguments.input_size or INPUT_SIZE
    held.enter_context(run_claimed(arguments, process))
    pool = _pool(arguments)
    trainer = UNetTrainer(
        network,
        recipe,
        arguments.out,
        {
            "pool": str(pool.folder.resolve()),
            "input_size": input_size,
            "batch_size": arguments.batch_size,
            "seed": arguments.seed,
            "start_from": arguments.start_from,
        },
        process.device,
    )
    print(f"{len(pool)} objects; step {trainer.step} of {recipe.steps}")
    stream = ChainStream(
        pool,
        ChainSettings(input_size, arguments.batch_size, arguments.seed),
        trainer.step,
        PresentNetwork(arguments.out / "average.pt", known=origin is not None),
    )
    loader = DataLoader(stream, batch_size=None, num_workers=arguments.loaders, prefetch_factor=4)
    pace, said = Pace(trainer.step, recipe.steps), ""

    def log(row: Mapping[str, float]) -> None:
        nonlocal said
        said = f"loss {row['loss']:.4f}, {row['patches_per_s']:.0f} patches/s, "
        draw_curves([arguments.out / "log.csv"], arguments.out / "curves.png")

    with ProgressLine("steps", recipe.steps, at_once=True) as progress:
        average = trainer.run(
            loader,
            log,
            lambda step: progress.show(step, said + pace.time_left(step)),
            save_clock(arguments),
        )
    weights = arguments.out / f"{PatchUNet.architecture}.safetensors"
    config = ModelConfig(
        architecture=PatchUNet.architecture,
        input_size=input_size,
        patch_size="passes",
        data=with_origin(arguments.data, origin.data if origin else ""),
        licence=with_origin(arguments.licence, origin.licence if origin else ""),
    )
    save_model(weights, average, config)
    print(f"{weights}: trained for {trainer.step} steps; logs beside it")


def _in_bfloat16(precision: str, device: str) -> bool:
    # on a CPU its depthwise convolutions are slower in bfloat16 than in float32
    return uses_bfloat16(precision, device) and (precision != "auto" or device != "cpu")


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
