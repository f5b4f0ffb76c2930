"""Every kind of coarse mask at once: a table of what refining makes of each, with intervals.

    python -m benchmarks.kinds DATA --weights unet-lite0 --rivals

DATA holds val/, val_predictions/KIND/, val-fine/ and val-fine_predictions/KIND/ (photographs with
instance maps, and Cityscapes prediction folders whose masks are named by their instance). Each
method refines the same masks, and the same code scores all of them. `perfect` are the accurate
masks themselves. Intervals are 95 % of 2,000 bootstrap samples over objects.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from operator import itemgetter
from pathlib import Path

import cv2
import numpy as np

from benchmarks.quality import WORSE, Pair, read_pairs
from bpr.pipeline.evaluation.rivals import GrabCut, GuidedFilter, Method
from bpr.pipeline.evaluation.strips import LIGHT, outlined
from bpr.pipeline.formats.images import encode_png, read_image
from bpr.pipeline.instance import Box, Instance, Mask, Prediction, UInt8Array, grow
from bpr.pipeline.instance_pictures import tile
from bpr.pipeline.metrics import boundary_f, boundary_iou
from bpr.pipeline.network import load_network
from bpr.pipeline.refine import merge, plan, predict
from bpr.pipeline.settings import PatchSettings

PERFECT = "perfect"
SAMPLES = 2000  # of the bootstrap
SIZES = (128, 320)  # px of the object's long side: small, medium, large
WORST = 10  # pictures of a kind
ACCURATE = 0.97  # Boundary IoU of a mask that is to be left alone


@dataclass(frozen=True, kw_only=True)
class Row:
    """One object refined by one method."""

    folder: str  # val or val-fine
    kind: str
    name: str  # of the mask's file
    method: str
    long_side: int  # px, of the coarse mask
    before: float  # Boundary IoU
    after: float
    f1_before: float
    f1_after: float
    patches: int
    seconds: float


def read_kinds(data: Path, only: Sequence[str], every: int) -> Iterator[tuple[str, str, Pair]]:
    """Folder, kind and object; every so manieth object of each kind."""
    for folder in ("val", "val-fine"):
        predictions = data / f"{folder}_predictions"
        kinds = sorted(path.name for path in predictions.iterdir() if path.is_dir())
        for kind in (*kinds, PERFECT):
            if only and f"{folder}/{kind}" not in only:
                continue
            source = predictions / ("maskhead" if kind == PERFECT else kind)
            for number, pair in enumerate(read_pairs(source, data / folder)):
                if number % every == 0 and not pair.mask.is_empty:
                    mask = pair.gt if kind == PERFECT else pair.mask
                    yield folder, kind, replace(pair, mask=mask)


class Network:
    """Weights as a method that also counts its patches."""

    def __init__(self, weights: str, backend: str, nms_iou: float | None) -> None:
        network = load_network(weights, device="cpu", backend=backend)
        self._settings = PatchSettings.of_weights(network.config, nms_iou)
        self._runner = network.runner(network.batch_size)
        self.patches = 0

    def __call__(self, image: UInt8Array, prediction: Prediction) -> Prediction:
        """Refine one image."""
        (answer,) = predict([plan(image, prediction, self._settings)], self._runner)
        self.patches = answer.num_patches
        return merge(answer)


def score(
    folder: str, kind: str, pair: Pair, methods: dict[str, Method]
) -> Iterator[tuple[Row, Mask]]:
    """Refine one object by each method; the mask that came out is the second."""
    image = read_image(pair.image).pixels
    prediction = Prediction(pair.mask.size, (Instance(mask=pair.mask, label=0, score=1.0),))
    x0, y0, x1, y1 = pair.mask.window
    before = boundary_iou(pair.mask, pair.gt, ignore=pair.ignore)
    f1_before = boundary_f(pair.mask, pair.gt, 1, pair.ignore)
    for name, method in methods.items():
        started = time.perf_counter()
        (refined,) = method(image, prediction).instances
        seconds = time.perf_counter() - started
        row = Row(
            folder=folder,
            kind=kind,
            name=pair.name,
            method=name,
            long_side=max(x1 - x0, y1 - y0),
            before=before,
            after=boundary_iou(refined.mask, pair.gt, ignore=pair.ignore),
            f1_before=f1_before,
            f1_after=boundary_f(refined.mask, pair.gt, 1, pair.ignore),
            patches=method.patches if isinstance(method, Network) else 0,
            seconds=seconds,
        )
        yield row, refined.mask


def describe(what: str, rows: Sequence[Row]) -> str:
    """One line of the table."""
    before, after = (np.array([getattr(row, f) for row in rows]) for f in ("before", "after"))
    draws = np.random.default_rng(0).integers(len(rows), size=(SAMPLES, len(rows)))
    low, high = np.percentile(after[draws].mean(axis=1), (2.5, 97.5))
    worse = np.mean(after < before - WORSE)
    f1 = [np.mean([getattr(row, f) for row in rows]) for f in ("f1_before", "f1_after")]
    patches, seconds = (np.mean([getattr(row, f) for row in rows]) for f in ("patches", "seconds"))
    return (
        f"{what:40}{len(rows):5}{100 * before.mean():7.1f}{100 * after.mean():7.1f}"
        f" [{100 * low:.1f}, {100 * high:.1f}]{worse:6.0%}{100 * f1[0]:7.1f}{100 * f1[1]:7.1f}"
        f"{patches:8.0f}{1000 * seconds:8.0f}"
    )


def report(rows: Sequence[Row]) -> Iterator[str]:
    """The whole table: by kind, by size and by quality of the coarse mask."""
    yield f"{'':40}{'n':>5}{'before':>7}{'after':>7} [95 %]        worse F1 before after patches ms"
    for folder, kind, method in dict.fromkeys((row.folder, row.kind, row.method) for row in rows):
        own = [r for r in rows if (r.folder, r.kind, r.method) == (folder, kind, method)]
        yield describe(f"{folder} {kind} {method}", own)
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method and row.kind != PERFECT]
        edges = (0, *SIZES, 10**6)
        for low, high in pairwise(edges):
            chosen = [row for row in own if low <= row.long_side < high]
            if chosen:
                yield describe(f"long side {low} to {high} px {method}", chosen)
        for low_b, high_b in ((0.0, 0.5), (0.5, 0.7), (0.7, 0.85), (0.85, 1.01)):
            chosen = [row for row in own if low_b <= row.before < high_b]
            if chosen:
                yield describe(f"coarse {low_b:.2f} to {high_b:.2f} {method}", chosen)
        accurate = [r for r in rows if r.method == method and r.before >= ACCURATE]
        if accurate:
            kept = np.mean([row.after >= row.before - WORSE for row in accurate])
            yield f"accurate masks kept by {method}: {kept:.1%} of {len(accurate)}"


def draw(pair: Pair, row: Row, refined: Mask) -> UInt8Array:
    """The photograph, and the outlines before, after and as they should be, side by side."""
    windows = np.array([m.window for m in (pair.gt, pair.mask, refined) if not m.is_empty])
    box: Box = (*windows[:, :2].min(axis=0).tolist(), *windows[:, 2:].max(axis=0).tolist())
    x0, y0, x1, y1 = box = grow(box, max(box[2] - box[0], box[3] - box[1]) // 8, pair.gt.size)
    scale = max(400 // max(x1 - x0, y1 - y0), 1)
    image = read_image(pair.image).pixels[y0:y1, x0:x1]
    plain = np.ascontiguousarray(image.repeat(scale, axis=0).repeat(scale, axis=1))
    panels = [plain] + [
        outlined(plain, mask.read(box), scale, LIGHT[name])
        for name, mask in (("before", pair.mask), ("after", refined), ("gt", pair.gt))
    ]
    text = f"{row.name} {100 * row.before:.1f} -> {100 * row.after:.1f}"
    strip = tile(panels, 4, 320)
    cv2.putText(strip, text, (6, 312), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (200, 0, 0), 1)
    return strip


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", nargs="*", default=[], help="names or files, one row each")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--nms-iou", type=float, help="instead of the weights' own")
    parser.add_argument("--rivals", action="store_true", help="GrabCut and the guided filter too")
    parser.add_argument("--only", nargs="*", default=[], help="val/maskhead ...: these kinds")
    parser.add_argument("--every", type=int, default=1, help="take every so manieth object")
    parser.add_argument("--out", type=Path, help="the rows as json")
    parser.add_argument("--worst", type=Path, help="folder for pictures of each kind's worst ten")
    arguments = parser.parse_args(argv)
    methods: dict[str, Method] = {
        Path(name).stem: Network(name, arguments.backend, arguments.nms_iou)
        for name in arguments.weights
    }
    if arguments.rivals:
        methods |= {"GrabCut": GrabCut(), "guided filter": GuidedFilter()}
    rows = []
    worst: dict[str, list[tuple[float, UInt8Array]]] = {}
    for folder, kind, pair in read_kinds(arguments.data, arguments.only, arguments.every):
        for row, refined in score(folder, kind, pair, methods):
            rows.append(row)
            if arguments.worst is None:
                continue
            found = worst.setdefault(f"{folder}-{kind}-{row.method}", [])
            loss = row.after - row.before
            if len(found) < WORST or loss < found[-1][0]:
                found.append((loss, draw(pair, row, refined)))
                found.sort(key=itemgetter(0))
                del found[WORST:]
    for name, found in worst.items():
        arguments.worst.mkdir(parents=True, exist_ok=True)
        sheet = np.concatenate([picture for _, picture in found])
        (arguments.worst / f"{name}.png").write_bytes(encode_png(sheet))
    for line in report(rows):
        print(line)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps([asdict(row) for row in rows]), "utf-8")


if __name__ == "__main__":
    main()
