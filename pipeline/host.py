"""Runners for a predictor of arrays: patches are cut on the CPU, logits come back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from bpr.pipeline.crops import crop_patches
from bpr.pipeline.instance import Float32Array, UInt8Array
from bpr.pipeline.plan import Answer, Plan
from bpr.pipeline.predictor import MaskPredictor
from bpr.pipeline.runner import PendingImage

DEFAULT_BATCH_SIZE = 32  # patches; larger ones gain nothing on a CPU


@dataclass(frozen=True)
class Piece:
    """Patches start..stop of one instance of an image."""

    instance: int
    start: int
    stop: int


@runtime_checkable
class PieceImage(PendingImage, Protocol):
    """An image that cuts its own patches into a batch."""

    def cut(self, patches: UInt8Array) -> list[Piece]:
        """Fill `patches`, (N, S, S, C) uint8, with the next N patches, or with all that is left.

        Returns:
            What was cut, in order, for `put`.
        """

    def put(self, pieces: Iterable[Piece], logits: Float32Array) -> None:
        """Take the network's answer, (N, S, S), for the patches that `cut` gave."""


class HostImage:
    """An image in host memory.

    Args:
        planned: the image and its patches.
        input_size: S of the network, in pixels.
    """

    def __init__(self, planned: Plan, input_size: int) -> None:
        self._plan = planned
        self._uncut = deque(
            (index, 0, len(boxes)) for index, boxes in enumerate(planned.boxes) if len(boxes)
        )
        self.uncut = planned.num_patches
        self._missing = planned.num_patches
        self._logits = tuple(
            np.empty((len(boxes), input_size, input_size), np.float32) for boxes in planned.boxes
        )

    @property
    def is_complete(self) -> bool:
        """Whether every patch is predicted."""
        return self._missing == 0

    def answer(self) -> Answer:
        """The logits of every patch."""
        planned = self._plan
        return Answer(
            prediction=planned.prediction,
            boxes=planned.boxes,
            settings=planned.settings,
            name=planned.name,
            logits=self._logits,
        )

    def cut(self, patches: UInt8Array) -> list[Piece]:
        """See PieceImage; C is 4."""
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
        """See PieceImage."""
        position = 0
        for piece in pieces:
            count = piece.stop - piece.start
            own = self._logits[piece.instance]
            own[piece.start : piece.stop] = logits[position : position + count]
            position += count
        self._missing -= position


class HostRunner:
    """Runs a predictor over patches that are cut on the CPU; see `bpr.pipeline.runner.Runner`.

    Args:
        predictor: the network.
        batch_size: patches predicted together, > 0.

    Raises:
        ValueError: the batch size is another.
    """

    max_coming_back = 0
    channels = 4  # of the patches

    def __init__(self, predictor: MaskPredictor, batch_size: int = DEFAULT_BATCH_SIZE) -> None:
        if batch_size <= 0:
            raise ValueError(f"batch_size: expected an int > 0, got {batch_size}")
        side = predictor.input_size
        self.batch_size = batch_size
        self._predictor = predictor
        self._patches = np.empty((batch_size, side, side, self.channels), np.uint8)
        self._owners: list[tuple[PieceImage, list[Piece], int]] = []
        self._filled = 0

    @property
    def input_size(self) -> int:
        """S of the network, in pixels."""
        return self._predictor.input_size

    @property
    def room(self) -> int:
        """Patches that still fit into the batch."""
        return self.batch_size - self._filled

    def open(self, planned: Plan) -> PieceImage:
        """Make room for an image's logits."""
        return HostImage(planned, self.input_size)

    def add(self, image: PendingImage, at_most: int | None = None) -> None:
        """Cut the image's next patches into the batch."""
        assert isinstance(image, PieceImage)  # from `open`
        room = self.room if at_most is None else min(self.room, at_most)
        before = image.uncut
        pieces = image.cut(self._patches[self._filled : self._filled + room])
        count = before - image.uncut
        self._owners.append((image, pieces, count))
        self._filled += count

    def run(self) -> None:
        """Predict the batch and give each image its logits."""
        if self._filled == 0:
            return
        logits = self._predictor(self._patches[: self._filled])
        owners = self._owners
        self.clear()
        position = 0
        for image, pieces, count in owners:
            image.put(pieces, logits[position : position + count])
            position += count

    def clear(self) -> None:
        """Forget the patches of the batch."""
        self._owners, self._filled = [], 0
