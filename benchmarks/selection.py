"""Quality against the number of patches: the reference's rule for choosing them, and ours.

    python -m benchmarks.selection --data DATA

Boundary IoU, boundary F at 1 px and the share of instances made worse on the validation
photographs (CONTRIBUTING.md lists the folders in DATA), for each rule and NMS IoU threshold. Only
the choice differs: both find the boundary, move boxes into the image, cut and average them alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

from benchmarks.quality import WORSE, Pair, read_pairs, scores
from bpr.pipeline.formats.images import read_image
from bpr.pipeline.geometry import find_boundary, patch_size_for, select_patches, suppress
from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Instance, Int64Array, Mask, Prediction, UInt8Array
from bpr.pipeline.plan import Plan
from bpr.pipeline.refine import merge, predict
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.model_config import DEFAULT_WEIGHTS
from bpr.refiner.predictor import LoadedPredictor, load_predictor

Rule = Callable[[Mask, PatchSettings], Int64Array]


def reference_rule(mask: Mask, settings: PatchSettings) -> Int64Array:
    """Greedy suppression, by score, ties in row-major order; boxes moved into the image before."""
    size = patch_size_for(mask, settings)
    half = size // 2
    height, width = mask.size
    xs, ys, score = find_boundary(mask)
    order = np.argsort(-score.astype(np.int8), kind="stable")
    x = np.clip(xs, half, max(half, width - half))[order]
    y = np.clip(ys, half, max(half, height - half))[order]
    kept = suppress(x, y, size, settings.nms_iou)
    x0, y0 = x[kept] - half, y[kept] - half
    return np.stack([x0, y0, x0 + size, y0 + size], axis=1)


RULES: dict[str, Rule] = {"suppression": reference_rule, "ours": select_patches}


def refine_pairs(
    pairs: Sequence[Pair],
    images: dict[Path, UInt8Array],
    rule: Rule,
    settings: PatchSettings,
    predictor: LoadedPredictor,
) -> tuple[float, list[Pair]]:
    """Patches per image, and the refined masks."""
    groups = [list(group) for _, group in groupby(pairs, key=lambda pair: pair.image)]
    plans = []
    for group in groups:
        prediction = Prediction(
            group[0].mask.size,
            tuple(Instance(mask=pair.mask, label=0, score=1.0) for pair in group),
        )
        boxes = tuple(rule(pair.mask, settings) for pair in group)
        plans.append(
            Plan(
                image=images[group[0].image],
                prediction=prediction,
                boxes=boxes,
                settings=settings,
            )
        )
    refined = []
    for answer, group in zip(predict(plans, HostRunner(predictor)), groups, strict=True):
        for instance, pair in zip(merge(answer).instances, group, strict=True):
            refined.append(replace(pair, mask=instance.mask))
    return sum(planned.num_patches for planned in plans) / len(plans), refined


def main() -> None:
    """Print a row per kind of coarse mask, rule and threshold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="val/, val_predictions/")
    parser.add_argument("--kinds", nargs="+", default=["maskhead", "polygon"])
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--nms-iou", nargs="+", type=float, default=[0.25, 0.4, 0.55])
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    arguments = parser.parse_args()
    predictor = load_predictor(arguments.weights, "cpu")
    config = predictor.config
    print(f"{predictor.name} in {predictor.backend}")
    print(f"{'':10}{'rule':12}{'NMS IoU':>8}{'patches/image':>15}{'bIoU':>8}{'F@1':>8}{'worse':>8}")
    for kind in arguments.kinds:
        pairs = list(read_pairs(arguments.data / "val_predictions" / kind, arguments.data / "val"))
        images = {pair.image: read_image(pair.image).pixels for pair in pairs}
        before = np.array([scores(pair)[0] for pair in pairs])
        print(f"{kind:10}{'(coarse)':35}{100 * before.mean():8.2f}")
        for name in arguments.rules:
            for nms_iou in arguments.nms_iou:
                settings = PatchSettings(
                    patch_size=config.patch_size, padding=config.padding, nms_iou=nms_iou
                )
                patches, refined = refine_pairs(pairs, images, RULES[name], settings, predictor)
                table = np.array([scores(pair)[:2] for pair in refined])
                worse = np.mean(table[:, 0] < before - WORSE)
                b_iou, f1 = 100 * table.mean(axis=0)
                print(
                    f"{kind:10}{name:12}{nms_iou:8}{patches:15.1f}{b_iou:8.2f}{f1:8.2f}"
                    f"{100 * worse:6.1f} %",
                    flush=True,
                )


if __name__ == "__main__":
    main()
