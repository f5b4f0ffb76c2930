"""Image and mask files as arrays, whatever kind of file they are."""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from zlib_ng import zlib_ng

from bpr.pipeline.instance import BoolArray, Mask, Size, UInt8Array

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})

# Pillow knows some sixty more; its PostScript reader starts a program
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
# what Pillow's decoders raise on damaged files
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    struct.error,
)
_CHANGING_WARNINGS = threading.Lock()
_SIXTEEN_BIT_GREY = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_ONE_CHANNEL = _SIXTEEN_BIT_GREY | {"L", "P", "1"}
_ORIENTATIONS_THAT_TURN = frozenset({5, 6, 7, 8})  # these swap width and height


InstanceMap = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.int64]
"""(H, W); each value but 0 names an instance."""

IGNORE = 255
"""In 8-bit instance maps: pixels that nobody could label."""


class NamedFile(io.BytesIO):
    """A file that came over the wire. Messages about it give its name, as for a path."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name


ImageFile = Path | NamedFile


class TooManyPixels(ValueError):
    """An image so large that Pillow takes it for an attack."""


@dataclass(frozen=True)
class Header:
    """What an image file says of itself before anything is decoded."""

    format: str  # as Pillow names it: PNG, JPEG, MPO (several JPEGs), WEBP ...
    size: Size  # as stored, before any EXIF orientation


@dataclass(frozen=True, eq=False)
class Photograph:
    """An image as 8-bit RGB."""

    pixels: UInt8Array  # (H, W, 3) RGB
    notes: tuple[str, ...]  # what had to be done to get there, in words


def read_header(path: ImageFile) -> Header:
    """Type and size of an image file, told by its content, at a cost that does not follow the size.

    Raises:
        ValueError: the file is missing or not an image (TooManyPixels: or one of absurd size).
    """
    with _explained(path):
        with _quiet():
            file = Image.open(_openable(path), formats=_FORMATS)
        with file:
            return Header(file.format or "", (file.height, file.width))


def read_image(path: ImageFile, mask_size: Size | None = None) -> Photograph:
    """Read an image file as 8-bit RGB.

    Grey is repeated, CMYK converted, 16 bits shifted to 8, alpha dropped. EXIF orientation is
    applied, as OpenCV does, unless only the stored orientation fits the masks (in TIFF it is
    always applied). All but grey leave a note.

    Args:
        path: PNG, JPEG, WebP, BMP, TIFF, PPM or GIF, whatever the name's ending.
        mask_size: (height, width) of the masks that belong to the image, where known; it decides
            about the orientation only.

    Raises:
        ValueError: the file is missing, truncated or not an image.
    """
    loaded = _load(path)
    file, turn = loaded.file, loaded.orientation
    if file.mode == "F":
        raise ValueError(f"{path}: expected 8 or 16 bits per channel, got floating point")
    notes = []
    with _explained(path):  # a damaged palette shows only now
        pixels = _to_rgb(file)
        has_alpha = file.has_transparency_data
    if loaded.is_sixteen_bit:
        notes.append("16 bits per channel: the upper 8 are used")
    if has_alpha:
        notes.append("alpha channel dropped")
    if file.mode == "CMYK":
        notes.append("CMYK converted to RGB without a colour profile")
    if loaded.turned != 1:
        notes.append(f"EXIF orientation {loaded.turned} applied")
    elif turn != 1:
        stored = (file.height, file.width)
        turned = stored[::-1] if turn in _ORIENTATIONS_THAT_TURN else stored
        if mask_size == stored != turned:
            notes.append(f"EXIF orientation {turn} ignored: the masks fit the stored pixels")
        else:
            pixels = _turned(pixels, turn)
            notes.append(f"EXIF orientation {turn} applied")
    return Photograph(np.ascontiguousarray(pixels), tuple(notes))


def read_mask(path: ImageFile) -> BoolArray:
    """Read a mask file: every pixel with a non-zero value or palette index is the object.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: the file is missing, truncated, not an image, or a JPEG: its compression
            leaves values that are not zero around objects.
    """
    file = _load_lossless(path)
    values: npt.NDArray[Any] = np.asarray(file)
    if values.ndim == 3:
        colours = [index for index, band in enumerate(file.getbands()) if band not in ("A", "a")]
        return np.asarray(values[..., colours].any(axis=-1))
    return np.asarray(values != 0)


def read_instance_map(path: ImageFile) -> InstanceMap:
    """The pixel values or palette indices of a one-channel file.

    Returns:
        (H, W), uint8 for 8 bits, uint16 for more where that is enough, else int64.

    Raises:
        ValueError: as for `read_mask`, or it has several channels.
    """
    file = _load_lossless(path)
    if file.mode not in _ONE_CHANNEL:
        raise ValueError(
            f"{path}: expected an instance map of one channel (8-bit palette or grey, or "
            f"16-bit grey), got mode {file.mode}"
        )
    values = np.asarray(file)
    if values.dtype.itemsize == 1:
        return values.astype(np.uint8)
    fits = values.dtype == np.uint16 or (values.min() >= 0 and values.max() < 2**16)
    return values.astype(np.uint16 if fits else np.int64)


def encode_png(pixels: UInt8Array | npt.NDArray[np.uint16]) -> bytes:
    """(H, W) uint8 or uint16, or (H, W, 3) uint8, as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=3)
    return buffer.getvalue()


def encode_mask(mask: Mask) -> bytes:
    """A mask as an 8-bit PNG of the whole image, 0 and 255.

    Written here, because Pillow's choice of a filter for each row takes nine tenths of the time
    and makes masks larger: without filters zlib-ng packs a mask eight times as fast.
    """
    height, width = mask.size
    rows = np.zeros((height, 1 + width), np.uint8)  # the first byte of a row names its filter
    x0, y0, x1, y1 = mask.window
    np.multiply(mask.bitmap, np.uint8(255), out=rows[y0:y1, 1 + x0 : 1 + x1])
    grey_8_bit = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", grey_8_bit), (b"IDAT", zlib_ng.compress(rows, 3)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc32(kind + content))
        for kind, content in chunks
    )


def _to_rgb(file: Image.Image) -> UInt8Array:
    if file.mode in _SIXTEEN_BIT_GREY:
        # convert("L") would clip instead of scaling
        grey = (np.asarray(file).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if file.mode == "P":
        return np.asarray(file.convert("RGBA").convert("RGB"))
    return np.asarray(file.convert("RGB"))


def _turned(pixels: UInt8Array, orientation: int) -> UInt8Array:
    image = Image.fromarray(pixels)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A file as Pillow decodes it, and what Pillow does not keep."""

    file: Image.Image
    is_sixteen_bit: bool  # per channel; Pillow keeps 16 bits for grey only
    turned: int  # EXIF orientation that Pillow has applied already: it does so in TIFF
    orientation: int  # EXIF orientation that is left to apply, 1 to 8; 1 changes nothing


def _load_lossless(path: ImageFile) -> Image.Image:
    file = _load(path).file
    if file.format in ("JPEG", "MPO"):
        raise ValueError(f"{path}: expected a mask stored without loss (PNG), got a JPEG")
    return file


def _load(path: ImageFile) -> _Loaded:
    """Read a file whole; whatever is wrong with it becomes a ValueError that names it."""
    with _explained(path):
        with _quiet():
            file = Image.open(_openable(path), formats=_FORMATS)
        with file:
            is_sixteen_bit = ";16" in str(file.tile) or file.mode in _SIXTEEN_BIT_GREY
            with _quiet():
                turned = _orientation(getattr(file, "tag_v2", {}))
            # Pillow reads TIFF metadata again while it decodes, warnings included
            with _quiet() if file.format == "TIFF" else nullcontext():
                file.load()
            with _quiet():
                return _Loaded(file, is_sixteen_bit, turned, _orientation(_exif(file)))


def _openable(path: ImageFile) -> ImageFile:
    """Pillow opens files of this machine; those of object stores are fetched."""
    return path if isinstance(path, (Path, NamedFile)) else NamedFile(path.read_bytes(), str(path))


@contextmanager
def _explained(path: ImageFile) -> Iterator[None]:
    """Say of whatever Pillow raises which file it is about."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{path}: expected an image, found no file") from None
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"{path}: expected an image of reasonable size, got: {error}") from None
    except UnidentifiedImageError:
        formats = ", ".join(_FORMATS)
        raise ValueError(
            f"{path}: expected an image ({formats}), got a file that is none"
        ) from None
    except OSError as error:
        reason = error.strerror or error  # with the former, the text repeats the path
        raise ValueError(f"{path}: expected a readable image, got: {reason}") from None
    except _DECODER_ERRORS as error:
        reason = str(error) or "damaged data"
        raise ValueError(f"{path}: expected a readable image, got: {reason}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow from warning of sizes within its limit and of damaged metadata.

    Python's warning filters belong to the process: only one thread at a time may change them.
    """
    with _CHANGING_WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield


def _exif(file: Image.Image) -> Mapping[int, Any]:
    try:
        return file.getexif()
    except _DECODER_ERRORS:  # damaged metadata makes no image unreadable
        return {}


def _orientation(tags: Mapping[int, Any]) -> int:
    value = tags.get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
