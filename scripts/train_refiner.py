"""Train the patch network on photographs with instance maps; coarse masks are simulated.

bpr train-refiner --images photos --instance-maps maps --out runs/first --steps 10000
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import torch
from torch.utils.data import DataLoader

from pipeline.training_patches import PatchStream, StreamSettings, find_labelled_images
from refiner.checkpoints import ModelConfig, save_model
from refiner.network import ARCHITECTURES, PatchNetwork
from refiner.training import Trainer, TrainingSettings


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr train-refiner`."""
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="photographs")
    parser.add_argument(
        "--instance-maps",
        type=Path,
        required=True,
        metavar="DIR",
        help="8-bit PNGs of the same stems: 0 background, k instance, 255 unknown",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="RUN",
        help="folder for checkpoint, log.csv and weights; the same command goes on from there",
    )
    parser.add_argument(
        "--architecture", choices=list(ARCHITECTURES), default="hrnet18s", help="%(default)s"
    )
    parser.add_argument(
        "--input-size", type=int, default=64, metavar="S", help="pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="patches (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=10000, metavar="N", help="batches (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of PyTorch on a CPU (default: its own choice)"
    )
    parser.add_argument(
        "--loaders",
        type=int,
        default=1,
        metavar="N",
        help="processes that make patches (default: %(default)s)",
    )
    parser.add_argument(
        "--data", default="", help="what the photographs are, for the weights' file"
    )
    parser.add_argument("--licence", default="", help="what that allows, likewise")


def run(arguments: argparse.Namespace) -> int:
    """Train, or go on training, then write RUN/<architecture>.safetensors."""
    if arguments.loaders < 1:
        raise ValueError(f"--loaders: expected an int > 0, got {arguments.loaders}")
    cv2.setNumThreads(1)  # the loaders are the parallelism
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    images = find_labelled_images(arguments.images, arguments.instance_maps)
    config = ModelConfig(
        arguments.architecture,
        arguments.input_size,
        data=arguments.data,
        licence=arguments.licence,
    )
    torch.manual_seed(arguments.seed)
    trainer = Trainer(
        PatchNetwork(arguments.architecture),
        TrainingSettings(steps=arguments.steps),
        arguments.out / "checkpoint.pt",
        {
            "images": str(arguments.images.resolve()),
            "instance_maps": str(arguments.instance_maps.resolve()),
            "input_size": arguments.input_size,
            "batch_size": arguments.batch_size,
            "seed": arguments.seed,
        },
        arguments.device,
    )
    print(f"{len(images)} photographs; step {trainer.step} of {arguments.steps}")
    stream = PatchStream(
        images,
        StreamSettings(arguments.input_size, arguments.batch_size, arguments.seed),
        start=trainer.step,
    )
    loader = DataLoader(stream, batch_size=None, num_workers=arguments.loaders, prefetch_factor=4)
    network = trainer.run(loader, arguments.out / "log.csv")
    weights = arguments.out / f"{arguments.architecture}.safetensors"
    save_model(weights, network, config)
    print(f"{weights}: trained for {trainer.step} steps; log in {arguments.out / 'log.csv'}")
    return 0
