"""Photographs, accurate masks and recorded masks in one file that training reads at random.

    pool = build_pool(sources, folder)     # once
    item = pool[17]                        # then from any process: pages of one mapped file

An item is one object with its surroundings: a view of the photograph, reduced as its labels'
accuracy asks, with the masks that networks predicted for it. The file holds JPEG of quality 95 and
PNG masks, so that it is small enough to be carried to a machine with a GPU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from bpr._paths import AnyPath
from bpr._replace import replace_file
from bpr.pipeline.formats.images import IGNORE, read_image
from bpr.pipeline.instance import BoolArray, Box, Mask, UInt8Array, grow

SURROUNDINGS = 0.6  # of an object's long side are kept around it
LEAST_SIDE = 16  # pixels of an object's window


@dataclass(frozen=True, eq=False)
class PoolObject:
    """One object of a photograph."""

    truth: Mask
    recorded: tuple[Mask, ...] = ()  # what networks predicted for it


@dataclass(frozen=True, eq=False, kw_only=True)
class PoolSource:
    """A photograph and its objects."""

    image: AnyPath
    objects: tuple[PoolObject, ...]
    ignore: BoolArray | None = None  # (H, W), True where the truth is unknown
    dataset: str = ""
    scale: float = 1.0  # in (0, 1]; the accuracy of the outlines decides


@dataclass(frozen=True, eq=False)
class PoolItem:
    """One object, seen in its surroundings."""

    image: UInt8Array  # (H, W, 3) RGB
    truth: UInt8Array  # (H, W): 0, 1 or 255 where it is unknown
    recorded: tuple[UInt8Array, ...]  # (H, W) each, 0 or 1
    dataset: str


class Pool(Sequence[PoolItem]):
    """Objects in one mapped file.

    Args:
        folder: as `build_pool` left it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index = json.loads((folder / "index.json").read_text("utf-8"))
        path = folder / "pool.bin"
        # an empty file cannot be mapped
        self._bytes: UInt8Array = (
            np.memmap(path, np.uint8, "r") if self._index else np.zeros(0, np.uint8)
        )

    def __len__(self) -> int:
        return len(self._index)

    def dataset(self, number: int) -> str:
        """The data set of an item, without reading it."""
        return str(self._index[number]["dataset"])

    def __getitem__(self, number: int) -> PoolItem:  # type: ignore[override]
        entry = self._index[number]
        ends = np.cumsum([entry["at"], *entry["lengths"]])
        parts = [self._bytes[start:end] for start, end in pairwise(ends.tolist())]
        image = cv2.imdecode(parts[0], cv2.IMREAD_COLOR_RGB)
        truth, *recorded = (cv2.imdecode(part, cv2.IMREAD_GRAYSCALE) for part in parts[1:])
        maps = (np.asarray(plane, np.uint8) for plane in recorded)
        return PoolItem(
            np.asarray(image, np.uint8), np.asarray(truth, np.uint8), tuple(maps), entry["dataset"]
        )


def build_pool(sources: Iterable[PoolSource], folder: Path) -> Pool:
    """Write the pool of all objects that are large enough; it appears when it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    index, at = [], 0
    temporary = folder / f".pool.{os.getpid()}.tmp"
    with temporary.open("wb") as file:
        for source in sources:
            for item in _items(source):
                parts = [_jpeg(item.image), *map(_png, (item.truth, *item.recorded))]
                for part in parts:
                    file.write(part)
                lengths = [len(part) for part in parts]
                index.append({"at": at, "lengths": lengths, "dataset": item.dataset})
                at += sum(lengths)
    replace_file(temporary, folder / "pool.bin")
    (folder / "index.json").write_text(json.dumps(index), "utf-8")
    return Pool(folder)


def _jpeg(pixels: UInt8Array) -> bytes:
    quality = (cv2.IMWRITE_JPEG_QUALITY, 95)
    full = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    _, encoded = cv2.imencode(".jpg", pixels[..., ::-1], (*quality, *full))
    return encoded.tobytes()


def _png(plane: UInt8Array) -> bytes:
    return cv2.imencode(".png", plane)[1].tobytes()


def _items(source: PoolSource) -> Iterator[PoolItem]:
    image = read_image(source.image).pixels
    for item in source.objects:
        if item.truth.is_empty:
            continue
        if item.truth.size != image.shape[:2]:
            raise ValueError(
                f"{source.image}: expected the size of its masks {item.truth.size} "
                f"(height, width), got {image.shape[:2]}"
            )
        windows = np.array([mask.window for mask in (item.truth, *item.recorded)])
        box: Box = (*windows[:, :2].min(axis=0).tolist(), *windows[:, 2:].max(axis=0).tolist())
        reach = round(SURROUNDINGS * max(box[2] - box[0], box[3] - box[1])) + 8
        box = grow(box, reach, item.truth.size)
        rows, columns = slice(box[1], box[3]), slice(box[0], box[2])
        truth = item.truth.read(box).astype(np.uint8)
        if source.ignore is not None:
            truth[source.ignore[rows, columns]] = IGNORE
        recorded = tuple(mask.read(box).astype(np.uint8) for mask in item.recorded)
        made = PoolItem(image[rows, columns], truth, recorded, source.dataset)
        made = reduce_item(made, source.scale)
        tall, wide = np.any(made.truth == 1, axis=1), np.any(made.truth == 1, axis=0)
        if max(np.count_nonzero(tall), np.count_nonzero(wide)) >= LEAST_SIDE:
            yield made


def reduce_item(item: PoolItem, scale: float) -> PoolItem:
    """The same object at a smaller size."""
    if scale >= 1:
        return item
    height, width = item.truth.shape
    side = (max(round(width * scale), 1), max(round(height * scale), 1))

    def share(mask: BoolArray) -> BoolArray:
        small = cv2.resize(mask.astype(np.float32), side, interpolation=cv2.INTER_AREA)
        return np.asarray(small > 0.5)

    truth = share(item.truth == 1).astype(np.uint8)
    unknown = cv2.resize(
        (item.truth == IGNORE).astype(np.float32), side, interpolation=cv2.INTER_AREA
    )
    truth[unknown > 0.3] = IGNORE
    return PoolItem(
        cv2.resize(item.image, side, interpolation=cv2.INTER_AREA),
        truth,
        tuple(share(mask != 0).astype(np.uint8) for mask in item.recorded),
        item.dataset,
    )
