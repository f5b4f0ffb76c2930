"""Where the time goes, stage by stage and end to end, against the reference and the bound.

    python -m benchmarks.stages --images 2 --processes 2

Three things are measured in one run on one workload (`benchmarks.workload`, or --predictions and
--photographs):

- the reference's steps (`benchmarks.reference`) at its NMS IoU 0.55, the same weights in float32,
  batch 1;
- ours, every stage by itself on one thread, then `bpr refine` as a user starts it, at three
  settings: the reference's own patches; ours at its NMS IoU; the default;
- the bound: the bare network, in the same backend, on the same patches already in memory.

Stages are in seconds of processor time on one thread, which a busy machine disturbs less; end to
end is wall time on `--processes` processors, the smallest of `--repeat` runs in turn.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.reference import BaselineSettings, Times, run_baseline
from benchmarks.workload import WorkloadSettings, write_workload
from bpr.pipeline.batch.cityscapes_job import CityscapesJob
from bpr.pipeline.crops import crop_patches
from bpr.pipeline.formats.cityscapes import encode_prediction
from bpr.pipeline.geometry import select_patches
from bpr.pipeline.host import DEFAULT_BATCH_SIZE
from bpr.pipeline.plan import Answer
from bpr.pipeline.refine import merge
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.model_config import DEFAULT_WEIGHTS
from bpr.refiner.predictor import LoadedPredictor, load_predictor

ROOT = Path(__file__).parents[1]
# what the kernel says of a child at its end counts this process too, from which it was forked
SAY_PEAK = "print(next(line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line))\n"
STAGES = ("decode", "select", "crop", "network", "reassemble", "encode", "write")
REFERENCE_STAGES = {
    "decode": "decode",
    "select": "select and crop",
    "network": "network",
    "reassemble": "reassemble",
    "encode": "encode and write",
}


@dataclass(frozen=True)
class Data:
    """A Cityscapes prediction folder and its images."""

    predictions: Path
    images: Path

    @property
    def num_images(self) -> int:
        """Images with predictions."""
        return len(list(self.predictions.glob("*_pred.txt")))


@dataclass(frozen=True)
class Case:
    """Settings of `bpr refine` that are measured."""

    name: str
    options: tuple[str, ...]
    patch: PatchSettings


@dataclass(frozen=True)
class EndToEnd:
    """One whole run."""

    wall_s: float
    peak_mb: float  # of the process


def our_stages(
    data: Data, work: Path, predictor: LoadedPredictor, settings: PatchSettings
) -> Times:
    """Seconds by stage on one thread, and the counts."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    times = Times(clock=time.process_time)
    job = CityscapesJob(data.predictions, data.images, work)
    for key in tuple(job.keys()):
        with times.of("decode"):
            loaded = job.read(key)
        instances = loaded.prediction.instances
        with times.of("select"):
            boxes = tuple(select_patches(item.mask, settings) for item in instances)
        with times.of("crop"):
            patches = [
                crop_patches(loaded.image, item.mask, of_it, predictor.input_size, settings)
                for item, of_it in zip(instances, boxes, strict=True)
            ]
        together = np.concatenate(patches)
        with times.of("network"):
            logits = predictor(together)
        ends = np.cumsum([len(of_it) for of_it in boxes])[:-1]
        answer = Answer(
            prediction=loaded.prediction,
            boxes=boxes,
            settings=settings,
            name=key,
            logits=tuple(np.split(logits, ends)),
        )
        with times.of("reassemble"):
            refined = merge(answer)
        with times.of("encode"):
            files = encode_prediction(loaded.source, refined)
        with times.of("write"):
            for name, content in files.items():
                (work / name).write_bytes(content)
        times.patches += len(together)
        times.instances += len(instances)
    return times


def patches_in_memory(data: Data, input_size: int, settings: PatchSettings) -> np.ndarray:
    """All patches of the workload, for the bound."""
    job = CityscapesJob(data.predictions, data.images, Path(tempfile.gettempdir()) / "unused")
    patches = []
    for key in tuple(job.keys()):
        loaded = job.read(key)
        for item in loaded.prediction.instances:
            boxes = select_patches(item.mask, settings)
            patches.append(crop_patches(loaded.image, item.mask, boxes, input_size, settings))
    return np.concatenate(patches)


def bare_network(predictor: LoadedPredictor, patches: np.ndarray, repeat: int) -> float:
    """Least wall seconds of the network alone."""
    best = np.inf
    for _ in range(repeat):
        started = time.perf_counter()
        for start in range(0, len(patches), DEFAULT_BATCH_SIZE):
            predictor(patches[start : start + DEFAULT_BATCH_SIZE])
        best = min(best, time.perf_counter() - started)
    return best


def bpr_refine(data: Data, out: Path, options: list[str], processors: set[int]) -> EndToEnd:
    """`bpr refine` in a process of its own, start and imports included."""
    shutil.rmtree(out, ignore_errors=True)
    code = "import sys; from bpr.scripts.main import main\nstatus = main(sys.argv[1:])\n"
    command = [
        *(sys.executable, "-c", f"{code}{SAY_PEAK}sys.exit(status)\n", "refine"),
        *(str(data.predictions), "--images", str(data.images), "--out", str(out), *options),
    ]
    return _timed(command, processors)


def reference_end_to_end(
    data: Data, work: Path, weights: str, settings: BaselineSettings, processors: set[int]
) -> EndToEnd:
    """The baseline in a process of its own; imports and loading are not counted."""
    shutil.rmtree(work, ignore_errors=True)
    code = (
        "import sys; from pathlib import Path\n"
        "from benchmarks.reference import *\n"
        "if __name__ == '__main__':\n"
        "    settings = BaselineSettings(int(sys.argv[5]), float(sys.argv[6]), int(sys.argv[7]))\n"
        "    times = Times()\n"
        "    run_baseline(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]),\n"
        "                 settings, times)\n"
        f"    print(sum(times.seconds.values()))\n    {SAY_PEAK}"
    )
    script = work.with_suffix(".py")
    script.write_text(code)
    command = [
        *(sys.executable, str(script), str(data.predictions), str(data.images), weights),
        *(str(work), str(settings.patch_size), str(settings.nms_iou), str(settings.num_processes)),
    ]
    return _timed(command, processors, says_its_time=True)


def _timed(command: list[str], processors: set[int], says_its_time: bool = False) -> EndToEnd:
    # threads that spin while they wait would slow the baseline on a machine that has other work
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    environment.pop("OMP_NUM_THREADS", None)
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, processors),
    )
    assert process.stdout is not None
    said = process.stdout.read()
    status = process.wait()
    wall = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command[:6])} … failed")
    *_, seconds, peak_kb = said.split()
    return EndToEnd(float(seconds) if says_its_time else wall, float(peak_kb) / 1024)


def print_stages(reference: Times, ours: dict[str, Times], num_images: int) -> None:
    """A column for each setting, in ms per image, and the ratios to the reference."""
    names = list(ours)
    width = max(len(name) for name in [*names, "reference"]) + 2
    print(f"\nms of one thread per image   {'reference':>{width}}", end="")
    print("".join(f"{name:>{width}}" for name in names))
    for stage in STAGES:
        theirs = reference.seconds.get(REFERENCE_STAGES.get(stage, ""), np.nan)
        cells = [theirs, *(times.seconds[stage] for times in ours.values())]
        texts = ["" if np.isnan(s) else f"{1e3 * s / num_images:.1f}" for s in cells]
        print(f"  {stage:27}" + "".join(f"{text:>{width}}" for text in texts))
    for label, their_stages, our_parts in (
        ("select+crop+reassemble", ("select and crop", "reassemble"), STAGES[1:3] + STAGES[4:5]),
        ("network", ("network",), ("network",)),
    ):
        theirs = sum(reference.seconds[stage] for stage in their_stages)
        ratios = [theirs / sum(t.seconds[s] for s in our_parts) for t in ours.values()]
        print(f"  {label + ', times faster':27}{'1.0':>{width}}", end="")
        print("".join(f"{ratio:>{width}.1f}" for ratio in ratios))
    everything = [reference, *ours.values()]
    print(f"  {'patches per image':27}", end="")
    print("".join(f"{times.patches / num_images:>{width}.0f}" for times in everything))
    print(f"  {'ms per instance':27}", end="")
    per_instance = [1e3 * sum(t.seconds.values()) / t.instances for t in everything]
    print("".join(f"{value:>{width}.1f}" for value in per_instance))


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """The workload, and how much of the machine works on it."""
    parser.add_argument("--images", type=int, default=2, metavar="N", help="of the workload")
    parser.add_argument("--predictions", type=Path, help="another workload")
    parser.add_argument("--photographs", type=Path, help="its images")
    parser.add_argument("--processes", type=int, default=2, help="processors to use")


def open_data(arguments: argparse.Namespace, work: Path) -> Data:
    """What `add_data_options` names; a workload of our own is written below `work`."""
    if arguments.predictions is not None:
        return Data(arguments.predictions, arguments.photographs)
    write_workload(work / "data", WorkloadSettings(num_images=arguments.images))
    return Data(work / "data/predictions", work / "data/images")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    parser.add_argument("--repeat", type=int, default=3, help="whole runs; the fastest counts")
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    arguments = parser.parse_args()
    processors = set(sorted(os.sched_getaffinity(0))[: arguments.processes])
    weights = ("--weights", arguments.weights)
    cv2.setNumThreads(1)
    single = load_predictor(arguments.weights, "cpu", num_threads=1)
    os.sched_setaffinity(0, processors)
    best = load_predictor(arguments.weights, "cpu")
    baseline = BaselineSettings()
    dense = ("--nms-iou", str(baseline.nms_iou), *weights)
    same = ("--compat", "--patch-size", "64", "--backend", best.backend, *dense)
    size = best.config.patch_size
    cases = [
        Case(
            "its patches", same, PatchSettings(patch_size=64, nms_iou=baseline.nms_iou, compat=True)
        ),
        Case(
            f"NMS {baseline.nms_iou}",
            dense,
            PatchSettings(patch_size=size, nms_iou=baseline.nms_iou),
        ),
        Case("default", weights, PatchSettings.of_weights(best.config)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = open_data(arguments, work)
        reference = Times(clock=time.process_time)
        run_baseline(
            data.predictions, data.images, arguments.weights, work / "one", baseline, reference
        )
        ours, bounds = {}, {}
        for case in cases:
            ours[case.name] = our_stages(data, work / "stages", single, case.patch)
            in_memory = patches_in_memory(data, best.input_size, case.patch)
            bounds[case.name] = bare_network(best, in_memory, arguments.repeat)
        print(
            f"{data.num_images} images, {reference.instances} instances, {best.name} at "
            f"{best.input_size} px in {best.backend}, {len(processors)} processors"
        )
        print_stages(reference, ours, data.num_images)
        theirs: list[EndToEnd] = []
        runs: dict[str, list[EndToEnd]] = {case.name: [] for case in cases}
        with_all = BaselineSettings(num_processes=len(processors))
        for _ in range(arguments.repeat):
            for case in cases:
                runs[case.name].append(
                    bpr_refine(data, work / "out", list(case.options), processors)
                )
            theirs.append(
                reference_end_to_end(data, work / "all", arguments.weights, with_all, processors)
            )
        _print_end_to_end(theirs, runs, bounds, ours, data.num_images)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n(this process, with both implementations: {peak:.0f} MB)")


def _print_end_to_end(
    theirs: list[EndToEnd],
    runs: dict[str, list[EndToEnd]],
    bounds: dict[str, float],
    ours: dict[str, Times],
    num_images: int,
) -> None:
    slowest = min(run.wall_s for run in theirs)
    print(
        f"\nend to end, wall{'s':>9}{'images/s':>10}{'patches/s':>11}{'MB':>7}"
        f"{'x reference':>13}{'bare network s':>16}{'wall / bare':>13}"
    )
    peak = max(run.peak_mb for run in theirs)
    print(f"{'reference':16}{slowest:9.2f}{num_images / slowest:10.2f}{'':11}{peak:7.0f}{1:13.1f}")
    for name, of_it in runs.items():
        wall = min(run.wall_s for run in of_it)
        peak = max(run.peak_mb for run in of_it)
        bound, patches = bounds[name], ours[name].patches
        print(
            f"{name:16}{wall:9.2f}{num_images / wall:10.2f}{patches / wall:11.0f}{peak:7.0f}"
            f"{slowest / wall:13.1f}{bound:16.2f}{wall / bound:13.2f}"
        )


if __name__ == "__main__":
    main()
