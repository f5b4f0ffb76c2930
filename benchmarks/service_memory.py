"""Resident memory of `bpr serve` over 2,000 requests of many sizes, from 4 clients.

python -m benchmarks.service_memory --requests 2000
"""

from __future__ import annotations

import argparse
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from benchmarks.service_speed import parts_of, service
from benchmarks.workload import WorkloadSettings, write_workload
from bpr.pipeline.formats import cityscapes

CLIENTS = 4
SIZES = ((160, 120), (320, 240), (640, 480), (1024, 512))
ACCEPTS = ("application/json", "application/zip", "image/png")
MB = 2**20


def resident_mb(pid: int) -> float:
    """Memory that a process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def main() -> None:
    """Print memory after the first tenth, then after every tenth, and last / first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as folder:
        uploads = []
        for width, height in SIZES:
            work = Path(folder) / str(width)
            long_side = (height // 12, height // 6)
            write_workload(
                work,
                WorkloadSettings(
                    num_images=2, width=width, height=height, instances=(1, 3), long_side=long_side
                ),
            )
            paths = cityscapes.find_prediction_files(work / "predictions")
            uploads += [parts_of(work, path) for path in paths]
        with service() as (url, pid), httpx.Client(timeout=600) as client:

            def send(index: int) -> None:
                client.post(
                    f"{url}/refine",
                    files=uploads[index % len(uploads)],
                    headers={"Accept": ACCEPTS[index % len(ACCEPTS)]},
                ).raise_for_status()

            tenth = max(requests // 10, 1)
            seen = []
            with ThreadPoolExecutor(CLIENTS) as pool:
                for start in range(0, requests, tenth):
                    list(pool.map(send, range(start, min(start + tenth, requests))))
                    seen.append(resident_mb(pid))
                    print(f"{start + tenth} requests: {seen[-1]:.0f} MB", flush=True)
    print(f"memory after {requests} requests / after {tenth}: {seen[-1] / seen[0]:.3f}")


if __name__ == "__main__":
    main()
