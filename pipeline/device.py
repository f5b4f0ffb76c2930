"""The runner for a GPU: images go there once as bytes, only masks come back.

Patches are cut, predicted and averaged there; the Python here lists them and says when. The masks
differ from those of pipeline/host.py by rounding only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bpr.pipeline.instance import Box, Int64Array, Mask, SoftMask, UInt8Array
from bpr.pipeline.plan import Answer, Plan
from bpr.pipeline.runner import PendingImage
from bpr.refiner.device_network import DeviceNetwork
from bpr.refiner.device_patches import PatchTable, cut_patches, mean_probability, put_back


class DeviceRunner:
    """Runs a network over patches that are cut on its device; see `bpr.pipeline.runner.Runner`.

    Args:
        network: on the device; its batch size is fixed.
    """

    max_coming_back = 2  # images whose masks may be on their way while others are computed

    def __init__(self, network: DeviceNetwork) -> None:
        self.batch_size, self.input_size = network.batch_size, network.input_size
        self._network = network
        self._patches = torch.empty(
            (network.batch_size, network.input_size, network.input_size, 4),
            dtype=torch.uint8,
            device=network.device,
        )
        self._owners: list[tuple[DeviceImage, int, int]] = []  # image, first patch, past the last
        self._filled = 0

    @property
    def room(self) -> int:
        """Patches that still fit into the batch."""
        return self.batch_size - self._filled

    def open(self, planned: Plan) -> DeviceImage:
        """Send an image and its masks to the device."""
        return DeviceImage(planned, self._network)

    def add(self, image: PendingImage, at_most: int | None = None) -> None:
        """Cut the image's next patches into the batch."""
        assert isinstance(image, DeviceImage)  # from `open`
        left = self.room if at_most is None else min(self.room, at_most)
        while left and image.uncut:
            start = image.num_patches - image.uncut
            count = image.cut(self._patches[self._filled : self._filled + left])
            self._owners.append((image, start, start + count))
            self._filled += count
            left -= count

    @torch.inference_mode()
    def run(self) -> None:
        """Predict the batch; complete images begin to send their masks back."""
        if self._filled == 0:
            return
        logits = self._network.run(self._patches[: self._filled])
        position = 0
        for image, start, stop in self._owners:
            image.put(start, logits[position : position + stop - start])
            position += stop - start
        self.clear()

    def clear(self) -> None:
        """Forget the patches of the batch."""
        self._owners, self._filled = [], 0


@dataclass(frozen=True)
class _Group:
    """Patches start..stop of an image, all of one size."""

    table: PatchTable
    start: int
    stop: int


class DeviceImage:
    """An image on the device, with the regions of its objects and the patches in them.

    A region is the box around an object and its patches: what refining may change.
    """

    @torch.inference_mode()
    def __init__(self, planned: Plan, network: DeviceNetwork) -> None:
        self._plan, self._device = planned, network.device
        self.num_patches = self.uncut = self._missing = planned.num_patches
        side = network.input_size
        self._logits = torch.empty((self.num_patches, side, side), device=self._device)
        self._regions = [
            _region(instance.mask, boxes)
            for instance, boxes in zip(planned.prediction.instances, planned.boxes, strict=True)
        ]
        sizes = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in self._regions]
        self._offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        if self.num_patches == 0:
            return
        bitmaps = [
            instance.mask.read(region).ravel()
            for instance, region in zip(planned.prediction.instances, self._regions, strict=True)
        ]
        self._image = self._upload(planned.image)
        self._bitmaps = self._upload(np.concatenate(bitmaps).view(np.uint8))
        self._groups = self._group()

    @property
    def is_complete(self) -> bool:
        """Whether every patch is predicted."""
        return self._missing == 0

    @torch.inference_mode()
    def cut(self, patches: Tensor) -> int:
        """Fill `patches` with the next ones, as far as patches of one size go.

        Returns:
            How many there are now in `patches`.
        """
        start = self.num_patches - self.uncut
        group = next(group for group in self._groups if group.start <= start < group.stop)
        count = min(group.stop - start, len(patches))
        table = group.table.part(start - group.start, start - group.start + count)
        settings = self._plan.settings
        patches[:count] = cut_patches(
            self._image, self._bitmaps, table, patches.shape[1], settings.padding, settings.compat
        )
        self.uncut -= count
        return count

    def put(self, start: int, logits: Tensor) -> None:
        """Take the logits, (N, S, S), of the patches from `start` on; the last ones end it."""
        self._logits[start : start + len(logits)] = logits
        self._missing -= len(logits)
        if self.is_complete:
            self._send_back()

    @torch.inference_mode()
    def _send_back(self) -> None:
        """Average the patches, and begin to copy the refined regions to the host."""
        sums = torch.zeros(len(self._bitmaps) + 1, dtype=torch.int32, device=self._device)
        counts = torch.zeros_like(sums)
        for group in self._groups:
            logits = self._logits[group.start : group.stop]
            put_back(logits, group.table, self._plan.settings.padding, sums, counts)
        refined = mean_probability(sums[:-1], counts[:-1], self._bitmaps)
        del self._image, self._bitmaps, self._logits
        on_gpu = self._device.type == "cuda"
        self._refined = torch.empty(refined.shape, dtype=torch.uint8, pin_memory=on_gpu)
        self._refined.copy_(refined, non_blocking=True)
        self._is_back = torch.cuda.current_stream().record_event() if on_gpu else None

    def answer(self) -> Answer:
        """The refined masks, once they have come back."""
        planned = self._plan
        masks = [instance.mask for instance in planned.prediction.instances]
        soft: list[SoftMask | None] = [None] * len(masks)
        if self.num_patches:
            if self._is_back is not None:
                self._is_back.synchronize()
            refined = self._refined.numpy()
            for index, region in enumerate(self._regions):
                if len(planned.boxes[index]):
                    x0, y0, x1, y1 = region
                    flat = refined[self._offsets[index] : self._offsets[index + 1]]
                    values, size = flat.reshape(y1 - y0, x1 - x0), planned.prediction.size
                    masks[index] = Mask.from_array(values > 127, (x0, y0), size)
                    soft[index] = SoftMask(values, region, size)
        return Answer(
            prediction=planned.prediction,
            boxes=planned.boxes,
            settings=planned.settings,
            name=planned.name,
            refined=tuple(masks),
            soft=tuple(soft),
        )

    def _group(self) -> list[_Group]:
        """The patches by size, in the order of instances; one upload for all of them."""
        by_size: dict[int, list[Int64Array]] = {}
        for boxes, region, offset in zip(
            self._plan.boxes, self._regions, self._offsets[:-1], strict=True
        ):
            if len(boxes):
                x0, y0, x1, y1 = region
                rows = np.empty((len(boxes), 7), np.int64)
                rows[:, :2] = boxes[:, :2]
                rows[:, 2:] = (offset, x0, y0, x1 - x0, y1 - y0)
                by_size.setdefault(int(boxes[0, 2] - boxes[0, 0]), []).append(rows)
        rows = np.concatenate([rows for of_size in by_size.values() for rows in of_size])
        columns = self._upload(np.ascontiguousarray(rows.T))
        groups, start = [], 0
        for size, of_size in by_size.items():
            stop = start + sum(map(len, of_size))
            groups.append(_Group(PatchTable.of_columns(size, columns[:, start:stop]), start, stop))
            start = stop
        return groups

    def _upload(self, array: UInt8Array | Int64Array) -> Tensor:
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def _region(mask: Mask, boxes: Int64Array) -> Box:
    """The smallest box of the image around a mask and its patches."""
    if len(boxes) == 0:
        return (0, 0, 0, 0)
    x0, y0, x1, y1 = mask.window
    height, width = mask.size
    return (
        min(x0, max(int(boxes[:, 0].min()), 0)),
        min(y0, max(int(boxes[:, 1].min()), 0)),
        max(x1, min(int(boxes[:, 2].max()), width)),
        max(y1, min(int(boxes[:, 3].max()), height)),
    )
