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

from bpr.pipeline.crops import crop_patches, patch_probabilities
from bpr.pipeline.geometry import reassemble, select_patches
from bpr.pipeline.harm import without_harm
from bpr.pipeline.instance import Float32Array, Int64Array, Mask, Prediction, UInt8Array
from bpr.pipeline.predictor import MaskPredictor
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.predictor import LoadedPredictor

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
    logits: tuple[Float32Array, ...] = ()
    """Per instance (N, S, S), object minus background; none with `refined`."""
    refined: tuple[Mask, ...] | None = None
    """Per instance the averaged patches in its mask, where a device has done that too."""

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
    Where the predictor runs on a GPU, patches are cut and averaged there (pipeline/device.py),
    in batches of the size that suits it.
    """
    if isinstance(predictor, LoadedPredictor) and predictor.on_device is not None:
        from bpr.pipeline.device import predict_on_device  # needs torch

        yield from predict_on_device(plans, predictor.on_device, MAX_WAITING_IMAGES)
        return
    batch = Batch(predictor, batch_size)
    waiting: deque[PendingImage] = deque()
    for planned in plans:
        pending = PendingImage(planned, predictor.input_size)
        waiting.append(pending)
        while pending.uncut:
            batch.add(pending)
            if batch.room == 0:
                batch.run()
        if len(waiting) > MAX_WAITING_IMAGES:
            batch.run()
        while waiting and waiting[0].is_complete:
            yield waiting.popleft().answer
    batch.run()
    for last in waiting:
        yield last.answer


def merge(answer: Answer) -> Prediction:
    """Put the predicted patches of one image back into its masks.

    Masks that refining would rather harm stay as they are (`without_harm`), except with compat.
    """
    instances = []
    for index, instance in enumerate(answer.prediction.instances):
        if len(answer.boxes[index]):
            mask = _refined_mask(answer, index)
            if not answer.settings.compat:
                mask = without_harm(instance.mask, mask)
            instance = replace(instance, mask=mask)
        instances.append(instance)
    return replace(answer.prediction, instances=tuple(instances))


def _refined_mask(answer: Answer, index: int) -> Mask:
    if answer.refined is not None:
        return answer.refined[index]
    boxes = answer.boxes[index]
    patch_size = int(boxes[0, 2] - boxes[0, 0])
    probability = patch_probabilities(answer.logits[index], patch_size, answer.settings.padding)
    return reassemble(answer.prediction.instances[index].mask, boxes, probability)


class PendingImage:
    """An image whose patches are being cut and predicted, in pieces of any size."""

    def __init__(self, planned: Plan, input_size: int) -> None:
        self._plan = planned
        self._uncut = deque(
            (index, 0, len(boxes)) for index, boxes in enumerate(planned.boxes) if len(boxes)
        )
        self.uncut = planned.num_patches
        self._missing = planned.num_patches
        logits = [
            np.empty((len(boxes), input_size, input_size), np.float32) for boxes in planned.boxes
        ]
        self.answer = Answer(
            planned.prediction, planned.boxes, planned.settings, planned.name, tuple(logits)
        )

    @property
    def is_complete(self) -> bool:
        """Whether `answer` holds the logits of every patch."""
        return self._missing == 0

    def cut(self, patches: UInt8Array) -> list[Piece]:
        """Fill `patches`, (N, S, S, 4) uint8, with the next N patches, or with all that is left.

        Returns:
            What was cut, in order, for `put`.
        """
        pieces, position = [], 0
        while self._uncut and position < len(patches):
            index, start, end = self._uncut.popleft()
            stop = min(end, start + len(patches) - position)
            patches[position : position + stop - start] = crop_patches(
                self._plan.image,
                self._plan.prediction.instances[index].mask,
                self._plan.boxes[index][start:stop],
                patches.shape[1],
                self._plan.settings,
            )
            if stop < end:
                self._uncut.appendleft((index, stop, end))
            pieces.append(Piece(index, start, stop))
            position += stop - start
        self.uncut -= position
        return pieces

    def put(self, pieces: Iterable[Piece], logits: Float32Array) -> None:
        """Take the network's answer, (N, S, S), for the patches that `cut` gave."""
        position = 0
        for piece in pieces:
            count = piece.stop - piece.start
            self.answer.logits[piece.instance][piece.start : piece.stop] = logits[
                position : position + count
            ]
            position += count
        self._missing -= position


@dataclass(frozen=True)
class Piece:
    """Patches start..stop of one instance of an image."""

    instance: int
    start: int
    stop: int


class Batch:
    """Patches of several images collected for one call of the network.

    Who adds images decides what is fair; the batch only remembers where answers belong.
    """

    def __init__(self, predictor: MaskPredictor, size: int) -> None:
        if size <= 0:
            raise ValueError(f"batch_size: expected an int > 0, got {size}")
        side = predictor.input_size
        self._predictor = predictor
        self._patches = np.empty((size, side, side, 4), np.uint8)
        self._owners: list[tuple[PendingImage, list[Piece], int]] = []
        self._filled = 0

    @property
    def room(self) -> int:
        """Patches that still fit."""
        return len(self._patches) - self._filled

    def add(self, image: PendingImage, at_most: int | None = None) -> None:
        """Cut the image's next patches: as many as there are, fit in, and `at_most` allows."""
        room = self.room if at_most is None else min(self.room, at_most)
        before = image.uncut
        pieces = image.cut(self._patches[self._filled : self._filled + room])
        count = before - image.uncut
        self._owners.append((image, pieces, count))
        self._filled += count

    def run(self) -> None:
        """Predict what is there, give it to its images, and be empty again."""
        if self._filled == 0:
            return
        logits = self._predictor(self._patches[: self._filled])
        position = 0
        for image, pieces, count in self._owners:
            image.put(pieces, logits[position : position + count])
            position += count
        self._owners, self._filled = [], 0
