"""What HTTP costs: latency beside the library's, throughput beside the batch job's.

    python -m benchmarks.service_speed --images 24 --repeats 5

Latency: one image of 2048 x 1024 with 20 instances; the library reads the same files, refines,
and writes RLE. Throughput: `bpr refine` on a folder, and 8 clients that send the same images to
`bpr serve` and take the same Cityscapes files back. Both sides of a ratio run in turn, in one run,
after a warm-up; the service and `bpr refine` are processes of their own.

Fairness: the 95th percentile of tiny requests, alone and beside four clients that send huge ones
without a pause. Crowds: right answers per second for 32 and for 128 clients that send tiny requests
without a pause and wait as `Retry-After` says.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from benchmarks.workload import WorkloadSettings, write_workload
from bpr.pipeline.formats import cityscapes, rle
from bpr.pipeline.formats.images import encode_mask, encode_png, read_image
from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Mask, Prediction
from bpr.pipeline.refine import refine
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.predictor import LoadedPredictor, load_predictor

CLIENTS = 8


@contextmanager
def service(options: Sequence[str] = ()) -> Iterator[tuple[str, int]]:
    """`bpr serve` on a free port, ready; gives its address and process id."""
    command = [sys.executable, "-m", "bpr", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        url = next(json.loads(line)["url"] for line in process.stderr if '"listening"' in line)
        reader = threading.Thread(target=process.stderr.read)
        reader.start()
        while httpx.get(url + "/readyz").status_code != 200:
            time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(60)
    reader.join()


def parts_of(work: Path, path: Path) -> list[tuple[str, tuple[str, bytes]]]:
    """The request for one image of a workload."""
    stem = cityscapes.image_stem(path)
    image = work / "images" / f"{stem}.png"
    parsed = cityscapes.parse_prediction_file(path, path.parent)
    records = [
        {
            "category_id": instance.label,
            "score": instance.score,
            "segmentation": rle.encode(instance.mask),
        }
        for instance in cityscapes.read_instances(parsed)
    ]
    content = json.dumps(records).encode()
    return [("image", (image.name, image.read_bytes())), ("instances", ("i.json", content))]


def call_library(work: Path, path: Path, predictor: LoadedPredictor) -> int:
    """Read, refine and encode one image as a program without the service would."""
    parsed = cityscapes.parse_prediction_file(path, path.parent)
    image = read_image(work / "images" / f"{cityscapes.image_stem(path)}.png").pixels
    instances = cityscapes.read_instances(parsed)
    prediction = Prediction((image.shape[0], image.shape[1]), instances)
    refined = refine(
        image,
        prediction,
        HostRunner(predictor),
        PatchSettings.of_weights(predictor.config),
    )
    return sum(len(rle.encode(instance.mask)["counts"]) for instance in refined.instances)


def measure_latency(folder: Path, repeats: int) -> None:
    """Print the medians of library calls and of single requests with the same files."""
    work = folder / "latency"
    write_workload(work, WorkloadSettings(num_images=1, instances=(20, 20)))
    (path,) = cityscapes.find_prediction_files(work / "predictions")
    parsed = cityscapes.parse_prediction_file(path, path.parent)
    image = work / "images" / f"{cityscapes.image_stem(path)}.png"
    files = [("image", (image.name, image.read_bytes()))]
    files += [
        ("masks", (line.file, (path.parent / line.file).read_bytes())) for line in parsed.lines
    ]
    predictor = load_predictor()
    times: dict[str, list[float]] = {"library": [], "service": []}
    with service() as (url, _), httpx.Client(timeout=600) as client:
        for repeat in range(repeats + 1):
            for name in times:
                started = time.perf_counter()
                if name == "library":
                    call_library(work, path, predictor)
                else:
                    client.post(f"{url}/refine", files=files).raise_for_status()
                if repeat:  # the first is the warm-up
                    times[name].append(time.perf_counter() - started)
    library, http = (statistics.median(times[name]) for name in ("library", "service"))
    print(
        f"latency, {len(parsed.lines)} instances on 2048 x 1024: library {library:.3f} s, "
        f"service {http:.3f} s, ratio {http / library:.3f} (median of {repeats})",
        flush=True,
    )


def measure_throughput(folder: Path, num_images: int) -> None:
    """Print images per second of `bpr refine` and of 8 clients on the same folder."""
    work = folder / "throughput"
    instances = write_workload(work, WorkloadSettings(num_images=num_images))
    paths = cityscapes.find_prediction_files(work / "predictions")
    requests = [parts_of(work, path) for path in paths]
    with service() as (url, _):

        def send(parts: list[tuple[str, tuple[str, bytes]]]) -> int:
            answer = httpx.post(
                f"{url}/refine", files=parts, headers={"Accept": "application/zip"}, timeout=600
            ).raise_for_status()
            with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
                return len(archive.namelist())

        send(requests[0])
        with ThreadPoolExecutor(CLIENTS) as pool:
            started = time.perf_counter()
            written = sum(pool.map(send, requests))
            http = num_images / (time.perf_counter() - started)
    out = work / "refined"
    command = [
        *(sys.executable, "-m", "bpr", "refine", str(work / "predictions")),
        *("--images", str(work / "images"), "--out", str(out)),
    ]
    subprocess.run(command, check=True, capture_output=True)
    report = json.loads((out / "report.json").read_text())
    batch = num_images / report["elapsed_s"]  # without the start of the process
    assert written == instances + num_images
    print(
        f"throughput, {num_images} images of 2048 x 1024 with {instances} instances: "
        f"batch job {batch:.3f} images/s, service with {CLIENTS} clients {http:.3f} images/s, "
        f"ratio {http / batch:.3f}"
    )


def tiny_parts() -> list[tuple[str, tuple[str, bytes]]]:
    """A request with one object on a small image."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (128, 128, 3), np.uint8)
    rows, columns = np.ogrid[:128, :128]
    disc = (rows - 64) ** 2 + (columns - 64) ** 2 < 40**2
    masks = encode_mask(Mask.from_array(disc))
    return [("image", ("tiny.png", encode_png(image))), ("masks", ("disc.png", masks))]


def measure_fairness(folder: Path, seconds: float, weights: str) -> None:
    """Print the 95th percentiles of tiny requests alone and beside four huge ones."""
    work = folder / "fairness"
    write_workload(work, WorkloadSettings(num_images=1, instances=(40, 40)))
    (path,) = cityscapes.find_prediction_files(work / "predictions")
    huge, tiny = parts_of(work, path), tiny_parts()
    is_over = threading.Event()

    def send_huge(url: str) -> None:
        with httpx.Client(timeout=600) as client:
            while not is_over.is_set():
                client.post(f"{url}/refine", files=huge)

    def tiny_p95(client: httpx.Client, url: str) -> float:
        times, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            started = time.perf_counter()
            client.post(f"{url}/refine", files=tiny).raise_for_status()
            times.append(time.perf_counter() - started)
            time.sleep(0.05)
        return float(np.percentile(times, 95))

    with service(["--weights", weights]) as (url, _), httpx.Client(timeout=600) as client:
        client.post(f"{url}/refine", files=tiny).raise_for_status()
        alone = tiny_p95(client, url)
        senders = [threading.Thread(target=send_huge, args=(url,)) for _ in range(4)]
        for sender in senders:
            sender.start()
        time.sleep(3)
        beside = tiny_p95(client, url)
        is_over.set()
        for sender in senders:
            sender.join()
    print(
        f"p95 of tiny requests: alone {alone:.3f} s, beside four huge ones {beside:.3f} s, ratio "
        f"{beside / alone:.2f}",
        flush=True,
    )


def measure_crowds(seconds: float, weights: str) -> None:
    """Print the right answers per second that 32 and 128 clients get."""
    tiny = tiny_parts()
    goodput = {}
    with service(["--weights", weights]) as (url, _):
        for count in (32, 128):
            # made before the clock starts: each costs more than a request
            clients = [httpx.Client(timeout=600, verify=False) for _ in range(count)]
            end = time.perf_counter() + seconds

            def send(client: httpx.Client, end: float = end) -> int:
                answered = 0
                while time.perf_counter() < end:
                    answer = client.post(f"{url}/refine", files=tiny)
                    if answer.status_code == 200:
                        answered += 1
                    else:
                        time.sleep(float(answer.headers["Retry-After"]))
                return answered

            with ThreadPoolExecutor(count) as pool:
                goodput[count] = sum(pool.map(send, clients)) / seconds
            for client in clients:
                client.close()
    print(
        f"goodput of tiny requests: {goodput[32]:.1f}/s with 32 clients, {goodput[128]:.1f}/s with "
        f"128, ratio {goodput[128] / goodput[32]:.2f}",
        flush=True,
    )


def main() -> None:
    """Run all measurements, or the ones named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20, help="of each part of a load")
    parser.add_argument("--weights", default="hrnet18s", help="of the fairness and the crowds")
    parser.add_argument(
        "--only", choices=["latency", "throughput", "fairness", "crowds"], help="measure this alone"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measures = {
            "latency": lambda: measure_latency(folder, arguments.repeats),
            "throughput": lambda: measure_throughput(folder, arguments.images),
            "fairness": lambda: measure_fairness(folder, arguments.seconds, arguments.weights),
            "crowds": lambda: measure_crowds(arguments.seconds, arguments.weights),
        }
        for wanted in [arguments.only] if arguments.only else measures:
            measures[wanted]()


if __name__ == "__main__":
    main()
