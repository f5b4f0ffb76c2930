"""The reference's steps, written plainly, as the baseline of `benchmarks.stages`.

From a description of github.com/chenhang98/BPR at 9eafc3f: a file for every stage, the boundary
searched by a convolution over the whole frame once per instance, which also reads the image again
and decodes its mask from RLE; suppression by torchvision; every patch through PNG files; the
network in float32, eager, a patch at a time; sums over whole frames. Left out, in its favour: the
patches of a ground truth that inference does not use, and starting a process for every stage.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional
from torchvision.ops import nms

from bpr.refiner.checkpoints import LoadedModel, load_model
from bpr.refiner.network import normalise, upsample

Map = Callable[[Callable[[Any], Any], list[Any]], list[Any]]

_models: list[LoadedModel] = []  # of a process: one


@dataclass(frozen=True)
class BaselineSettings:
    """What the reference is told."""

    patch_size: int = 64  # pixels
    nms_iou: float = 0.55
    num_processes: int = 1  # one thread each; the network's patches are divided among them too


@dataclass
class Times:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    patches: int = 0
    instances: int = 0
    clock: Callable[[], float] = time.perf_counter

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Add what the block takes to a stage."""
        started = self.clock()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + self.clock() - started


def run_baseline(
    predictions: Path,
    images: Path,
    weights: str,
    work: Path,
    settings: BaselineSettings,
    times: Times,
) -> None:
    """Refine a Cityscapes prediction folder the reference's way, into `work / "results"`."""
    for folder in ("img_dir", "mask_dir", "detail_dir", "results"):
        (work / folder).mkdir(parents=True)
    with _workers(settings.num_processes, weights) as run:
        _run_stages(predictions, images, work, settings, times, run)


def _run_stages(
    predictions: Path,
    images: Path,
    work: Path,
    settings: BaselineSettings,
    times: Times,
    run: Map,
) -> None:
    with times.of("decode"):
        instances = _read_predictions(predictions, images)
    times.instances = len(instances)
    with times.of("select and crop"):
        counts = run(partial(_split, work, settings), list(enumerate(instances)))
    times.patches = sum(counts)
    with times.of("network"):
        names = [path.name for path in (work / "img_dir").iterdir()]
        shares = [names[k :: settings.num_processes] for k in range(settings.num_processes)]
        results = run(partial(_predict, work, settings.patch_size), shares)
        merged = {name: patch for share in results for name, patch in share.items()}
        (work / "probabilities.pkl").write_bytes(pickle.dumps(merged))
    with times.of("reassemble"):
        probabilities = pickle.loads((work / "probabilities.pkl").read_bytes())
        parts = []
        for k, instance in enumerate(instances):
            boxes = np.load(work / "detail_dir" / f"{k}.npy")
            parts.append((instance, boxes, [probabilities[f"{k}_{i}"] for i in range(len(boxes))]))
        refined = run(_merge, parts)
    with times.of("encode and write"):
        for instance, rle in zip(instances, refined, strict=True):
            path = work / "results" / instance["file"]
            cv2.imwrite(str(path), coco_mask.decode(rle))


@contextmanager
def _workers(num_processes: int, weights: str) -> Iterator[Map]:
    """Something to map with, when all imports are done and the network is loaded."""
    if num_processes == 1:
        _begin(weights, None)
        yield lambda function, items: [function(item) for item in items]
        return
    context = get_context("spawn")
    ready = context.Barrier(num_processes + 1)
    with context.Pool(num_processes, _begin, (weights, ready)) as pool:
        ready.wait()
        yield lambda function, items: pool.map(function, items, chunksize=1)


def _begin(weights: str, ready: Barrier | None) -> None:
    torch.set_num_threads(1)
    _models[:] = [load_model(weights)]
    if ready is not None:
        ready.wait()


def _read_predictions(predictions: Path, images: Path) -> list[dict[str, Any]]:
    """cityscapes2json: a record with an RLE for every line of every txt."""
    records = []
    for path in sorted(predictions.glob("*_pred.txt")):
        (image,) = images.glob(path.name.removesuffix("_pred.txt") + ".*")
        for line in path.read_text().splitlines():
            name, label, score = line.split()
            mask = cv2.imread(str(predictions / name), cv2.IMREAD_GRAYSCALE) > 0
            if mask.any():
                rle = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
                records.append(
                    {"image": str(image), "file": name, "label": label, "score": score, "rle": rle}
                )
    return records


def _split(work: Path, settings: BaselineSettings, item: tuple[int, dict[str, Any]]) -> int:
    """split_patches: the boxes of one instance, and its patches as PNG files."""
    number, instance = item
    size, half = settings.patch_size, settings.patch_size // 2
    image = cv2.imread(instance["image"])
    mask = coco_mask.decode(instance["rle"])
    height, width = mask.shape
    frame = torch.from_numpy(mask.astype(np.float32))[None, None]
    count = functional.conv2d(frame, torch.ones(1, 1, 3, 3), padding=1)[0, 0]
    score = torch.minimum((count - 9).abs(), count) / 4.5
    ys, xs = torch.nonzero(score, as_tuple=True)
    boxes = torch.stack([xs - half, ys - half, xs + half, ys + half], dim=1)
    kept = nms(boxes.float(), score[ys, xs], settings.nms_iou)
    corners = boxes[kept, :2].clamp(min=0).numpy()
    limit = np.array([width - 1 - size, height - 1 - size])
    corners = np.where(corners >= limit + 1, limit, corners)
    for i, (x, y) in enumerate(corners.tolist()):
        name = f"{number}_{i}.png"
        cv2.imwrite(str(work / "img_dir" / name), image[y : y + size, x : x + size])
        cv2.imwrite(str(work / "mask_dir" / name), mask[y : y + size, x : x + size] * 255)
    np.save(work / "detail_dir" / f"{number}.npy", corners)
    return len(corners)


def _predict(work: Path, patch_size: int, names: list[str]) -> dict[str, np.ndarray]:
    """test_float: every patch from its files and alone through the network."""
    (model,) = _models
    results = {}
    side = (model.config.input_size, model.config.input_size)
    for name in names:
        image = cv2.cvtColor(cv2.imread(str(work / "img_dir" / name)), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(str(work / "mask_dir" / name), cv2.IMREAD_GRAYSCALE)
        patch = np.empty((1, *side, 4), np.uint8)
        patch[0, ..., :3] = cv2.resize(image, side)
        patch[0, ..., 3] = cv2.resize(mask, side, interpolation=cv2.INTER_NEAREST) > 0
        with torch.no_grad():
            logits = upsample(model.network(normalise(torch.from_numpy(patch))))
            logits = functional.interpolate(
                logits, size=(patch_size, patch_size), mode="bilinear", align_corners=False
            )
            results[Path(name).stem] = logits.softmax(dim=1)[0, 1].numpy()
    return results


def _merge(item: tuple[dict[str, Any], np.ndarray, list[np.ndarray]]) -> dict[str, Any]:
    """merge_patches: sums and counts over the whole frame."""
    instance, corners, probabilities = item
    mask = coco_mask.decode(instance["rle"])
    total, count = np.zeros(mask.shape, np.float32), np.zeros(mask.shape, np.float32)
    for (x, y), probability in zip(corners.tolist(), probabilities, strict=True):
        size = len(probability)
        total[y : y + size, x : x + size] += probability
        count[y : y + size, x : x + size] += 1
    covered = count > 0
    mask[covered] = total[covered] / count[covered] > 0.5
    rle: dict[str, Any] = coco_mask.encode(np.asfortranarray(mask))
    return rle
