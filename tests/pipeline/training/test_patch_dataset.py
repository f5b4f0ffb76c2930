"""Datasets of `bpr extract` as training batches."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from bpr.pipeline.extraction.extract import Extraction, extract
from bpr.pipeline.extraction.settings import FOLDERS, ExtractionSettings
from bpr.pipeline.settings import PatchSettings
from bpr.pipeline.training.patch_dataset import PatchDataset, open_patches, patch_geometry
from bpr.pipeline.training.patch_stream import StreamSettings
from tests.datasets import open_dataset, write_dataset
from tests.systems import START_METHODS

SETTINGS = ExtractionSettings(
    patches=PatchSettings(patch_size=32, nms_iou=0.25), images_per_shard=2
)
STREAM = StreamSettings(input_size=32, batch_size=5, seed=3)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same patches as `shards` and as `folders`."""
    root = tmp_path_factory.mktemp("patches")
    write_dataset(root / "data", 4)
    for layout in ("shards", FOLDERS):
        settings = replace(SETTINGS, layout=layout)
        progress = extract(Extraction(open_dataset(root / "data"), settings, root / layout))
        assert progress.patches > 20
    return root


@pytest.mark.parametrize("layout", ["shards", FOLDERS])
def test_a_dataset_tells_how_it_was_cut(datasets: Path, layout: str, tmp_path: Path) -> None:
    assert patch_geometry(datasets / layout) == (32, 0)
    if layout == FOLDERS:  # as the authors' tools leave it
        theirs = tmp_path / "theirs"
        shutil.copytree(datasets / layout, theirs, ignore=shutil.ignore_patterns("*.json"))
        assert patch_geometry(theirs) == (32, 0)
    with pytest.raises(ValueError, match=r"expected manifest-train\.json or img_dir/train"):
        patch_geometry(tmp_path)


@pytest.mark.parametrize("layout", ["shards", FOLDERS])
def test_a_sample_is_what_was_cut(datasets: Path, layout: str) -> None:
    patches = open_patches(datasets / layout)
    source = open_dataset(datasets / "data")
    image = source.read("image_00", 0)
    first = image.pairs[0]
    pixels, coarse, gt = patches.read(0)
    assert pixels.shape == (32, 32, 3)
    assert coarse.shape == gt.shape == (32, 32)
    assert set(np.unique(coarse)) <= {0, 1}
    # somewhere in the image lies exactly this
    height, width = image.pixels.shape[:2]
    found = [
        (x, y)
        for y in range(height - 31)
        for x in range(width - 31)
        if np.array_equal(image.pixels[y, x], pixels[0, 0])
        and np.array_equal(image.pixels[y : y + 32, x : x + 32], pixels)
    ]
    assert len(found) == 1
    (x, y) = found[0]
    assert np.array_equal(first.instance.mask.read((x, y, x + 32, y + 32)), coarse)
    assert np.array_equal(first.gt.read((x, y, x + 32, y + 32)), gt == 1)


def test_both_layouts_hold_the_same_samples(datasets: Path) -> None:
    shards, folders = (open_patches(datasets / layout) for layout in ("shards", FOLDERS))
    assert len(shards) == len(folders)
    for number in range(len(shards)):
        one, other = shards.read(number), folders.read(number)
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])
        assert np.array_equal(one[2] == 1, other[2] == 1)


def test_batches_have_the_promised_shapes_and_values(datasets: Path) -> None:
    for side in (16, 32, 64):  # smaller, as they are, larger
        stream = PatchDataset(open_patches(datasets / "shards"), replace(STREAM, input_size=side))
        patches, targets = stream.batch(0)
        assert patches.shape == (5, side, side, 4)
        assert targets.shape == (5, side, side)
        assert set(np.unique(patches[..., 3])) == {0, 1}
        assert {0, 1} <= set(np.unique(targets)) <= {0, 1, 255}
        known = targets != 255
        assert np.mean((patches[..., 3] == targets)[known]) > 0.7


def test_a_batch_depends_on_its_number_and_the_seed_alone(datasets: Path) -> None:
    one, other = (PatchDataset(open_patches(datasets / "shards"), STREAM) for _ in range(2))
    other.batch(0)
    for mine, its in zip(one.batch(5), other.batch(5), strict=True):
        assert np.array_equal(mine, its)
    assert not np.array_equal(one.batch(5)[0], one.batch(6)[0])
    reseeded = PatchDataset(one.patches, replace(STREAM, seed=4))
    assert not np.array_equal(one.batch(5)[0], reseeded.batch(5)[0])


class Counted:
    """Samples that remember how often each was read."""

    def __init__(self, patches) -> None:
        self.patches, self.reads = patches, [0] * len(patches)

    def __len__(self) -> int:
        return len(self.patches)

    def read(self, number: int):
        self.reads[number] += 1
        return self.patches.read(number)


def test_every_sample_comes_once_in_an_epoch(datasets: Path) -> None:
    counted = Counted(open_patches(datasets / "shards"))
    length = len(counted)
    stream = PatchDataset(counted, replace(STREAM, batch_size=length))
    orders = []
    for number in range(2):
        counted.reads = [0] * length
        orders.append(stream._chosen(number * length, length))
        stream.batch(number)
        assert counted.reads == [1] * length
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize("method", START_METHODS)
def test_loader_processes_and_a_later_start_give_the_same_batches(
    datasets: Path, method: str
) -> None:
    patches = open_patches(datasets / "shards")
    alone = [PatchDataset(patches, STREAM).batch(number) for number in (2, 3, 4, 5)]
    loader = DataLoader(
        PatchDataset(patches, STREAM, start=2),
        batch_size=None,
        num_workers=2,
        multiprocessing_context=method,
    )
    for mine, its in zip(alone, islice(loader, 4), strict=True):
        for one, other in zip(mine, its, strict=True):
            assert np.array_equal(one, other.numpy())
    strided = PatchDataset(patches, STREAM, start=3, stride=2)
    assert np.array_equal(next(islice(strided, 1, None))[0], alone[3][0])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: (d / "train-000001.tar").unlink(), r"train-000001\.tar: expected a file"),
        (lambda d: (d / "manifest-train.json").write_text("{}"), "expected the manifest of"),
        (lambda d: (d / "manifest-train.json").unlink(), "found neither; bpr extract makes"),
    ],
)
def test_a_damaged_dataset_is_said_before_training(
    datasets: Path, tmp_path: Path, damage, said: str
) -> None:
    import shutil

    copy = shutil.copytree(datasets / "shards", tmp_path / "copy")
    damage(copy)
    with pytest.raises(ValueError, match=said):
        open_patches(copy)
