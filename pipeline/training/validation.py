"""Scores of a patch network in training: simulated coarse masks of photographs kept apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bpr.pipeline.datasets.simulate import mask_head, perfect, polygon
from bpr.pipeline.formats.images import IGNORE, read_image, read_instance_map
from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import BoolArray, Instance, Mask, Prediction, UInt8Array
from bpr.pipeline.metrics import boundary_f, boundary_iou
from bpr.pipeline.predictor import MaskPredictor
from bpr.pipeline.refine import refine
from bpr.pipeline.settings import PatchSettings
from bpr.pipeline.training.patch_stream import MIN_AREA, LabelledImage

KINDS = (mask_head, polygon, perfect)  # in turn, from instance to instance
WORSE = 0.01  # Boundary IoU


@dataclass(frozen=True, eq=False)
class Case:
    """A coarse mask to refine, and the truth about it."""

    image: UInt8Array  # (H, W, 3) RGB
    coarse: Mask
    gt: Mask
    ignore: BoolArray  # (H, W)


def validate(
    predictor: MaskPredictor,
    images: Sequence[LabelledImage],
    settings: PatchSettings,
    instances: int,
    seed: int = 0,
) -> Mapping[str, float]:
    """Refine coarse masks and score them, means over instances.

    Two of three coarse masks are simulated, by turns a mask head's and a polygon; every third
    is the accurate one, so that a network that spoils good masks scores lower.

    Args:
        predictor: the network.
        images: photographs with instance maps; `instances` are taken from all over them.
        settings: how patches are cut.
        instances: at most so many are refined.
        seed: of the simulated errors.

    Returns:
        boundary_iou, f1, f2, f3 (in 0..1), coarse_boundary_iou, and worse: the share of
        instances that lost more than 0.01 Boundary IoU.

    Raises:
        ValueError: no instance is large enough.
    """
    rows, runner = [], HostRunner(predictor)
    for case in _cases(images, instances, seed):
        (refined,) = refine(
            case.image,
            Prediction(case.gt.size, (Instance(mask=case.coarse, label=0, score=1.0),)),
            runner,
            settings,
        ).instances
        before = boundary_iou(case.coarse, case.gt, ignore=case.ignore)
        after = boundary_iou(refined.mask, case.gt, ignore=case.ignore)
        f = [boundary_f(refined.mask, case.gt, t, case.ignore) for t in (1, 2, 3)]
        rows.append((after, *f, before, after < before - WORSE))
    if not rows:
        raise ValueError(
            f"{images[0].instance_map.parent}: expected instances of {MIN_AREA} pixels or more "
            "to validate on, found none"
        )
    names = ("boundary_iou", "f1", "f2", "f3", "coarse_boundary_iou", "worse")
    return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))


def _cases(images: Sequence[LabelledImage], instances: int, seed: int) -> Iterator[Case]:
    found = [
        (source, label)
        for source in images
        for label, area in zip(
            *np.unique(read_instance_map(source.instance_map), return_counts=True), strict=True
        )
        if label not in (0, IGNORE) and area >= MIN_AREA
    ]
    chosen = np.unique(np.linspace(0, len(found) - 1, min(instances, len(found))).round())
    for number, position in enumerate(chosen.astype(int).tolist()):
        source, label = found[position]
        instance_map = read_instance_map(source.instance_map)
        gt = instance_map == label
        coarse = KINDS[number % len(KINDS)](gt, np.random.default_rng([seed, number]))
        yield Case(
            read_image(source.image).pixels,
            Mask.from_array(coarse if coarse.any() else gt),
            Mask.from_array(gt),
            instance_map == IGNORE,
        )
