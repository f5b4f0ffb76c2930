"""Large TIFFs: only the surroundings of objects are read, and they are those of the file."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.batch.coco_job import CocoJob
from bpr.pipeline.batch.engine import ImageOutcome, read_image
from bpr.pipeline.formats import images, rle, tiff_windows
from bpr.pipeline.instance import Mask
from bpr.pipeline.settings import PatchSettings

tifffile = pytest.importorskip("tifffile")
SIDE = 8192  # pixels, just large enough to be read by windows


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def write(path, kind):
    """A black image with a coloured square, and the square."""
    values = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    options = {"photometric": "rgb", "tile": (1024, 1024), "compression": "zlib"}
    if kind == "grey strips":
        values = values[..., :1]
        options = {"photometric": "minisblack", "rowsperstrip": 64, "compression": "zlib"}
    if kind == "16 bits":
        values = values.astype(np.uint16) * 8 + 100
    shape = (SIDE, SIDE) if values.shape[2] == 1 else (SIDE, SIDE, 3)
    whole = np.zeros(shape, values.dtype)
    whole[5000:5300, 3000:3300] = values if whole.ndim == 3 else values[..., 0]
    tifffile.imwrite(path, whole, **options)
    return values


@pytest.mark.parametrize("kind", ["tiles", "grey strips", "16 bits"])
def test_what_is_filled_in_is_what_the_file_holds(tmp_path, kind):
    path = tmp_path / "a.tif"
    values = write(path, kind)
    before = resident_bytes()
    photograph = images.read_image(path, by_windows=True)
    photograph.fill([(3000, 5000, 3300, 5300), (-5, -5, 10, 10), (8190, 8190, 9000, 9000)])
    grown = resident_bytes() - before
    assert photograph.pixels.shape == (SIDE, SIDE, 3)
    assert any("large TIFF" in note for note in photograph.notes)
    found = photograph.pixels[5000:5300, 3000:3300]
    if kind == "16 bits":
        assert np.corrcoef(found.ravel(), values.ravel())[0, 1] > 0.999
        assert found.max() == 255
    else:
        np.testing.assert_array_equal(found, np.broadcast_to(values, found.shape))
        # three rows of tiles, not 200 MB
        assert grown < 60e6


def test_small_ones_are_read_whole(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.tif")
    assert images.read_image(tmp_path / "a.tif", by_windows=True).fill is None
    assert tiff_windows.open_windows(tmp_path / "a.tif") is None


def test_a_damaged_tile_costs_its_image(tmp_path):
    path = tmp_path / "a.tif"
    write(path, "tiles")
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        place, count = page.dataoffsets[4 * 8 + 2], page.databytecounts[4 * 8 + 2]
    data = bytearray(path.read_bytes())
    data[place : place + count] = b"\xff" * count
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.tif: expected a readable TIFF"):
        images.read_image(path, by_windows=True).fill([(3000, 5000, 3300, 5300)])


def test_a_run_reads_all_that_the_patches_of_an_object_see(tmp_path):
    (tmp_path / "images").mkdir()
    values = write(tmp_path / "images/a.tif", "tiles")
    square = Mask.from_array(np.ones((100, 100)), (3100, 5100), (SIDE, SIDE))
    segmentation = rle.encode(square)
    assert rle.decode(segmentation, (SIDE, SIDE)).window == square.window
    record = {"image_id": 1, "category_id": 1, "segmentation": segmentation}
    content = {
        "images": [{"id": 1, "file_name": "a.tif", "height": SIDE, "width": SIDE}],
        "annotations": [record],
        "categories": [],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    job = CocoJob(tmp_path / "a.json", tmp_path / "images", None, tmp_path / "out.json")
    outcome = read_image(job, "1", None, PatchSettings(patch_size="passes"))
    assert not isinstance(outcome, ImageOutcome)
    pixels = outcome[1].image
    np.testing.assert_array_equal(pixels[5000:5300, 3000:3300], values)


@pytest.mark.parametrize("codec", ["lzw", "jpeg"])
def test_rasterio_reads_what_tifffile_has_no_codec_for(tmp_path, codec, monkeypatch):
    rasterio = pytest.importorskip("rasterio", reason="needs pip install 'bpr-refine[tiff]'")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)  # tifffile's codecs
    path = tmp_path / "a.tif"
    values = np.kron(np.random.default_rng(0).integers(0, 256, (30, 30)), np.ones((10, 10)))
    whole = np.zeros((3, SIDE, SIDE), np.uint8)
    whole[:, 5000:5300, 3000:3300] = values
    shape = {"driver": "GTiff", "count": 3, "height": SIDE, "width": SIDE, "dtype": "uint8"}
    tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512}
    with rasterio.open(path, "w", **shape, **tiles, compress=codec, photometric="rgb") as file:
        file.write(whole)
    photograph = images.read_image(path, by_windows=True)
    photograph.fill([(3000, 5000, 3300, 5300)])
    with rasterio.open(path) as file:
        want = np.moveaxis(file.read(window=((5000, 5300), (3000, 3300))), 0, -1)
    np.testing.assert_array_equal(photograph.pixels[5000:5300, 3000:3300], want)
    assert photograph.pixels[:4000].max() == 0
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.tif: expected a readable TIFF"):
        images.read_image(path, by_windows=True).fill([(0, 0, SIDE, SIDE)])
