"""What smaller weights save: the shipped ones on the same workload, in turns.

    python -m benchmarks.weights_speed --images 8

For each: milliseconds of one thread per patch of the bare network, and the wall time of `bpr
refine` as a user starts it, by those of the default weights. What they cost in quality is in their
cards, with the commands.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks.stages import (
    add_data_options,
    bare_network,
    bpr_refine,
    open_data,
    patches_in_memory,
)
from bpr._weight_files import shipped_names
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.model_config import DEFAULT_WEIGHTS
from bpr.refiner.predictor import load_predictor


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the fastest of each counts")
    arguments = parser.parse_args()
    processors = set(sorted(os.sched_getaffinity(0))[: arguments.processes])
    names = sorted(shipped_names(), key=lambda name: name != DEFAULT_WEIGHTS)
    with tempfile.TemporaryDirectory() as work:
        data = open_data(arguments, Path(work))
        num_images = data.num_images
        bare = dict.fromkeys(names, float("inf"))
        wall = dict(bare)
        for _ in range(arguments.repeat):
            for name in names:
                predictor = load_predictor(name, "cpu", num_threads=1)
                settings = PatchSettings(
                    patch_size=predictor.config.patch_size, padding=predictor.config.padding
                )
                patches = patches_in_memory(data, predictor.input_size, settings)
                seconds = bare_network(predictor, patches[:256], 2) / len(patches[:256])
                bare[name] = min(bare[name], seconds)
                options = ["--weights", name, "--device", "cpu"]
                run = bpr_refine(data, Path(work) / "out", options, processors)
                wall[name] = min(wall[name], run.wall_s)
    print(f"\n{num_images} images, {len(patches)} patches, {predictor.backend}")
    print(f"{'':12}{'ms a patch':>12}{'times':>8}{'bpr refine s':>14}{'times':>8}")
    for name in names:
        print(
            f"{name:12}{1e3 * bare[name]:12.2f}{bare[DEFAULT_WEIGHTS] / bare[name]:8.2f}"
            f"{wall[name]:14.2f}{wall[DEFAULT_WEIGHTS] / wall[name]:8.2f}"
        )


if __name__ == "__main__":
    main()
