"""The stream of training patches: what is in a batch, and that chance is only in the seed."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from bpr.pipeline.training.patch_stream import (
    PatchStream,
    StreamSettings,
    find_labelled_images,
    sample_patches,
)
from tests.systems import START_METHODS

SETTINGS = StreamSettings(input_size=32, batch_size=6, seed=3)


@pytest.fixture
def photographs_folder(tmp_path: Path) -> Path:
    """Two photographs with two objects each and a band that nobody could label."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        labels = np.zeros((120, 160), np.uint8)
        labels[20:80, 10:70] = 1
        labels[40:110, 90:150] = 2
        labels[76:84, 10:70] = 255
        colours = rng.integers(0, 255, (3, 3))
        pixels = colours[np.minimum(labels, 2)] + rng.integers(-10, 10, (120, 160, 3))
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "maps").mkdir(exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
            tmp_path / "images" / f"{name}.jpg"
        )
        Image.fromarray(labels).save(tmp_path / "maps" / f"{name}.png")
    return tmp_path


def stream(folder: Path, start: int = 0) -> PatchStream:
    return PatchStream(find_labelled_images(folder / "images", folder / "maps"), SETTINGS, start)


def test_batches_have_the_promised_shapes_and_values(photographs_folder: Path) -> None:
    patches, targets = stream(photographs_folder).batch(0)
    assert patches.shape == (6, 32, 32, 4)
    assert targets.shape == (6, 32, 32)
    assert set(np.unique(patches[..., 3])) == {0, 1}
    assert {0, 1} <= set(np.unique(targets)) <= {0, 1, 255}


def test_a_batch_depends_on_its_number_and_the_seed_alone(photographs_folder: Path) -> None:
    one, other = stream(photographs_folder), stream(photographs_folder)
    other.batch(0)
    for mine, its in zip(one.batch(5), other.batch(5), strict=True):
        assert np.array_equal(mine, its)
    assert not np.array_equal(one.batch(5)[0], one.batch(6)[0])


@pytest.mark.parametrize("method", START_METHODS)
def test_loader_processes_and_a_later_start_give_the_same_batches(
    photographs_folder: Path, method: str
) -> None:
    alone = [stream(photographs_folder).batch(number) for number in (2, 3, 4, 5)]
    loader = DataLoader(
        stream(photographs_folder, start=2),
        batch_size=None,
        num_workers=2,
        multiprocessing_context=method,
    )
    for (patches, targets), (its_patches, its_targets) in zip(
        alone, islice(loader, 4), strict=True
    ):
        assert np.array_equal(patches, its_patches.numpy())
        assert np.array_equal(targets, its_targets.numpy())


def test_targets_are_nearer_to_perfect_coarse_masks_than_chance(photographs_folder: Path) -> None:
    """Most coarse pixels are right: patches, coarse masks and targets lie on one another."""
    patches, targets = stream(photographs_folder).batch(1)
    known = targets != 255
    assert np.mean((patches[..., 3] == targets)[known]) > 0.75


def test_an_image_without_instances_gives_nothing() -> None:
    blank = np.zeros((50, 50), np.uint8)
    image = np.zeros((50, 50, 3), np.uint8)
    assert sample_patches(image, blank, 32, np.random.default_rng(0)) is None


def test_a_map_without_its_photograph_is_an_error_that_names_it(photographs_folder: Path) -> None:
    (photographs_folder / "images" / "b.jpg").unlink()
    with pytest.raises(ValueError, match=r"expected an image b\.\*"):
        stream(photographs_folder)


def test_a_map_of_another_size_is_an_error_that_names_it(photographs_folder: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.ones((9, 9), np.uint8)).save(photographs_folder / "maps" / f"{name}.png")
    with pytest.raises(ValueError, match=r"\.png: expected the size of its image \(120, 160\)"):
        stream(photographs_folder).batch(0)


def test_maps_without_instances_are_an_error_and_no_endless_search(
    photographs_folder: Path,
) -> None:
    for name in ("a", "b"):
        only_unknown = np.full((120, 160), 255, np.uint8)
        Image.fromarray(only_unknown).save(photographs_folder / "maps" / f"{name}.png")
    with pytest.raises(ValueError, match=r"maps: expected maps with instances \(values 1 to 254\)"):
        stream(photographs_folder).batch(0)
