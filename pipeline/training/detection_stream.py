"""What a detector learns from: photographs with the objects in them, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from bpr.pipeline.datasets.coco_keypoints import Keypoints
from bpr.pipeline.datasets.ground_truth import Annotation, GroundTruth
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.photographs import find_photograph, read_photograph
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.instance import Float32Array, Float64Array, UInt8Array

MAX_TRIES = 1000  # images drawn in a row without an object

CLASS_AGNOSTIC: Mapping[int, str] = {0: "object"}
"""Categories of ground truth that knows none, by the label that its objects have."""


@dataclass(frozen=True, eq=False)
class PhotographWithObjects:
    """One image and its objects."""

    pixels: UInt8Array  # (H, W, 3) RGB
    objects: tuple[Annotation, ...]  # labels are the data set's
    left: tuple[LeftObject, ...] = ()  # annotations that cannot be read


@dataclass(frozen=True, eq=False)
class DetectionSource:
    """Photographs and their ground truth, read one at a time.

    Args:
        truth: accurate masks: COCO, Cityscapes or instance maps.
        images: the photographs.
        without: names of images that are left out.
        keypoints: of the objects, for a detector that finds them.
    """

    truth: GroundTruth
    images: ImageIndex
    without: Set[str] = frozenset()
    keypoints: Keypoints | None = None

    def keys(self) -> list[str]:
        """Names of the images, sorted."""
        return sorted(set(self.truth.keys()) - self.without)

    def categories(self) -> Mapping[int, str]:
        """Names by label, in the order of the labels."""
        named = self.truth.categories
        return dict(sorted((CLASS_AGNOSTIC if named is None else named).items()))

    def read(self, key: str) -> PhotographWithObjects:
        """Read an image and its objects; crowds and empty masks are left out.

        Raises:
            ValueError: something is wrong with its files; the message says what and where.
        """
        truth = self.truth.read(key)
        path = find_photograph(self.images, self.truth, key)
        pixels = read_photograph(path, truth.size)
        known = self.categories().keys()
        unknown = [item for item in truth.objects if item.label not in known]
        if unknown:
            listed = ", ".join(f"{item.label} of annotation {item.id}" for item in unknown)
            raise ValueError(
                f"ground truth of {key}: expected labels of its categories, got {listed}"
            )
        objects = tuple(item for item in truth.objects if not item.mask.is_empty)
        return PhotographWithObjects(pixels, objects, truth.left)


Target = dict[str, Any]
"""boxes (N, 4) float32 x0, y0, x1, y1; labels (N,) int64, 1..K; masks (N, H, W) bool; polygons:
for each object what its mask was drawn from, as in `Annotation`, in arrays; with keypoints,
keypoints (N, P, 3) float32 x, y, visibility."""

DetectionBatch = tuple[list[Tensor], list[Target]]
"""Images (3, H, W) uint8 RGB, and what is in each."""


@dataclass(frozen=True)
class DetectionBatches:
    """What a batch of the stream holds."""

    batch_size: int  # images
    seed: int = 0
    flip: bool = True  # every second image is mirrored

    def __post_init__(self) -> None:
        if self.batch_size <= 0:
            raise ValueError(f"batch_size: expected an int > 0, got {self.batch_size}")


class DetectionStream(IterableDataset[DetectionBatch | ValueError]):
    """Endless batches; batch number k depends on the settings and k alone.

    Images come in a new random order in every round. One without objects is replaced by another
    one. So a resumed training sees what an uninterrupted one would have seen, whatever the
    number of loader processes.

    Args:
        source: where images come from.
        settings: what a batch holds.
        start: number of the first batch.
        stride: from each batch to the next: how many processes train together.
        repeats: how often an image comes in a round, by its name; others come once.

    Yields:
        Batches. An error ends them and comes as a value: raised in a loader process, it would
        reach the reader with that process's stack trace. `readable` raises it.
    """

    def __init__(
        self,
        source: DetectionSource,
        settings: DetectionBatches,
        start: int = 0,
        stride: int = 1,
        repeats: Mapping[str, int] | None = None,
    ) -> None:
        self._source, self._settings = source, settings
        self._start, self._stride = start, stride
        times = repeats or {}
        self._keys = [key for key in source.keys() for _ in range(times.get(key, 1))]  # noqa: SIM118
        self._numbers = {label: k for k, label in enumerate(source.categories(), start=1)}
        if not self._keys:
            raise ValueError("ground truth: expected images, found none")

    def __len__(self) -> int:
        """Images of one round."""
        return len(self._keys)

    def __iter__(self) -> Iterator[DetectionBatch | ValueError]:
        worker = get_worker_info()
        offset, step = (worker.id, worker.num_workers) if worker else (0, 1)
        number = self._start + offset * self._stride
        while True:
            try:
                yield self.batch(number)
            except ValueError as error:
                yield error
                return
            number += step * self._stride

    def batch(self, number: int) -> DetectionBatch:
        """Make batch `number`.

        Raises:
            ValueError: an image or its ground truth cannot be read, or none has an object.
        """
        size, seed = self._settings.batch_size, self._settings.seed
        rng = np.random.default_rng([seed, number])
        images, targets = [], []
        for position in range(number * size, (number + 1) * size):
            turn, index = divmod(position, len(self._keys))
            order = _order(seed, turn, len(self._keys))
            image, target = self._sample(self._with_objects(int(order[index]), rng), rng)
            images.append(image)
            targets.append(target)
        return images, targets

    def _with_objects(self, index: int, rng: np.random.Generator) -> PhotographWithObjects:
        for _ in range(MAX_TRIES):
            found = self._source.read(self._keys[index])
            if found.objects:
                return found
            index = int(rng.integers(len(self._keys)))
        raise ValueError(
            f"ground truth: expected images with objects, found none in {MAX_TRIES} draws"
        )

    def _sample(
        self, photograph: PhotographWithObjects, rng: np.random.Generator
    ) -> tuple[Tensor, Target]:
        pixels, objects = photograph.pixels, photograph.objects
        height, width = pixels.shape[:2]
        masks = np.stack([item.mask.to_array() for item in objects])
        boxes = np.array([_box(item, width, height) for item in objects], np.float32)
        polygons = [item.polygons for item in objects]
        is_mirrored = self._settings.flip and rng.random() < 0.5
        if is_mirrored:
            pixels, masks = pixels[:, ::-1], masks[..., ::-1]
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
            polygons = [tuple(_mirrored(part, width) for part in parts) for parts in polygons]
        labels = [self._numbers[item.label] for item in objects]
        points = self._points(objects, is_mirrored, width)
        target = {
            **({} if points is None else {"keypoints": torch.from_numpy(points)}),
            "boxes": torch.from_numpy(boxes),
            "labels": torch.tensor(labels),
            "masks": torch.from_numpy(np.ascontiguousarray(masks)),
            "polygons": polygons,
        }
        channels_first = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return torch.from_numpy(channels_first), target

    def _points(
        self, objects: Sequence[Annotation], is_mirrored: bool, width: int
    ) -> Float32Array | None:
        """(N, K, 3) keypoints of the objects, 0 where they have none; None without keypoints."""
        known = self._source.keypoints
        if known is None:
            return None
        points = np.zeros((len(objects), len(known.names), 3), np.float32)
        for number, item in enumerate(objects):
            points[number] = known.by_annotation.get(item.id, 0.0)
        if is_mirrored:
            points = points[:, list(known.mirrored())]
            points[..., 0] = np.where(points[..., 2] > 0, width - points[..., 0], 0)
        return points


def _box(item: Annotation, width: int, height: int) -> tuple[float, ...]:
    """Around an object inside the image: of its polygons if it has some, as COCO's own boxes."""
    if item.polygons:
        points = np.concatenate([part.reshape(-1, 2) for part in item.polygons])
        x0, y0 = points.min(axis=0).clip(0).tolist()
        x1, y1 = points.max(axis=0).clip(max=(width, height)).tolist()
        if x0 < x1 and y0 < y1:
            return x0, y0, x1, y1
    return item.mask.window


def _mirrored(part: Float64Array, width: int) -> Float64Array:
    points = part.reshape(-1, 2)
    return np.column_stack([width - points[:, 0], points[:, 1]]).ravel()


def load(stream: DetectionStream, processes: int) -> DataLoader[DetectionBatch | ValueError]:
    """Batches of a stream, made ahead by other processes.

    They come as they are: as tensors, which the loader makes of arrays by itself, the polygons of
    some crowded images take more shared files than a process may open.
    """
    return DataLoader(stream, batch_size=None, num_workers=processes, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch


def readable(batches: Iterable[DetectionBatch | ValueError]) -> Iterator[DetectionBatch]:
    """Batches of a stream, perhaps through loader processes.

    Raises:
        ValueError: one could not be made.
    """
    for batch in batches:
        if isinstance(batch, ValueError):
            raise batch
        yield batch


@lru_cache(maxsize=2)
def _order(seed: int, turn: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The order of the images in a round."""
    return np.random.default_rng([seed, turn, count]).permutation(count)
