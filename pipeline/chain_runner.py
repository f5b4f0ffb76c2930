"""The runner of coarse to fine: patches are cut on the CPU, pass after pass.

Batches are filled across instances, images and passes. What an instance becomes depends on its own
patches alone, so neither the batch's size nor its neighbours change a mask.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from bpr.pipeline.chain import Chain
from bpr.pipeline.host import HostRunner, Piece
from bpr.pipeline.instance import Float32Array, UInt8Array
from bpr.pipeline.passes import CHANNELS
from bpr.pipeline.plan import Answer, Plan


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

    def cut(self, patches: UInt8Array) -> list[Piece]:
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
            pieces.append(Piece(index, start, stop))
            position += stop - start
        self.uncut -= position
        return pieces

    def put(self, pieces: Iterable[Piece], logits: Float32Array) -> None:
        """Take the network's answer, (N, S, S), for the patches that `cut` gave."""
        position = 0
        for piece in pieces:
            index, count = piece.instance, piece.stop - piece.start
            self._logits[index][piece.start : piece.stop] = logits[position : position + count]
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


class ChainRunner(HostRunner):
    """Runs a predictor of seven channels; see `bpr.pipeline.runner.Runner`."""

    channels = CHANNELS

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
