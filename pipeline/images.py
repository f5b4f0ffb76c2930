"""Image and mask files as arrays, whatever kind of file they are."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from pipeline.instance import BoolArray, Size, UInt8Array

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})

_SIXTEEN_BIT_GREY = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_ORIENTATIONS_THAT_TURN = frozenset({5, 6, 7, 8})  # these swap width and height


@dataclass(frozen=True, eq=False)
class Photograph:
    """An image as 8-bit RGB."""

    pixels: UInt8Array  # (H, W, 3) RGB
    notes: tuple[str, ...]  # what had to be done to get there, in words


def read_image(path: Path, mask_size: Size | None = None) -> Photograph:
    """Read an image file as 8-bit RGB.

    Grey is repeated, CMYK converted, 16 bits shifted to 8, alpha dropped. EXIF orientation is
    applied, as OpenCV does, unless only the stored orientation fits the masks. All but grey
    leave a note.

    Args:
        path: of any format that Pillow reads; the name's ending does not matter.
        mask_size: (height, width) of the masks that belong to the image, where known.

    Raises:
        ValueError: the file is missing, truncated, not an image, or its size is not mask_size.
    """
    with _opened(path) as file:
        notes = []
        mode, stored = file.mode, (file.height, file.width)
        turn = int(file.getexif().get(ExifTags.Base.Orientation, 1) or 1)
        if any(";16" in str(tile) for tile in getattr(file, "tile", ())) or (
            mode in _SIXTEEN_BIT_GREY
        ):
            notes.append("16 bits per channel: the upper 8 are used")
        file.load()
        pixels = _to_rgb(file, path)
        if file.has_transparency_data:
            notes.append("alpha channel dropped")
        if mode == "CMYK":
            notes.append("CMYK converted to RGB without a colour profile")
        if turn != 1:
            turned = stored[::-1] if turn in _ORIENTATIONS_THAT_TURN else stored
            if mask_size is not None and mask_size == stored != turned:
                notes.append(f"EXIF orientation {turn} ignored: the masks fit the stored pixels")
            else:
                upright = Image.fromarray(pixels)
                upright.getexif()[ExifTags.Base.Orientation] = turn
                pixels = np.asarray(ImageOps.exif_transpose(upright))
                notes.append(f"EXIF orientation {turn} applied")
    size = (pixels.shape[0], pixels.shape[1])
    if mask_size is not None and size != mask_size:
        raise ValueError(
            f"{path}: expected the size of its masks, {_words(mask_size)}, got {_words(size)}"
        )
    return Photograph(np.ascontiguousarray(pixels), tuple(notes))


def read_mask(path: Path) -> BoolArray:
    """Read a mask file: every pixel with a non-zero value or palette index is the object.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: the file is missing, truncated or not an image.
    """
    with _opened(path) as file:
        file.load()
        values: npt.NDArray[Any] = np.asarray(file)
        bands = file.getbands()
    if values.ndim == 3:
        colours = [index for index, band in enumerate(bands) if band not in ("A", "a")]
        return np.asarray(values[..., colours].any(axis=-1))
    return np.asarray(values != 0)


def read_size(path: Path) -> Size:
    """The (height, width) of an image file, from its header."""
    with _opened(path) as file:
        return file.height, file.width


def _to_rgb(file: Image.Image, path: Path) -> UInt8Array:
    if file.mode in _SIXTEEN_BIT_GREY:
        # convert("L") would clip instead of scaling
        grey = (np.asarray(file).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if file.mode == "F":
        raise ValueError(f"{path}: expected 8 or 16 bits per channel, got floating point")
    if file.mode == "P":
        return np.asarray(file.convert("RGBA").convert("RGB"))
    return np.asarray(file.convert("RGB"))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; whatever is wrong with the file becomes a ValueError that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                yield file
    except FileNotFoundError:
        raise ValueError(f"{path}: expected an image, found no file") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: expected an image of reasonable size, got {error}") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path}: expected an image, got a file that is none") from None
    except (OSError, SyntaxError, EOFError, struct.error) as error:
        raise ValueError(f"{path}: expected a readable image, got: {error}") from None


def _words(size: Size) -> str:
    return f"{size[1]} x {size[0]} pixels"
