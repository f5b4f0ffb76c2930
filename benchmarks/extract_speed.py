"""How fast patches are extracted: against the reference's steps, and on one and two workers.

    python -m benchmarks.extract_speed --images 8

The workload is that of `benchmarks.workload`: 2048 x 1024, 15 to 20 instances an image, objects
with simulated predictions; each prediction is its own ground truth, which costs both sides alike.
The baseline does what the reference's tools/split_patches.py does, for each instance: read the
image again, search the whole frame for boundary pixels with a float convolution, choose boxes
(by our suppression, the faster), find the ground truth among whole-frame masks, and write three
PNGs for each patch. One thread, one process; seconds of CPU, medians of the repeats.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn import functional

from benchmarks.workload import WorkloadSettings, write_workload
from bpr.pipeline.datasets.coco_truth import CocoTruth
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.predictions import CocoPredictions
from bpr.pipeline.extraction.extract import Extraction, extract
from bpr.pipeline.extraction.samples import cut_samples, patched_instances
from bpr.pipeline.extraction.settings import ExtractionSettings
from bpr.pipeline.extraction.source import PairedImage, Source
from bpr.pipeline.files import write_atomically
from bpr.pipeline.formats import cityscapes, rle
from bpr.pipeline.formats.images import read_image
from bpr.pipeline.geometry import suppress
from bpr.pipeline.instance import BoolArray, Mask
from bpr.pipeline.settings import PatchSettings

PATCHES = PatchSettings(
    patch_size=64, nms_iou=0.25, compat=True
)  # the reference's boxes on both sides


def write_coco(root: Path) -> None:
    """The workload's predictions as COCO results and, the same masks, as COCO ground truth."""
    import json

    images: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    for number, path in enumerate(cityscapes.find_prediction_files(root / "predictions"), 1):
        parsed = cityscapes.parse_prediction_file(path, root / "predictions")
        instances = cityscapes.read_instances(parsed)
        height, width = instances[0].mask.size
        name = f"{cityscapes.image_stem(path)}.png"
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for one in instances:
            record = {"image_id": number, "category_id": one.label}
            records.append({**record, "score": one.score, "segmentation": rle.encode(one.mask)})
    labels = sorted({record["category_id"] for record in records})
    truth = {
        "images": images,
        "annotations": [{**record, "id": n} for n, record in enumerate(records)],
        "categories": [{"id": label, "name": str(label)} for label in labels],
    }
    write_atomically(root / "gt.json", json.dumps(truth).encode())
    write_atomically(root / "pred.json", json.dumps(records).encode())


def open_source(root: Path) -> Source:
    truth = CocoTruth(root / "gt.json")
    predictions = CocoPredictions(root / "pred.json", truth.key_of_ids())
    return Source(truth, predictions, ImageIndex(root / "images"))


class Reference:
    """The reference's steps for one instance, as tests/golden/bpr/README.md lists them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._ones = torch.ones(1, 1, 3, 3)

    def select_and_crop(
        self, name: str, mask: BoolArray
    ) -> list[tuple[np.ndarray, np.ndarray, tuple[int, int]]]:
        image = cv2.imread(str(self._root / "images" / name))
        assert image is not None
        frame = torch.from_numpy(mask.astype(np.float32))[None, None]
        count = functional.conv2d(frame, self._ones, padding=1)[0, 0]
        score = (torch.minimum((count - 9).abs(), count) / 4.5).numpy()
        ys, xs = np.nonzero(score)
        order = np.argsort(-score[ys, xs], kind="stable")
        kept = order[suppress(xs[order], ys[order], 64, 0.25)]
        height, width = mask.shape
        cut = []
        for x, y in zip(xs[kept].tolist(), ys[kept].tolist(), strict=True):
            x0, y0 = max(x - 32, 0), max(y - 32, 0)
            x0 = width - 65 if x0 + 64 >= width else x0
            y0 = height - 65 if y0 + 64 >= height else y0
            box = np.s_[y0 : y0 + 64, x0 : x0 + 64]
            cut.append((image[box].copy(), mask[box].astype(np.uint8) * 255, (x0, y0)))
        return cut

    def whole(self, name: str, mask: BoolArray, codes: list[dict], size: Any, out: Path) -> int:
        best, gt = -1.0, np.zeros(mask.shape, np.bool_)
        for code in codes:
            other = rle.decode(code, size).to_array()
            union = np.count_nonzero(mask | other)
            iou = np.count_nonzero(mask & other) / union if union else 0.0
            if iou > best:
                best, gt = iou, other
        cut = self.select_and_crop(name, mask)
        for number, (pixels, coarse, (x, y)) in enumerate(cut):
            cv2.imwrite(str(out / f"{number}_img.png"), pixels)
            cv2.imwrite(str(out / f"{number}_mask.png"), coarse)
            target = gt[y : y + 64, x : x + 64].astype(np.uint8) * 255
            cv2.imwrite(str(out / f"{number}_ann.png"), target)
        return len(cut)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def compare(root: Path, repeats: int) -> None:
    """Print both sides of select + crop, and of everything from files to files."""
    source = open_source(root)
    reference = Reference(root)
    keys = source.keys()
    images = [source.read(key, 0) for key in keys]
    masks = [[pair.instance.mask for pair in image.pairs] for image in images]

    def ours() -> int:
        total = 0
        for image in images:
            fresh = read_image(root / "images" / image.name).pixels  # once an image
            paired = PairedImage(
                name=image.name, pixels=fresh, pairs=image.pairs, ignore=image.ignore
            )
            for one in patched_instances(paired, PATCHES, None):
                total += sum(1 for _ in cut_samples(paired, one, PATCHES))
        return total

    def theirs() -> int:
        total = 0
        for image, of_image in zip(images, masks, strict=True):
            for mask in of_image:
                total += len(reference.select_and_crop(image.name, mask.to_array()))
        return total

    def ours_whole() -> int:
        with tempfile.TemporaryDirectory() as out:
            settings = ExtractionSettings(patches=PATCHES, min_iou=None)
            return extract(Extraction(open_source(root), settings, Path(out))).patches

    def theirs_whole() -> int:
        total = 0
        with tempfile.TemporaryDirectory() as out:
            for image in images:
                codes = [(p.instance.label, rle.encode(p.gt)) for p in image.pairs]
                for pair in image.pairs:
                    same = [code for label, code in codes if label == pair.instance.label]
                    mask: Mask = pair.instance.mask
                    total += reference.whole(
                        image.name, mask.to_array(), same, mask.size, Path(out)
                    )
        return total

    num_instances = sum(map(len, masks))
    print(f"{len(images)} images, {num_instances} instances")
    print(f"{'CPU s an image':28}{'reference':>11}{'bpr':>8}{'ratio':>8}{'patches':>9}")
    rows: list[tuple[str, Callable[[], int], Callable[[], int]]] = [
        ("select + crop (with reading)", theirs, ours),
        ("files to files", theirs_whole, ours_whole),
    ]
    for what, slow, fast in rows:
        runs = [(timed(slow), timed(fast)) for _ in range(repeats)]
        assert runs[0][0][1] == runs[0][1][1], "both sides must cut the same patches"
        one, other = (median(run[side][0] for run in runs) / len(images) for side in (0, 1))
        print(f"{what:28}{one:11.3f}{other:8.3f}{one / other:8.1f}{runs[0][0][1]:9}", flush=True)


def scale(root: Path, workers: Iterable[int], repeats: int) -> None:
    """Print the throughput of local workers; Ray's start is not counted."""
    from bpr.pipeline.distributed import open_cluster

    source = open_source(root)
    settings = replace(ExtractionSettings(patches=PATCHES, min_iou=None), images_per_shard=2)
    print(f"{'workers':>8}{'images/s':>10}{'ratio':>8}{'MB written an image':>21}")
    first = None
    for count in workers:
        seconds = []
        with open_cluster(count) as cluster:
            for number in range(repeats + 1):
                with tempfile.TemporaryDirectory() as out:
                    extraction = Extraction(source, settings, Path(out))
                    started = time.perf_counter()
                    extract(extraction, cluster.extract)
                    if number:  # the first one starts the workers
                        seconds.append(time.perf_counter() - started)
                    size = sum(file.stat().st_size for file in Path(out).glob("*.tar"))
        rate = len(source.keys()) / median(seconds)
        first = first or rate
        written = size / len(source.keys()) / 1e6
        print(f"{count:8}{rate:10.2f}{rate / first:8.2f}{written:21.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--scaling-images", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, count in (("few", arguments.images), ("many", arguments.scaling_images)):
            write_workload(root / name, WorkloadSettings(num_images=count))
            write_coco(root / name)
        compare(root / "few", arguments.repeats)
        if arguments.workers:
            scale(root / "many", arguments.workers, arguments.repeats)


if __name__ == "__main__":
    main()
