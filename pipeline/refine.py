"""Refinement of predictions, end to end: read this first.

One path serves every entrance: `plan` chooses the patches of an image, `predict` runs the
network over a stream of images in batches that cross their borders, `merge` puts the answers
back. `refine` does the three for one image. The network is behind a `Runner`
(pipeline/runner.py), on a CPU or on a GPU.

Source: Tang et al., CVPR 2021 (arXiv:2104.05239), section 3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from bpr.pipeline.chain import first_boxes
from bpr.pipeline.crops import patch_probabilities
from bpr.pipeline.geometry import average_patches, reassemble, select_patches
from bpr.pipeline.harm import without_harm
from bpr.pipeline.instance import Float32Array, Mask, Prediction, SoftMask, UInt8Array
from bpr.pipeline.overlaps import avoid_overlaps, resolve_overlaps
from bpr.pipeline.plan import Answer, Plan
from bpr.pipeline.runner import PendingImage, Runner
from bpr.pipeline.settings import PatchSettings

MAX_WAITING_IMAGES = 16


def refine(
    image: UInt8Array, prediction: Prediction, runner: Runner, settings: PatchSettings
) -> Prediction:
    """Refine all instances of one image.

    Args:
        image: (H, W, 3) uint8 RGB.
        prediction: coarse masks of the same size.
        runner: runs the network, and holds no patches of others.
        settings: how patches are cut.

    Returns:
        The same instances in the same order, with refined masks.

    Raises:
        ValueError: image and prediction differ in size.
    """
    planned = plan(image, prediction, settings)
    (answer,) = predict([planned], runner)
    return merge(answer)


def plan(
    image: UInt8Array, prediction: Prediction, settings: PatchSettings, name: str = ""
) -> Plan:
    """Choose the patches of one image.

    Raises:
        ValueError: image and prediction differ in size.
    """
    if image.shape != (*prediction.size, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"image: expected uint8 RGB of shape {(*prediction.size, 3)}, the size of its masks, "
            f"got {image.dtype} of shape {image.shape}"
        )
    select = first_boxes if settings.patch_size == "passes" else select_patches
    boxes = tuple(select(instance.mask, settings) for instance in prediction.instances)
    return Plan(image=image, prediction=prediction, boxes=boxes, settings=settings, name=name)


def predict(plans: Iterable[Plan], runner: Runner) -> Iterator[Answer]:
    """Run the network over the patches of many images.

    Batches are filled across instances and images. Answers come in the order of the plans, each
    as soon as its last patch is predicted; at most `MAX_WAITING_IMAGES` wait for their batch.

    Args:
        plans: images with patches.
        runner: runs the network, and holds no patches of others.
    """
    waiting: deque[PendingImage] = deque()
    complete: deque[PendingImage] = deque()
    for planned in plans:
        waiting.append(runner.open(planned))
        _run_full_batches(waiting, runner)
        while len(waiting) > MAX_WAITING_IMAGES and not waiting[0].is_complete:
            runner.run()
            _run_full_batches(waiting, runner)
        while waiting and waiting[0].is_complete:
            complete.append(waiting.popleft())
        while len(complete) > runner.max_coming_back:
            yield complete.popleft().answer()
    while not all(image.is_complete for image in waiting):
        runner.run()
        _run_full_batches(waiting, runner)
    for image in (*complete, *waiting):
        yield image.answer()


def _run_full_batches(images: Iterable[PendingImage], runner: Runner) -> None:
    """Add patches and run batches until none is full: an answer may ask for further patches."""
    while True:
        for image in images:
            while image.uncut and runner.room:
                runner.add(image)
        if runner.room:
            return
        runner.run()


def merge(answer: Answer) -> Prediction:
    """Put the predicted patches of one image back into its masks.

    Masks that refining would rather harm stay as they are (`without_harm`), except with compat.
    What happens where masks overlap, `PatchSettings.overlaps` says.
    """
    settings, instances = answer.settings, answer.prediction.instances
    before = [instance.mask for instance in instances]
    masks = list(before)
    for index, boxes in enumerate(answer.boxes):
        if len(boxes):
            mask = _refined_mask(answer, index)
            masks[index] = mask if settings.compat else without_harm(before[index], mask)

    def soft(index: int) -> SoftMask:
        return _soft_mask(answer, index).agreeing(masks[index])

    if settings.overlaps == "resolve":
        masks = resolve_overlaps(before, masks, soft)
    elif settings.overlaps == "avoid" and not settings.compat:
        masks = avoid_overlaps(before, masks, soft)
    return replace(
        answer.prediction,
        instances=tuple(
            replace(instance, mask=masks[index], soft=soft(index) if settings.soft else None)
            for index, instance in enumerate(instances)
        ),
    )


def _soft_mask(answer: Answer, index: int) -> SoftMask:
    coarse, boxes = answer.prediction.instances[index].mask, answer.boxes[index]
    if answer.refined is not None:
        return answer.soft[index] or SoftMask.of_mask(coarse)
    if len(boxes) == 0:
        return SoftMask.of_mask(coarse)
    region, mean = average_patches(coarse, boxes, _probability(answer, index))
    return SoftMask.of_probability(mean, region, coarse.size)


def _refined_mask(answer: Answer, index: int) -> Mask:
    if answer.refined is not None:
        return answer.refined[index]
    coarse = answer.prediction.instances[index].mask
    return reassemble(coarse, answer.boxes[index], _probability(answer, index))


def _probability(answer: Answer, index: int) -> Float32Array:
    boxes = answer.boxes[index]
    patch_size = int(boxes[0, 2] - boxes[0, 0])
    return patch_probabilities(answer.logits[index], patch_size, answer.settings.padding)
