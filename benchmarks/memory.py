"""Peak memory of `bpr refine` on a folder of 40 and of 400 images of 2048 x 1024.

python -m benchmarks.memory
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.workload import WorkloadSettings, write_workload


def peak_memory(folder: Path, num_images: int, options: list[str]) -> float:
    """Refine a workload in a process of its own; returns its peak resident memory in MB."""
    work = folder / str(num_images)
    instances = write_workload(work, WorkloadSettings(num_images=num_images))
    command = [
        *(sys.executable, "-m", "bpr", "refine", str(work / "predictions")),
        *("--images", str(work / "images"), "--out", str(work / "refined"), *options),
    ]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"bpr refine failed on {num_images} images")
    peak = usage.ru_maxrss / 1024
    print(f"{num_images} images, {instances} instances: {peak:.0f} MB", flush=True)
    return peak


def main() -> None:
    """Print both peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=40)
    parser.add_argument("--many", type=int, default=400)
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        few = peak_memory(Path(folder), arguments.few, options)
        many = peak_memory(Path(folder), arguments.many, options)
    print(f"peak on {arguments.many} images / on {arguments.few}: {many / few:.3f}")


if __name__ == "__main__":
    main()
