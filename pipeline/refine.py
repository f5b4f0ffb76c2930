"""Refinement of predictions, end to end: read this first.

One path serves every entrance: `plan` chooses the patches of an image, `predict` runs the
network over a stream of images in batches that cross their borders, `merge` puts the answers
back. `refine` does the three for one image.

Source: Tang et al., CVPR 2021 (arXiv:2104.05239), section 3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from pipeline.crops import crop_patches, patch_probabilities
from pipeline.geometry import reassemble, select_patches
from pipeline.instance import Float32Array, Int64Array, Prediction, UInt8Array
from pipeline.predictor import MaskPredictor
from pipeline.settings import PatchSettings

DEFAULT_BATCH_SIZE = 32  # patches; larger ones gain nothing on a CPU
MAX_WAITING_IMAGES = 16


@dataclass(frozen=True, eq=False)
class Plan:
    """An image with the patches to refine in it."""

    image: UInt8Array  # (H, W, 3) RGB
    prediction: Prediction
    boxes: tuple[Int64Array, ...]  # per instance (N, 4), as from `select_patches`
    settings: PatchSettings
    name: str = ""  # of the image, for whoever takes the answer

    @property
    def num_patches(self) -> int:
        """Patches of all instances."""
        return sum(len(boxes) for boxes in self.boxes)


@dataclass(frozen=True, eq=False)
class Answer:
    """What the network said about the patches of a plan. It does not hold the image."""

    prediction: Prediction
    boxes: tuple[Int64Array, ...]  # as in the plan
    settings: PatchSettings
    name: str
    logits: tuple[Float32Array, ...]  # per instance (N, S, S), object minus background

    @property
    def num_patches(self) -> int:
        """Patches of all instances."""
        return sum(len(boxes) for boxes in self.boxes)


def refine(
    image: UInt8Array,
    prediction: Prediction,
    predictor: MaskPredictor,
    settings: PatchSettings,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> Prediction:
    """Refine all instances of one image.

    Args:
        image: (H, W, 3) uint8 RGB.
        prediction: coarse masks of the same size.
        predictor: the network.
        settings: how patches are cut.
        batch_size: patches predicted together.

    Returns:
        The same instances in the same order, with refined masks.

    Raises:
        ValueError: image and prediction differ in size.
    """
    planned = plan(image, prediction, settings)
    (answer,) = predict([planned], predictor, batch_size)
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
    boxes = tuple(select_patches(instance.mask, settings) for instance in prediction.instances)
    return Plan(image, prediction, boxes, settings, name)


def predict(
    plans: Iterable[Plan], predictor: MaskPredictor, batch_size: int = DEFAULT_BATCH_SIZE
) -> Iterator[Answer]:
    """Run the network over the patches of many images.

    Batches are filled across instances and images. Answers come in the order of the plans, each
    as soon as its last patch is predicted; at most `MAX_WAITING_IMAGES` wait for their batch.
    """
    batch = _Batch(predictor, batch_size)
    waiting: deque[_Waiting] = deque()
    for planned in plans:
        waiting.append(_Waiting(planned, predictor.input_size))
        for index, boxes in enumerate(planned.boxes):
            start = 0
            while start < len(boxes):
                stop = min(start + batch.room, len(boxes))
                batch.add(waiting[-1], planned, index, start, stop)
                start = stop
        if len(waiting) > MAX_WAITING_IMAGES:
            batch.run()
        while waiting and waiting[0].is_complete:
            yield waiting.popleft().answer
    batch.run()
    for last in waiting:
        yield last.answer


def merge(answer: Answer) -> Prediction:
    """Put the predicted patches of one image back into its masks."""
    refined = []
    for instance, boxes, logits in zip(
        answer.prediction.instances, answer.boxes, answer.logits, strict=True
    ):
        if len(boxes):
            patch_size = int(boxes[0, 2] - boxes[0, 0])
            probability = patch_probabilities(logits, patch_size, answer.settings.padding)
            instance = replace(instance, mask=reassemble(instance.mask, boxes, probability))
        refined.append(instance)
    return replace(answer.prediction, instances=tuple(refined))


class _Waiting:
    """An image whose patches are cut and being predicted."""

    def __init__(self, planned: Plan, input_size: int) -> None:
        self.missing = planned.num_patches
        logits = [
            np.empty((len(boxes), input_size, input_size), np.float32) for boxes in planned.boxes
        ]
        self.answer = Answer(
            planned.prediction, planned.boxes, planned.settings, planned.name, tuple(logits)
        )

    @property
    def is_complete(self) -> bool:
        return self.missing == 0


class _Batch:
    """Patches collected for one call of the network, and where their answers belong."""

    def __init__(self, predictor: MaskPredictor, size: int) -> None:
        if size <= 0:
            raise ValueError(f"batch_size: expected an int > 0, got {size}")
        side = predictor.input_size
        self._predictor = predictor
        self._patches = np.empty((size, side, side, 4), np.uint8)
        self._owners: list[tuple[_Waiting, int, int, int]] = []
        self._filled = 0

    @property
    def room(self) -> int:
        return len(self._patches) - self._filled

    def add(self, owner: _Waiting, plan: Plan, index: int, start: int, stop: int) -> None:
        """Cut patches start..stop of an instance; the network runs when the batch is full."""
        self._patches[self._filled : self._filled + stop - start] = crop_patches(
            plan.image,
            plan.prediction.instances[index].mask,
            plan.boxes[index][start:stop],
            self._predictor.input_size,
            plan.settings,
        )
        self._filled += stop - start
        self._owners.append((owner, index, start, stop))
        if self.room == 0:
            self.run()

    def run(self) -> None:
        if self._filled == 0:
            return
        logits = self._predictor(self._patches[: self._filled])
        position = 0
        for owner, index, start, stop in self._owners:
            owner.answer.logits[index][start:stop] = logits[position : position + stop - start]
            owner.missing -= stop - start
            position += stop - start
        self._owners, self._filled = [], 0
