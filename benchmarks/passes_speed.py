"""What several passes cost: beside one pass of hrnet18s, and beside the reference's steps.

    python -m benchmarks.passes_speed --images 4

Two things are measured in one run on one workload (`benchmarks.workload`, or --predictions and
--photographs), for each of --weights:

- on one thread, in processor time: the network, and all of refining without reading and writing;
- end to end on `--processes` processors: `bpr refine` as a user starts it, and the reference's
  steps (`benchmarks.reference`) with hrnet18s; wall time, the least of `--repeat` runs in turn.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2

from benchmarks.reference import BaselineSettings
from benchmarks.stages import Data, add_data_options, bpr_refine, open_data, reference_end_to_end
from bpr.pipeline.batch.cityscapes_job import CityscapesJob
from bpr.pipeline.chain_runner import ChainRunner
from bpr.pipeline.host import DEFAULT_BATCH_SIZE, HostRunner
from bpr.pipeline.instance import Float32Array, UInt8Array
from bpr.pipeline.refine import merge, plan, predict
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.predictor import LoadedPredictor, load_predictor

PAPERS = "hrnet18s"


@dataclass
class Timed:
    """A predictor that adds up its processor time."""

    predictor: LoadedPredictor
    seconds: float = 0.0
    patches: int = 0

    @property
    def input_size(self) -> int:
        """S of the network, in pixels."""
        return self.predictor.input_size

    def __call__(self, patches: UInt8Array) -> Float32Array:
        """Predict."""
        started = time.process_time()
        logits = self.predictor(patches)
        self.seconds += time.process_time() - started
        self.patches += len(patches)
        return logits


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one thread, for a whole workload."""

    network_s: float
    all_s: float
    patches: int
    instances: int


def cost(weights: str, data: Data) -> Cost:
    """Refine the workload on one thread."""
    timed = Timed(load_predictor(weights, "cpu", num_threads=1))
    config = timed.predictor.config
    settings = PatchSettings.of_weights(config)
    make = ChainRunner if config.patch_size == "passes" else HostRunner
    job = CityscapesJob(data.predictions, data.images, Path(tempfile.gettempdir()) / "unused")
    total, instances = 0.0, 0
    for key in tuple(job.keys()):
        loaded = job.read(key)
        runner = make(timed, DEFAULT_BATCH_SIZE)
        started = time.process_time()
        planned = plan(loaded.image, loaded.prediction, settings)
        for answer in predict([planned], runner):
            merge(answer)
        total += time.process_time() - started
        instances += len(loaded.prediction.instances)
    return Cost(network_s=timed.seconds, all_s=total, patches=timed.patches, instances=instances)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    parser.add_argument("--repeat", type=int, default=2, help="whole runs; the fastest counts")
    parser.add_argument("--weights", nargs="+", default=[PAPERS, "unet-lite0"])
    arguments = parser.parse_args()
    processors = set(sorted(os.sched_getaffinity(0))[: arguments.processes])
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = open_data(arguments, work)
        costs = {name: cost(name, data) for name in arguments.weights}
        first = next(iter(costs.values()))
        print(
            f"{data.num_images} images, {first.instances} instances\n\n"
            f"{'one thread':14}{'patches':>9}{'network ms/object':>19}{'x first':>9}"
            f"{'all ms/object':>15}{'all / network':>15}"
        )
        for name, own in costs.items():
            print(
                f"{name:14}{own.patches:9}{1e3 * own.network_s / own.instances:19.1f}"
                f"{own.network_s / first.network_s:9.2f}{1e3 * own.all_s / own.instances:15.1f}"
                f"{own.all_s / own.network_s:15.2f}"
            )
        reference, walls = [], {name: [] for name in arguments.weights}
        settings = BaselineSettings(num_processes=len(processors))
        for _ in range(arguments.repeat):
            for name in arguments.weights:
                run = bpr_refine(data, work / "out", ["--weights", name], processors)
                walls[name].append(run.wall_s)
            run = reference_end_to_end(data, work / "all", PAPERS, settings, processors)
            reference.append(run.wall_s)
        print(f"\nend to end, {len(processors)} processors{'s':>10}{'times the reference':>21}")
        print(f"{'reference':26}{min(reference):9.2f}{1:21.1f}")
        for name, own_walls in walls.items():
            print(f"{name:26}{min(own_walls):9.2f}{min(reference) / min(own_walls):21.1f}")


if __name__ == "__main__":
    main()
