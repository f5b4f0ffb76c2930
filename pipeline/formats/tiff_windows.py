"""TIFFs of a gigapixel: only the parts around objects are read, so memory follows the objects.

tifffile reads tiles and strips; where it lacks a codec, rasterio does. Both are optional.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bpr.pipeline.instance import Box, Size, common_box

LEAST_PIXELS = 2**26  # of a file that is read by windows; smaller ones are read whole

Pixels = npt.NDArray[Any]
Part = tuple[Box, Pixels]
"""A box of the image and its pixels, (h, w) or (h, w, bands)."""


@dataclass(frozen=True, eq=False)
class WindowedTiff:
    """A large TIFF whose parts can be read."""

    path: Path
    size: Size
    is_sixteen_bit: bool
    read: Callable[[Sequence[Box]], Iterator[Part]]
    """Parts that together cover some boxes; they may be larger. ValueError: damaged data."""


def open_windows(path: Path) -> WindowedTiff | None:
    """The file, where it can be read by windows: large, 8 or 16 bits, grey or RGB, upright."""
    return _by_tifffile(path) or _by_rasterio(path)


def _by_tifffile(path: Path) -> WindowedTiff | None:
    try:
        import tifffile
    except ModuleNotFoundError:
        return None
    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            usable = (
                page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK)
                and page.dtype in (np.uint8, np.uint16)
                and page.planarconfig == 1
                and page.imagedepth == 1
                and page.imagewidth * page.imagelength >= LEAST_PIXELS
                and page.tags.valueof(274, 1) == 1
            )
            if not usable:
                return None
            size = (page.imagelength, page.imagewidth)
            if page.dataoffsets:  # whether there is a codec for it
                _decode(file, page, next(n for n, c in enumerate(page.databytecounts) if c))
    except Exception:  # tifffile and its codecs have errors of their own
        return None

    def read(boxes: Sequence[Box]) -> Iterator[Part]:
        try:
            with tifffile.TiffFile(path) as file:
                page: Any = file.pages[0]
                for index, box in _tiles(page, boxes):
                    x0, y0, x1, y1 = box
                    if page.databytecounts[index]:
                        yield box, _decode(file, page, index)[: y1 - y0, : x1 - x0]
        except Exception as error:
            raise ValueError(f"{path}: expected a readable TIFF, got: {error}") from None

    return WindowedTiff(path, size, page.dtype == np.uint16, read)


def _tiles(page: Any, boxes: Sequence[Box]) -> Iterator[tuple[int, Box]]:
    """Indices and boxes of the tiles, or strips, that meet any of the boxes."""
    height, width = page.imagelength, page.imagewidth
    rows = page.tilelength if page.is_tiled else page.rowsperstrip
    columns = page.tilewidth if page.is_tiled else width
    across = -(-width // columns)
    found = set()
    for x0, y0, x1, y1 in boxes:
        if x0 < x1 and y0 < y1:
            found |= {
                row * across + column
                for row in range(y0 // rows, (y1 - 1) // rows + 1)
                for column in range(x0 // columns, (x1 - 1) // columns + 1)
            }
    for index in sorted(found):
        y, x = index // across * rows, index % across * columns
        yield index, (x, y, min(x + columns, width), min(y + rows, height))


def _decode(file: Any, page: Any, index: int) -> Pixels:
    file.filehandle.seek(page.dataoffsets[index])
    data = file.filehandle.read(page.databytecounts[index])
    decoded = page.decode(data, index, jpegtables=page.jpegtables)[0]
    return np.asarray(decoded[0])


def _by_rasterio(path: Path) -> WindowedTiff | None:
    try:
        import rasterio
        from rasterio.windows import Window
    except ModuleNotFoundError:
        return None
    try:
        with rasterio.open(path) as file:
            usable = (
                file.driver == "GTiff"
                and set(file.dtypes) <= {"uint8", "uint16"}
                and file.width * file.height >= LEAST_PIXELS
                and file.colorinterp[0].name in ("red", "gray")
            )
            if not usable:
                return None
            size, bands = (file.height, file.width), [1, 2, 3] if file.count >= 3 else [1]
            is_sixteen_bit = file.dtypes[0] == "uint16"
    except Exception:  # GDAL's errors are many
        return None

    def read(boxes: Sequence[Box]) -> Iterator[Part]:
        try:
            with rasterio.open(path) as file:
                for x0, y0, x1, y1 in boxes:
                    window = Window(x0, y0, x1 - x0, y1 - y0)
                    if x0 < x1 and y0 < y1:
                        yield (x0, y0, x1, y1), np.moveaxis(file.read(bands, window=window), 0, -1)
        except Exception as error:
            raise ValueError(f"{path}: expected a readable TIFF, got: {error}") from None

    return WindowedTiff(path, size, is_sixteen_bit, read)


def untouched(shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Zeros that take memory only where they are written to, by small pages."""
    space = mmap.mmap(-1, int(np.prod(shape)))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        space.madvise(mmap.MADV_NOHUGEPAGE)  # a huge page is wider than most objects
    return np.frombuffer(space, np.uint8).reshape(shape)


def fill(
    pixels: npt.NDArray[np.uint8],
    tiff: WindowedTiff,
    boxes: Sequence[Box],
    to_8_bits: Callable[[Pixels], Pixels],
) -> None:
    """Read boxes of a file into an image.

    Args:
        pixels: (H, W, 3) uint8 of the file's size, written into.
        tiff: the file.
        boxes: of the image.
        to_8_bits: of all values that were read, where they are deeper.
    """
    whole = (0, 0, tiff.size[1], tiff.size[0])
    wanted = [box for box in (common_box(box, whole) for box in boxes) if box is not None]
    parts = tiff.read(wanted)
    if tiff.is_sixteen_bit:
        kept = [(box, _as_rgb(part)) for box, part in parts]
        flat = [part.reshape(-1) for _, part in kept]
        ends = np.cumsum([0, *map(len, flat)]).tolist()
        scaled = to_8_bits(np.concatenate(flat)) if flat else np.zeros(0, np.uint8)
        parts = iter(
            (box, scaled[start:stop].reshape(part.shape))
            for (box, part), start, stop in zip(kept, ends[:-1], ends[1:], strict=True)
        )
    for (x0, y0, x1, y1), part in parts:
        pixels[y0:y1, x0:x1] = _as_rgb(part)


def _as_rgb(part: Pixels) -> Pixels:
    """(h, w, 3) of grey, RGB, or more bands."""
    if part.ndim == 2:
        part = part[..., None]
    return np.repeat(part[..., :1], 3, axis=-1) if part.shape[-1] < 3 else part[..., :3]
