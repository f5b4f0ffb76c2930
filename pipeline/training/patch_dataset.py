"""Training batches from a patch dataset that `bpr extract` wrote, in either layout."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from torch.utils.data import IterableDataset

from bpr.pipeline.extraction.extract import FORMAT, manifest_name
from bpr.pipeline.extraction.layouts import INDEX_COLUMNS
from bpr.pipeline.formats.images import IGNORE, read_image, read_mask
from bpr.pipeline.instance import Int64Array, UInt8Array
from bpr.pipeline.training.patch_stream import StreamSettings, batch_numbers, photometric


class Patches(Protocol):
    """The samples of a dataset, by number."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, number: int) -> tuple[UInt8Array, UInt8Array, UInt8Array]:
        """RGB (Q, Q, 3), coarse mask (Q, Q) of 0 and 1, target (Q, Q) of 0, 1 and 255.

        Raises:
            ValueError: the sample cannot be read; the message says what and where.
        """


class ShardPatches:
    """The layout `shards`: PNGs are read where the index says they lie in the tar.

    Args:
        folder: of the dataset.
        manifest: of the split.

    Raises:
        ValueError: a file that the manifest lists is missing.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._shards: list[Path] = []
        tables: list[Int64Array] = []
        for shard in manifest["shards"]:
            index = next(folder / name for name in shard["files"] if name.endswith(".npy"))
            tar = folder / index.name.replace(".index.npy", ".tar")
            for path in (index, tar):
                if not path.is_file():
                    raise ValueError(f"{path}: expected a file of the dataset, found none")
            table = np.load(index)
            if len(table) != shard["patches"]:
                raise ValueError(
                    f"{index}: expected {shard['patches']} patches, as its manifest says, "
                    f"got {len(table)}"
                )
            self._shards.append(tar)
            tables.append(table)
        self._ends = np.cumsum([len(table) for table in tables])
        width = 2 * len(INDEX_COLUMNS)
        self._rows = np.concatenate([np.zeros((0, width), np.int64), *tables])

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, number: int) -> tuple[UInt8Array, UInt8Array, UInt8Array]:
        """Decode the three PNGs of a sample."""
        path = self._shards[int(np.searchsorted(self._ends, number, side="right"))]
        row = self._rows[number].tolist()
        places = zip(row[::2], row[1::2], strict=True)
        with path.open("rb") as file:
            codes = [os.pread(file.fileno(), size, at) for at, size in places]
        image, coarse, gt = (
            _decoded(code, how, f"{path}, sample {number}")
            for code, how in zip(
                codes, (cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE, cv2.IMREAD_GRAYSCALE), strict=True
            )
        )
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.asarray(coarse > 0, np.uint8), gt


class FolderPatches:
    """The layout `folders`, ours or written by the tools of the BPR authors.

    Args:
        folder: holds img_dir, mask_dir and ann_dir.
        split: folder below these.

    Raises:
        ValueError: there are no patches.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder, split
        images = folder / "img_dir" / split
        # by number where names are numbers, as they should be
        names = (path.name for path in images.glob("*.png"))
        self._names = sorted(names, key=lambda name: (len(name), name))
        if not self._names:
            raise ValueError(f"{images}: expected patches (*.png), found none")

    def __len__(self) -> int:
        return len(self._names)

    def read(self, number: int) -> tuple[UInt8Array, UInt8Array, UInt8Array]:
        """Read the three PNGs of a sample."""
        name = self._names[number]
        paths = [self._folder / part / self._split / name for part in ("mask_dir", "ann_dir")]
        coarse, gt = (read_mask(path).view(np.uint8) for path in paths)
        return read_image(self._folder / "img_dir" / self._split / name).pixels, coarse, gt


def open_patches(folder: Path, split: str = "train") -> Patches:
    """Open a patch dataset, in whichever layout it is.

    Raises:
        ValueError: there is none, or an unfinished one.
    """
    manifest = folder / manifest_name(split)
    if manifest.is_file():
        try:
            content = json.loads(manifest.read_bytes())
            if content["format"] == FORMAT and content["layout"] == "shards":
                return ShardPatches(folder, content)
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f"{manifest}: expected the manifest of a patch dataset") from None
        if content["format"] != FORMAT:
            raise ValueError(f"{manifest}: expected format {FORMAT}, got {content['format']}")
    if (folder / "img_dir" / split).is_dir():
        return FolderPatches(folder, split)
    raise ValueError(
        f"{folder}: expected {manifest.name} or img_dir/{split}, found neither; "
        "bpr extract makes such a dataset"
    )


def patch_geometry(folder: Path, split: str = "train") -> tuple[int | None, int]:
    """Patch size and padding that a dataset was cut with, for the weights that are trained on it.

    Args:
        folder: see `open_patches`.
        split: of the dataset.

    Returns:
        Side in image pixels, None where it follows the object; pixels of context around it. Of a
        dataset without a manifest, which the authors' tools write, the side of its patches and 0.

    Raises:
        ValueError: there is no such dataset, or its manifest does not state them.
    """
    manifest = folder / manifest_name(split)
    if manifest.is_file():
        try:
            patches = json.loads(manifest.read_bytes())["settings"]["patches"]
            return patches["patch_size"], patches["padding"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f"{manifest}: expected the manifest of a patch dataset") from None
    pixels, _, _ = open_patches(folder, split).read(0)
    return pixels.shape[0], 0


class PatchDataset(IterableDataset[tuple[UInt8Array, UInt8Array]]):
    """Endless batches; batch number k depends on the dataset, the settings and k alone.

    Every patch comes once in an epoch, in an order of its own for each. Patches are flipped and
    their colours varied at random.

    Args:
        patches: the samples.
        settings: what a batch holds.
        start: number of the first batch.
        stride: from each batch to the next: how many processes train together.

    Yields:
        patches (B, S, S, 4) uint8 as from `crop_patches`, and targets (B, S, S) uint8:
        0, 1, or 255 where the truth is unknown.
    """

    def __init__(
        self, patches: Patches, settings: StreamSettings, start: int = 0, stride: int = 1
    ) -> None:
        if len(patches) == 0:
            raise ValueError("patch dataset: expected patches to train on, found none")
        self.patches, self.settings = patches, settings
        self.start, self.stride = start, stride

    def __iter__(self) -> Iterator[tuple[UInt8Array, UInt8Array]]:
        return map(self.batch, batch_numbers(self.start, self.stride))

    def batch(self, number: int) -> tuple[UInt8Array, UInt8Array]:
        """Make batch `number`."""
        size, side = self.settings.batch_size, self.settings.input_size
        rng = np.random.default_rng([self.settings.seed, number])
        patches = np.empty((size, side, side, 4), np.uint8)
        targets = np.empty((size, side, side), np.uint8)
        for row, chosen in enumerate(self._chosen(number * size, size)):
            pixels, coarse, gt = self.patches.read(chosen)
            turn = slice(None, None, -1 if rng.random() < 0.5 else 1)
            patches[row, ..., :3] = _resized(pixels, side)[:, turn]
            patches[row, ..., 3] = cv2.resize(
                coarse, (side, side), interpolation=cv2.INTER_NEAREST
            )[:, turn]
            targets[row] = _resized_target(gt, side)[:, turn]
            patches[row : row + 1, ..., :3] = photometric(patches[row : row + 1, ..., :3], rng)
        return patches, targets

    def _chosen(self, first: int, count: int) -> Sequence[int]:
        """Numbers of the samples first ... first + count - 1 of an endless series of epochs."""
        length = len(self.patches)
        return [
            int(_order(self.settings.seed, position // length, length)[position % length])
            for position in range(first, first + count)
        ]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> Int64Array:
    return np.random.default_rng([seed, epoch, length]).permutation(length)


def _decoded(code: bytes, how: int, what: str) -> npt.NDArray[np.uint8]:
    array = cv2.imdecode(np.frombuffer(code, np.uint8), how) if code else None
    if array is None:
        raise ValueError(f"{what}: expected a PNG, got a damaged one")
    return np.asarray(array, np.uint8)


def _resized(pixels: UInt8Array, side: int) -> UInt8Array:
    """As `crop_patches` resizes."""
    how = cv2.INTER_AREA if pixels.shape[0] > side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=how), np.uint8)


def _resized_target(gt: UInt8Array, side: int) -> UInt8Array:
    """Object where it covers more than half of a pixel; unknown where a third is."""
    if gt.shape[0] == side:
        return gt
    how = cv2.INTER_AREA if gt.shape[0] > side else cv2.INTER_LINEAR
    share, unknown = (
        cv2.resize((gt == value).astype(np.float32), (side, side), interpolation=how)
        for value in (1, IGNORE)
    )
    target = np.asarray(share > 0.5, np.uint8)
    target[unknown > 0.3] = IGNORE
    return target
