"""The runner of coarse to fine: patches are cut on the CPU, pass after pass.

Batches are filled across instances, images and passes. What an instance becomes depends on its own
patches alone, so neither the batch's size nor its neighbours change a mask.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from bpr.pipeline.chain import Chain
from bpr.pipeline.host import DEFAULT_BATCH_SIZE
from bpr.pipeline.instance import Float32Array
from bpr.pipeline.passes import CHANNELS
from bpr.pipeline.plan import Answer, Plan
from bpr.pipeline.predictor import MaskPredictor
from bpr.pipeline.runner import PendingImage


class ChainImage:
    """An image whose instances are each in some pass.

    Args:
        planned: the image and the patches of its first pass.
        input_size: S of the network, in pixels.
    """

    def __init__(self, planned: Plan, input_size: int) -> None:
        self._plan, self._input_size = planned, input_size
        self._chains = [
            Chain(planned.image, instance.mask, boxes, planned.settings, input_size)
            for instance, boxes in zip(planned.prediction.instances, planned.boxes, strict=True)
        ]
        self.uncut = 0
        self._missing = [0] * len(self._chains)  # patches of the pass that are not predicted
        self._logits: dict[int, Float32Array] = {}
        self._line: deque[tuple[int, int]] = deque()  # instance, and its first patch not cut
        for index in range(len(self._chains)):
            self._queue(index)

    @property
    def is_complete(self) -> bool:
        """Whether every instance is through its last pass."""
        return not any(self._missing)

    def cut(self, patches: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> list[Piece]:
        """Fill `patches`, (N, S, S, 7) uint8, with the next N patches, or with all that is left.

        Returns:
            What was cut, in order, for `put`: instance, start, stop.
        """
        pieces, position = [], 0
        while self._line and position < len(patches):
            index, start = self._line.popleft()
            chain = self._chains[index]
            stop = min(len(chain.boxes), start + len(patches) - position)
            patches[position : position + stop - start] = chain.cut(start, stop)
            if stop < len(chain.boxes):
                self._line.appendleft((index, stop))
            pieces.append((index, start, stop))
            position += stop - start
        self.uncut -= position
        return pieces

    def put(self, pieces: list[Piece], logits: Float32Array) -> None:
        """Take the network's answer, (N, S, S), for the patches that `cut` gave."""
        position = 0
        for index, start, stop in pieces:
            count = stop - start
            self._logits[index][start:stop] = logits[position : position + count]
            position += count
            self._missing[index] -= count
            if self._missing[index] == 0:
                self._chains[index].put(self._logits.pop(index))
                self._queue(index)

    def answer(self) -> Answer:
        """The refined masks, with the boxes of all passes."""
        planned = self._plan
        none = np.zeros((0, 4), np.int64)
        return Answer(
            prediction=planned.prediction,
            boxes=tuple(np.concatenate([none, *chain.all_boxes]) for chain in self._chains),
            settings=planned.settings,
            name=planned.name,
            refined=tuple(chain.mask for chain in self._chains),
            soft=tuple(chain.soft for chain in self._chains),
        )

    def _queue(self, index: int) -> None:
        """Put an instance's next pass in line."""
        count = len(self._chains[index].boxes)
        if count:
            side = self._input_size
            self._logits[index] = np.empty((count, side, side), np.float32)
            self._missing[index] = count
            self._line.append((index, 0))
            self.uncut += count


Piece = tuple[int, int, int]
"""Instance, first patch, end."""


class ChainRunner:
    """Runs a predictor of seven channels; see `bpr.pipeline.runner.Runner`.

    Args:
        predictor: the network.
        batch_size: patches predicted together, > 0.

    Raises:
        ValueError: the batch size is another.
    """

    max_coming_back = 0

    def __init__(self, predictor: MaskPredictor, batch_size: int = DEFAULT_BATCH_SIZE) -> None:
        if batch_size <= 0:
            raise ValueError(f"batch_size: expected an int > 0, got {batch_size}")
        side = predictor.input_size
        self.batch_size = batch_size
        self._predictor = predictor
        self._patches = np.empty((batch_size, side, side, CHANNELS), np.uint8)
        self._owners: list[tuple[ChainImage, list[Piece], int]] = []
        self._filled = 0

    @property
    def input_size(self) -> int:
        """S of the network, in pixels."""
        return self._predictor.input_size

    @property
    def room(self) -> int:
        """Patches that still fit into the batch."""
        return self.batch_size - self._filled

    def open(self, planned: Plan) -> ChainImage:
        """Begin the first pass of an image.

        Raises:
            ValueError: compat or padding, which belong to the paper's single pass.
        """
        settings = planned.settings
        if settings.compat or settings.padding:
            raise ValueError(
                "compat, padding: expected weights of the paper's network for them, got weights "
                "that refine in passes"
            )
        return ChainImage(planned, self.input_size)

    def add(self, image: PendingImage, at_most: int | None = None) -> None:
        """Cut the image's next patches into the batch."""
        assert isinstance(image, ChainImage)  # from `open`
        room = self.room if at_most is None else min(self.room, at_most)
        before = image.uncut
        pieces = image.cut(self._patches[self._filled : self._filled + room])
        count = before - image.uncut
        self._owners.append((image, pieces, count))
        self._filled += count

    def run(self) -> None:
        """Predict the batch and give each image its logits; some then begin their next pass."""
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
