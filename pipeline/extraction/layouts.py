"""How patches lie on disk: in tars for data loaders, or as the reference's trainer reads them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpr._paths import AnyPath
from bpr.pipeline.extraction.samples import (
    PatchedInstance,
    Sample,
    cut_samples,
    encode_pixels,
    encode_values,
)
from bpr.pipeline.extraction.settings import FOLDERS, SHARDS, ExtractionSettings
from bpr.pipeline.extraction.source import PairedImage
from bpr.pipeline.extraction.tar import tar_end, tar_member
from bpr.pipeline.files import write_atomically
from bpr.pipeline.instance import UInt8Array
from bpr.pipeline.settings import PatchSettings

MAX_PATCHES = 100_000  # of one instance; the reference's ids leave so much room

INDEX_COLUMNS = ("image", "coarse", "gt")
"""A row of a shard's index: for each of these, where its PNG begins in the tar, and its bytes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptInstance:
    """An instance whose patches go into the dataset, and its numbers."""

    image: PairedImage
    instance: PatchedInstance
    image_number: int  # in the dataset
    first_instance: int  # number of the image's first instance in the dataset
    categories: Mapping[int, str]
    settings: PatchSettings

    def samples(self) -> Iterator[Sample]:
        """Its patches, best first."""
        return cut_samples(self.image, self.instance, self.settings)


Written = tuple[dict[str, str], int]
"""SHA-256 of each file by its name in the dataset, and the bytes of all."""


def write_shard(
    out: AnyPath,
    work: AnyPath,
    name: str,
    settings: ExtractionSettings,  # noqa: ARG001
    instances: Iterable[KeptInstance],
) -> Written:
    """Write `<name>.tar` for webdataset and `<name>.index.npy` for random access.

    A sample is `<key>.image.png` (RGB), `<key>.coarse.png` (0, 255), `<key>.gt.png` (0, 1, or
    255 where nobody knows) and `<key>.json`. The index is (N, 6) int64; see `INDEX_COLUMNS`.
    """
    index: list[list[int]] = []
    size = 0

    def pieces() -> Iterator[bytes]:
        nonlocal size
        for kept in instances:
            for number, sample in enumerate(kept.samples()):
                key = f"{kept.image_number:08d}_{kept.instance.index:05d}_{number:05d}"
                row = []
                for file, content in _encoded(sample):
                    row += [size + tarfile.BLOCKSIZE, len(content)]
                    piece = tar_member(f"{key}.{file}.png", content)
                    size += len(piece)
                    yield piece
                about = json.dumps(_about(kept, sample), sort_keys=True).encode()
                piece = tar_member(f"{key}.json", about)
                size += len(piece)
                yield piece
                index.append(row)
        end = tar_end(size)
        size += len(end)
        yield end

    digest = write_atomically(out / f"{name}.tar", pieces(), work)
    table = io.BytesIO()
    np.save(table, np.array(index, np.int64).reshape(-1, 2 * len(INDEX_COLUMNS)))
    content = table.getvalue()
    index_digest = write_atomically(out / f"{name}.index.npy", content, work)
    files = {f"{name}.tar": digest, f"{name}.index.npy": index_digest}
    return files, size + len(content)


def write_folders(
    out: AnyPath,
    work: AnyPath,
    name: str,  # noqa: ARG001
    settings: ExtractionSettings,
    instances: Iterable[KeptInstance],
) -> Written:
    """Write `{img_dir,mask_dir,ann_dir}/SPLIT/ID.png` and `detail_dir/SPLIT/INSTANCE.txt`.

    INSTANCE is the number of the instance in the dataset, ID = INSTANCE * 100000 + the number of
    the patch. Masks are 0 and 255; what nobody knows is background, as the reference has it.

    Source: save_patch and save_details in tools/split_patches.py of the reference.
    """
    files: dict[str, str] = {}
    size = 0

    def write(name: str, content: bytes) -> None:
        nonlocal size
        files[name] = write_atomically(out / name, content, work)
        size += len(content)

    split = settings.split
    for kept in instances:
        first = (kept.first_instance + kept.instance.index) * MAX_PATCHES
        for number, sample in enumerate(kept.samples(), start=first):
            write(f"img_dir/{split}/{number}.png", encode_pixels(sample.pixels))
            write(f"mask_dir/{split}/{number}.png", encode_values(_visible(sample.coarse)))
            write(f"ann_dir/{split}/{number}.png", encode_values(_visible(sample.gt == 1)))
        write(f"detail_dir/{split}/{first // MAX_PATCHES}.txt", _details(kept, first).encode())
    return files, size


Writer = Callable[[AnyPath, AnyPath, str, ExtractionSettings, Iterable[KeptInstance]], Written]

WRITERS: Mapping[str, Writer] = {SHARDS: write_shard, FOLDERS: write_folders}


def _encoded(sample: Sample) -> Iterator[tuple[str, bytes]]:
    yield "image", encode_pixels(sample.pixels)
    yield "coarse", encode_values(_visible(sample.coarse))
    yield "gt", encode_values(sample.gt)


def _visible(mask: Any) -> UInt8Array:
    visible: UInt8Array = np.asarray(mask, np.uint8) * np.uint8(255)
    return visible


def _about(kept: KeptInstance, sample: Sample) -> dict[str, Any]:
    instance, pair = kept.instance.pair.instance, kept.instance.pair
    return {
        "image": kept.image.name,
        "image_size": list(instance.mask.size),  # height, width
        "instance": kept.instance.index,
        "label": instance.label,
        "category": kept.categories.get(instance.label),
        "score": instance.score,
        "iou": round(pair.iou, 6),
        "annotation": pair.annotation,
        "box": list(sample.box),
        "padding": kept.settings.padding,
    }


def _details(kept: KeptInstance, first: int) -> str:
    boxes = kept.instance.boxes.tolist()
    label = kept.instance.pair.instance.label
    return str(
        {
            "image_name": kept.image.name,
            "category": {"id": label, "name": kept.categories.get(label, str(label))},
            "patches": [first + number for number in range(len(boxes))],
            "hlist": [(y0, y1 - y0) for _, y0, _, y1 in boxes],
            "wlist": [(x0, x1 - x0) for x0, _, x1, _ in boxes],
        }
    )
