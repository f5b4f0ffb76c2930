"""Photographs with ground truth, and the masks that networks predicted for their objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bpr.pipeline.datasets.ground_truth import GroundTruth
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.predictions import Predictions
from bpr.pipeline.instance import Mask
from bpr.pipeline.metrics import mask_iou
from bpr.pipeline.training.pool import PoolObject, PoolSource

LEAST_IOU = 0.5  # of a predicted mask with the truth: others are another object


def pool_sources(
    images: ImageIndex,
    truth: GroundTruth,
    predictions: Sequence[Predictions],
    dataset: str = "",
    scale: float = 1.0,
) -> Iterator[PoolSource]:
    """Give each object the predicted masks that are meant for it.

    A predicted mask belongs to the object that it overlaps most, whatever its label, where their
    intersection over union is LEAST_IOU or more; others are not used.

    Args:
        images: where the photographs are.
        truth: accurate masks; crowds are not used.
        predictions: of networks, for any of the images.
        dataset: name of the set, for a balanced draw.
        scale: photographs are reduced by it, in (0, 1].

    Raises:
        ValueError: a photograph is missing, or a file cannot be read.
    """
    for key in truth.keys():  # noqa: SIM118 - a GroundTruth is no dict
        annotated = truth.read(key)
        objects = annotated.objects
        recorded: list[list[Mask]] = [[] for _ in objects]
        for source in predictions:
            for instance in source.read(key, annotated.size).instances:
                overlaps = [mask_iou(instance.mask, item.mask) for item in objects]
                if overlaps and max(overlaps) >= LEAST_IOU:
                    recorded[overlaps.index(max(overlaps))].append(instance.mask)
        yield PoolSource(
            image=images.find([key]),
            objects=tuple(
                PoolObject(item.mask, tuple(masks))
                for item, masks in zip(objects, recorded, strict=True)
            ),
            ignore=annotated.ignore,
            dataset=dataset,
            scale=scale,
        )
