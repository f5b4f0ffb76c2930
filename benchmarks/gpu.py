"""How fast a GPU refines, and what bounds it.

    python -m benchmarks.gpu --images 64
    python -m benchmarks.gpu --device cpu --images 1   # the same code, to see that it runs

On one workload (`benchmarks.workload`): the bare network on patches that lie on the GPU, as a
share of the rate at which the GPU multiplies large matrices; images decoded and planned before,
cut, predicted and averaged on the GPU; `bpr refine` with its files. Masks are compared with those
of the float32 path on the CPU.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.workload import WorkloadSettings, write_workload
from bpr.pipeline.batch.cityscapes_job import CityscapesJob
from bpr.pipeline.device import DeviceRunner
from bpr.pipeline.host import DEFAULT_BATCH_SIZE
from bpr.pipeline.instance import differing_pixels
from bpr.pipeline.network import load_network
from bpr.pipeline.plan import Plan
from bpr.pipeline.refine import merge, plan, predict
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.checkpoints import load_model
from bpr.refiner.device_network import DeviceNetwork
from bpr.refiner.model_config import DEFAULT_WEIGHTS

COMPARED_IMAGES = 4  # masks of more would say the same


@dataclass(frozen=True)
class Device:
    """Where to measure."""

    name: str
    is_gpu: bool

    def seconds(self, work: Callable[[], object], repeat: int) -> float:
        """Least seconds of some work, the device's own included, after one run to warm up."""
        best = np.inf
        for _ in range(repeat + 1):
            self._wait()
            started = time.perf_counter()
            work()
            self._wait()
            best = min(best, time.perf_counter() - started) if _ else best
        return float(best)

    def _wait(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize()


class Utilisation:
    """Mean of what nvidia-smi says while a block runs; NaN where there is none."""

    def __enter__(self) -> Utilisation:
        self._samples: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def percent(self) -> float:
        """Share of the time in which some kernel ran."""
        return float(np.mean(self._samples)) if self._samples else float("nan")

    def _sample(self) -> None:
        if shutil.which("nvidia-smi") is None:
            return
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._done.wait(0.2):
            said = subprocess.run(command, capture_output=True, text=True).stdout.split()
            self._samples += [float(said[0])] if said else []


def matrix_rate(device: Device, dtype: torch.dtype, side: int) -> float:
    """FLOP/s of a product of large square matrices."""
    a = torch.randn(side, side, device=device.name).to(dtype)
    b = torch.randn(side, side, device=device.name).to(dtype)
    return 2 * side**3 / device.seconds(lambda: a @ b, 10)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64, metavar="N")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--nms-iou", type=float, help="instead of the weights' own")
    parser.add_argument("--float32", action="store_true", help="instead of bfloat16")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    device = Device(arguments.device, arguments.device == "cuda")
    dtype = torch.float32 if arguments.float32 else torch.bfloat16
    model = load_model(arguments.weights)
    network = DeviceNetwork(
        model.network, model.config.input_size, device.name, not arguments.float32
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        num_instances = write_workload(work, WorkloadSettings(num_images=arguments.images))
        started = time.perf_counter()
        settings = PatchSettings.of_weights(model.config, arguments.nms_iou)
        plans = _plans(work, settings)
        reading = time.perf_counter() - started
        num_patches = sum(planned.num_patches for planned in plans)
        hardware = torch.cuda.get_device_name() if device.is_gpu else "CPU"
        print(
            f"{hardware}, torch {torch.__version__}, {dtype}; {len(plans)} images, {num_instances} "
            f"instances, {num_patches} patches; {model.name} at {network.input_size} px, batches "
            f"of {network.batch_size}\n"
        )
        rate = matrix_rate(device, dtype, 8192 if device.is_gpu else 512)
        per_patch = _flops(model.network, network.input_size)
        side = network.input_size
        batch = torch.zeros(
            (network.batch_size, side, side, 4), dtype=torch.uint8, device=device.name
        )
        bare = device.seconds(lambda: network.run(batch), arguments.repeat) / network.batch_size
        print(
            f"matrices {rate / 1e12:.1f} TFLOP/s; bare network {1 / bare:.0f} patches/s, "
            f"{per_patch / bare / 1e12:.1f} TFLOP/s, {per_patch / bare / rate:.1%} of that"
        )

        def on_device() -> None:
            for answer in predict(plans, DeviceRunner(network)):
                merge(answer)

        with Utilisation() as used:
            wall = device.seconds(on_device, arguments.repeat)
        print(
            f"images in memory      {wall:8.2f} s {len(plans) / wall:8.2f} images/s "
            f"{num_patches / wall:9.0f} patches/s, bare network {num_patches * bare / wall:.0%} "
            f"of it, GPU busy {used.percent:.0f} %"
        )
        command = [
            *(sys.executable, "-m", "bpr", "refine", str(work / "predictions")),
            *("--images", str(work / "images"), "--out", str(work / "refined")),
            *("--device", device.name, "--weights", arguments.weights, "--overwrite"),
            *("--backend", "torch" if arguments.float32 else "torch-bf16"),
            *("--nms-iou", str(settings.nms_iou)),
        ]
        with Utilisation() as used:
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            wall = time.perf_counter() - started
        print(
            f"bpr refine, with files {wall:7.2f} s {len(plans) / wall:8.2f} images/s "
            f"{num_patches / wall:9.0f} patches/s, bare network {num_patches * bare / wall:.0%} "
            f"of it, GPU busy {used.percent:.0f} % (start included; decoding and planning alone, "
            f"one thread: {reading:.1f} s)"
        )
        _compare(plans[:COMPARED_IMAGES], network, arguments.weights)


def _plans(work: Path, settings: PatchSettings) -> list[Plan]:
    job = CityscapesJob(work / "predictions", work / "images", work / "unused")
    plans = []
    for key in tuple(job.keys()):
        loaded = job.read(key)
        plans.append(plan(loaded.image, loaded.prediction, settings, key))
    return plans


def _flops(network: torch.nn.Module, input_size: int) -> int:
    """Of one patch, two for a multiplication with its addition."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 4, input_size, input_size))
    return counter.get_total_flops()


def _compare(plans: list[Plan], network: DeviceNetwork, weights: str) -> None:
    exact = load_network(weights, "cpu", exact=True).runner(DEFAULT_BATCH_SIZE)
    differing = area = 0
    for ours, theirs in zip(
        predict(plans, DeviceRunner(network)), predict(plans, exact), strict=True
    ):
        for first, second in zip(merge(ours).instances, merge(theirs).instances, strict=True):
            differing += differing_pixels(first.mask, second.mask)
            area += second.mask.area
    print(
        f"\nmask pixels that differ from float32 on the CPU: {differing / max(area, 1):.3%} "
        f"({differing} of {area})"
    )


if __name__ == "__main__":
    main()
