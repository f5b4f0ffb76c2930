"""Image and mask files as arrays, whatever kind of file they are."""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zlib import crc32

import cv2
import numpy as np
import numpy.typing as npt
from PIL import (
    ExifTags,
    Image,
    ImageOps,
    TiffImagePlugin,
    UnidentifiedImageError,
    features,
)
from zlib_ng import zlib_ng

from bpr._paths import AnyPath, is_local
from bpr.pipeline.formats import mask_values, tiff_windows
from bpr.pipeline.formats.frame import Frame
from bpr.pipeline.formats.label_maps import MapObjects
from bpr.pipeline.formats.mask_values import values_of_map
from bpr.pipeline.instance import BoolArray, Box, Mask, Size, SoftMask, UInt8Array

_ENDINGS = {  # of each of Pillow's formats
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
}
if not features.check("avif"):
    del _ENDINGS["AVIF"]
if find_spec("pillow_heif"):  # where it is installed, Pillow can
    from pillow_heif import register_heif_opener

    register_heif_opener()
    _ENDINGS["HEIF"] = (".heic", ".heif")

# Pillow knows some sixty more; its PostScript reader starts a program
_FORMATS = tuple(_ENDINGS)

IMAGE_SUFFIXES = frozenset(ending for endings in _ENDINGS.values() for ending in endings)
"""Endings, in small letters, of the files that are taken for images, maps and masks."""

MAX_PIXELS = 2**30
"""Pixels of the largest image that a command reads unless it is told otherwise: 3 GB as RGB."""

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
_GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)
"""ModelPixelScale, ModelTiepoint, ModelTransformation, the three of GeoKeys, GDAL's two."""
_FULL_RANGE = 2**15  # of 2**16 values; what uses less is stretched
_ORIENTATIONS_THAT_TURN = frozenset({5, 6, 7, 8})  # these swap width and height


InstanceMap = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.int64]
"""(H, W); each value but 0 names an instance."""

IGNORE = mask_values.IGNORED
"""In 8-bit instance maps: pixels that nobody could label."""


class NamedFile(io.BytesIO):
    """A file that came over the wire. Messages about it give its name, as for a path."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name


ImageFile = AnyPath | NamedFile


class TooManyPixels(ValueError):
    """An image with more pixels than its reader allows."""


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
    stored: Size  # (height, width) of the file, before any EXIF orientation
    fill: Callable[[Sequence[Box]], None] | None = None
    """Reads boxes into `pixels`, which are black and take no memory until then; None where they
    are read already. ValueError: damaged data."""

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]


def read_header(path: ImageFile) -> Header:
    """Type and size of an image file, told by its content, at a cost that does not follow the size.

    Raises:
        ValueError: the file is missing or not an image.
    """
    with _explained(path):
        with _quiet():
            file = _open(path)
        with file:
            return Header(file.format or "", (file.height, file.width))


def read_image(
    path: ImageFile,
    frame: Frame | None = None,
    max_pixels: int = MAX_PIXELS,
    by_windows: bool = False,
) -> Photograph:
    """Read an image file as 8-bit RGB.

    Grey is repeated, CMYK converted, alpha dropped. Of 16 bits the upper 8 are used where they
    hold the picture; values that use less than half of their range (12 bits, thermal cameras)
    are stretched between their percentiles 0.1 and 99.9. EXIF orientation is applied, as OpenCV
    does, unless the masks fit only the stored pixels (in TIFF it is always applied). Of several
    pages the first is read. All but grey leave a note.

    Args:
        path: an image of one of the formats of `IMAGE_SUFFIXES`, whatever the name's ending.
        frame: what the masks of the image say about its size, where there are any; it decides
            about the orientation only.
        max_pixels: refuse larger images, before they are decoded.
        by_windows: whether the caller fills in what it needs of a large TIFF (`Photograph.fill`),
            where tifffile or rasterio is installed.

    Raises:
        ValueError: the file is missing, truncated or not an image (TooManyPixels: too large).
    """
    if by_windows and not isinstance(path, NamedFile) and (found := _windows_of(path, max_pixels)):
        return found
    loaded = _load_page(path, max_pixels=max_pixels)
    file, turn = loaded.file, loaded.orientation
    if file.mode == "F":
        raise ValueError(f"{path}: expected 8 or 16 bits per channel, got floating point")
    notes = []
    with _explained(path):  # a damaged palette shows only now
        pixels, stretched = _to_rgb(loaded, path)
        has_alpha = file.has_transparency_data
    if loaded.is_sixteen_bit:
        notes.append(stretched or "16 bits per channel: the upper 8 are used")
    if loaded.num_pages > 1:
        notes.append(f"the first of {loaded.num_pages} pages is used")
    if has_alpha:
        notes.append("alpha channel dropped")
    if file.mode == "CMYK":
        notes.append("CMYK converted to RGB without a colour profile")
    stored = (file.height, file.width)
    if loaded.turned != 1:
        notes.append(f"EXIF orientation {loaded.turned} applied")
    elif turn != 1:
        turned = stored[::-1] if turn in _ORIENTATIONS_THAT_TURN else stored
        is_stored, reason = (frame or Frame()).is_stored(stored, turned)
        if is_stored:
            notes.append(f"EXIF orientation {turn} ignored: {reason}")
        else:
            pixels = _turned(pixels, turn)
            notes.append(f"EXIF orientation {turn} applied")
    return Photograph(np.ascontiguousarray(pixels), tuple(notes), stored)


def _windows_of(path: AnyPath, max_pixels: int) -> Photograph | None:
    """A large TIFF of which nothing is read yet; None of other files and other machines."""
    if not is_local(path):
        return None
    try:
        header = read_header(path)
    except ValueError:
        return None
    if header.format != "TIFF" or header.size[0] * header.size[1] < tiff_windows.LEAST_PIXELS:
        return None
    _check_pixels(path, header.size, max_pixels)
    tiff = tiff_windows.open_windows(path)
    if tiff is None or tiff.size != header.size:
        return None
    pixels = tiff_windows.untouched((*tiff.size, 3))
    notes = ["a large TIFF: only the surroundings of objects are read"]
    if tiff.is_sixteen_bit:
        notes.append("16 bits per channel: as 8 bits by the values around the objects")

    def fill(boxes: Sequence[Box]) -> None:
        tiff_windows.fill(pixels, tiff, boxes, lambda values: _to_8_bits(values)[0])

    return Photograph(pixels, tuple(notes), tiff.size, fill)


@dataclass(frozen=True, eq=False)
class FileObject:
    """One object in a mask file."""

    pixels: BoolArray  # (H, W)
    page: int  # of the file, from 0
    value: int | None  # in an instance map; of colours 0xRRGGBB; None: the only object of the page


@dataclass(frozen=True, eq=False)
class MaskFile:
    """A mask file, understood."""

    objects: tuple[FileObject, ...]
    notes: tuple[str, ...]  # what was guessed, in words
    num_pages: int = 1

    def only(self, path: ImageFile) -> BoolArray:
        """The object of a file that must hold one, (H, W).

        Raises:
            ValueError: it holds several.
        """
        if len(self.objects) != 1:
            what = "pages" if self.num_pages > 1 else "instances of an instance map"
            raise ValueError(
                f"{path}: expected the mask of one object, got {len(self.objects)} {what}"
            )
        return self.objects[0].pixels


def read_masks(path: ImageFile, max_pixels: int = MAX_PIXELS) -> MaskFile:
    """The objects in a mask file, by the rules of `mask_values`; each page has its own.

    Args:
        path: an image file of any kind.
        max_pixels: refuse larger files, before they are decoded.

    Raises:
        ValueError: the file is missing, truncated, not an image, or has no zero.
    """
    return _read_masks(path, _load_page(path, 0, max_pixels), max_pixels, may_fill=False)


def _read_masks(path: ImageFile, page: _Page, max_pixels: int, may_fill: bool) -> MaskFile:
    num_pages = page.num_pages
    found: list[FileObject] = []
    notes = [f"{path}: each of {num_pages} pages is taken as a mask"] if num_pages > 1 else []
    for number in range(num_pages):
        if number:
            page = _load_page(path, number, max_pixels)
        where = f"{path}, page {number + 1}" if num_pages > 1 else str(path)
        try:
            objects, said = _objects_in(page.file, may_fill)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        found += [FileObject(pixels, number, value) for pixels, value in objects]
        notes += [f"{where}: {text}" for text in said]
    return MaskFile(tuple(found), tuple(notes), num_pages)


def read_mask(path: ImageFile, max_pixels: int = MAX_PIXELS, may_fill: bool = False) -> BoolArray:
    """The only object in a mask file; see `read_masks`.

    Args:
        path: an image file of any kind.
        max_pixels: refuse larger files, before they are decoded.
        may_fill: whether the object may fill the file without any zero: it is cut to its box.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: as for `read_masks`, or the file holds several objects.
    """
    page = _load_page(path, 0, max_pixels)
    if page.num_pages > 1:  # before thousands of them are decoded
        raise ValueError(f"{path}: expected a mask of one page, got {page.num_pages}")
    return _read_masks(path, page, max_pixels, may_fill).only(path)


def read_instance_map(path: ImageFile, max_pixels: int = MAX_PIXELS) -> InstanceMap:
    """The pixel values or palette indices of a one-channel file.

    Returns:
        (H, W), uint8 for 8 bits, uint16 for more where that is enough, else int64.

    Raises:
        ValueError: the file is missing, truncated, not an image, a JPEG (its compression changes
            values), or it has several channels or pages.
    """
    return read_map(path, max_pixels)[0]


def read_map(path: ImageFile, max_pixels: int = MAX_PIXELS) -> tuple[InstanceMap, bool]:
    """As `read_instance_map`, and whether the values are palette indices."""
    page = _load_page(path, 0, max_pixels)
    if page.file.format in ("JPEG", "MPO"):
        raise ValueError(f"{path}: expected an instance map stored without loss (PNG), got a JPEG")
    if page.num_pages > 1:
        raise ValueError(f"{path}: expected an instance map of one page, got {page.num_pages}")
    if page.file.mode not in _ONE_CHANNEL:
        raise ValueError(
            f"{path}: expected an instance map of one channel (8-bit palette or grey, or "
            f"16-bit grey), got mode {page.file.mode}"
        )
    values, is_palette = np.asarray(page.file), page.file.mode == "P"
    if values.dtype.itemsize == 1:
        return values.astype(np.uint8), is_palette
    fits = values.dtype == np.uint16 or (values.min() >= 0 and values.max() < 2**16)
    return values.astype(np.uint16 if fits else np.int64), is_palette


def _objects_in(file: Image.Image, may_fill: bool) -> tuple[mask_values.Objects, list[str]]:
    """The objects of a page, and what was guessed."""
    if file.mode == "F":
        return mask_values.objects_of_floats(np.asarray(file))
    if file.mode in _ONE_CHANNEL - {"P"}:
        return mask_values.objects_of_values(np.asarray(file), may_fill=may_fill)
    if file.mode == "P":
        shown = np.asarray(file.convert("RGBA").convert("RGB"))
        indices = np.asarray(file)
        if (shown[..., :1] == shown).all() and len(mask_values.distinct(indices)) > 2:
            # shades of grey: the index is an accident
            return mask_values.objects_of_values(np.ascontiguousarray(shown[..., 0]))
        return mask_values.objects_of_values(indices, is_palette=True, may_fill=may_fill)
    bands = file.convert("RGBA" if file.has_transparency_data else "RGB")
    return mask_values.objects_of_colours(np.asarray(bands))


def encode_map(
    path: ImageFile, page: int, masks: Mapping[int, Mask], max_pixels: int = MAX_PIXELS
) -> bytes:
    """A page of an instance map as a PNG with other masks, values, colours and palette as before.

    How pixels are shared, `MapObjects` says. Void, and objects without a new mask, stay.

    Args:
        path: of the map.
        page: of the file, from 0.
        masks: of the map's objects, by value (of colours 0xRRGGBB), in order.
        max_pixels: as for `read_masks`.

    Raises:
        ValueError: the map is not readable any more, or has values that no PNG can hold.
    """
    file = _load_page(path, page, max_pixels).file
    is_colour = file.mode not in _ONE_CHANNEL
    has_alpha = is_colour and file.mode in ("RGBA", "LA")
    pixels = np.array(file.convert("RGBA" if has_alpha else "RGB") if is_colour else file)
    if not is_colour and pixels.dtype.itemsize > 2:
        if int(pixels.max()) >= 2**16:
            raise ValueError(f"{path}: expected values below 65536 in a map, got {pixels.max()}")
        pixels = pixels.astype(np.uint16)
    if is_colour:
        packed = pixels[..., :3].astype(np.int64) @ np.array([2**16, 2**8, 1])
        background: int | None = 0
        fixed: set[int] = set()
    else:
        packed = pixels
        numbers = mask_values.distinct(pixels)
        found = values_of_map(numbers, pixels.dtype == np.uint8, file.mode == "P")
        background = None if found.stuff else 0
        fixed = {*found.void, *found.objects} - masks.keys()
    before = tuple((value, Mask.from_array(packed == value)) for value in masks)
    objects = MapObjects(packed, before, np.isin(packed, list(fixed)), background)
    new = objects.with_masks(list(masks.values()))
    if not is_colour:
        return _encode_like(file, new)
    bands = [new >> 16, new >> 8 & 255, new & 255]
    pixels[..., :3] = np.stack(bands, axis=-1)
    return _encode_like(file, pixels)


def encode_label_map(path: ImageFile, values: InstanceMap, max_pixels: int = MAX_PIXELS) -> bytes:
    """Values as a PNG of the depth and with the palette of another label map.

    Args:
        path: of the map that they were read from.
        values: (H, W), below 65536.
        max_pixels: as for `read_instance_map`.
    """
    file = _load_page(path, 0, max_pixels).file
    return _encode_like(file, values.astype(np.uint8 if values.dtype == np.uint8 else np.uint16))


def read_segment_ids(path: ImageFile, max_pixels: int = MAX_PIXELS) -> InstanceMap:
    """The ids of a map of segments: red + 256 green + 65536 blue, or the values of one channel.

    Returns:
        (H, W) int64.

    Raises:
        ValueError: as for `read_instance_map`, but colours are fine.
    """
    file = _load_page(path, 0, max_pixels).file
    if file.format in ("JPEG", "MPO"):
        raise ValueError(f"{path}: expected a map of segments stored without loss, got a JPEG")
    if file.mode in _ONE_CHANNEL:
        return np.asarray(file).astype(np.int64)
    bands = np.asarray(file.convert("RGB")).astype(np.int64)
    return bands[..., 0] + bands[..., 1] * 2**8 + bands[..., 2] * 2**16


def encode_segment_ids(path: ImageFile, values: InstanceMap, max_pixels: int = MAX_PIXELS) -> bytes:
    """Segment ids as a PNG of the channels of another map; alpha stays.

    Args:
        path: of the map that they were read from.
        values: (H, W), of the ids that it had.
        max_pixels: as for `read_segment_ids`.
    """
    file = _load_page(path, 0, max_pixels).file
    if file.mode in _ONE_CHANNEL:
        is_8_bit = np.asarray(file).dtype.itemsize == 1
        return _encode_like(file, values.astype(np.uint8 if is_8_bit else np.uint16))
    pixels = np.array(file.convert("RGBA" if file.has_transparency_data else "RGB"))
    pixels[..., :3] = np.stack([values & 255, values >> 8 & 255, values >> 16], axis=-1)
    return _encode_like(file, pixels)


def is_geotiff(path: ImageFile) -> bool:
    """Whether a file says where on the earth it lies."""
    return isinstance(path, Path) and path.suffix.lower() in _ENDINGS["TIFF"] and bool(_geo(path))


def encode_geotiff(png: bytes, path: AnyPath) -> bytes:
    """A PNG as a TIFF that lies where another one does."""
    known = _geo(path)
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in known.items():
        info[tag] = value
        info.tagtype[tag] = known.tagtype[tag]
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.save(buffer, "tiff", tiffinfo=info, compression="tiff_deflate")
    return buffer.getvalue()


def _geo(path: AnyPath) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of GeoTIFF and GDAL in a file."""
    found = TiffImagePlugin.ImageFileDirectory_v2()
    try:
        with _explained(path), _quiet(), _open(path) as file:
            tags: Any = getattr(file, "tag_v2", {})
            for tag in _GEO_TAGS:
                if tag in tags:
                    found[tag] = tags[tag]
                    found.tagtype[tag] = tags.tagtype[tag]
    except ValueError:  # said again where the mask is read
        pass
    return found


def _encode_like(file: Image.Image, pixels: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if file.mode == "P" and file.palette is not None:
        image.putpalette(file.palette.palette, file.palette.mode)
    image.save(buffer, "png", compress_level=3)
    return buffer.getvalue()


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
    return _encode_grey(mask.bitmap.view(np.uint8) * np.uint8(255), mask.window, mask.size)


def encode_soft_mask(soft: SoftMask) -> bytes:
    """Probabilities as an 8-bit PNG of the whole image, 255 times the probability."""
    return _encode_grey(soft.values, soft.window, soft.size)


def _encode_grey(values: UInt8Array, window: Box, size: Size) -> bytes:
    height, width = size
    rows = np.zeros((height, 1 + width), np.uint8)  # the first byte of a row names its filter
    x0, y0, x1, y1 = window
    rows[y0:y1, 1 + x0 : 1 + x1] = values
    grey_8_bit = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", grey_8_bit), (b"IDAT", zlib_ng.compress(rows, 3)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc32(kind + content))
        for kind, content in chunks
    )


def _to_rgb(loaded: _Page, path: ImageFile) -> tuple[UInt8Array, str]:
    """(H, W, 3) RGB, and how deeper values were stretched, where they were."""
    file = loaded.file
    if file.mode in _SIXTEEN_BIT_GREY:
        # convert("L") would clip instead of scaling
        grey, stretched = _to_8_bits(np.asarray(file))
        return np.repeat(grey[..., None], 3, axis=-1), stretched
    if file.mode == "P":
        return np.asarray(file.convert("RGBA").convert("RGB")), ""
    pixels = np.asarray(file.convert("RGB"))
    if loaded.is_sixteen_bit and int(pixels.max()) - int(pixels.min()) < _FULL_RANGE >> 8:
        deep = _read_deep_colours(path, pixels.shape[:2])
        if deep is not None:
            return _to_8_bits(deep)
    return pixels, ""


def _to_8_bits(values: npt.NDArray[Any]) -> tuple[UInt8Array, str]:
    """The upper 8 of 16 bits, or, where values use less of their range or more bits, stretched."""
    low, high = (round(float(edge)) for edge in np.percentile(values, (0.1, 99.9)))
    is_deeper = int(values.min()) < 0 or int(values.max()) >= 2**16
    if not is_deeper and high - low >= _FULL_RANGE:
        return (values >> 8).astype(np.uint8), ""
    scaled = (values.clip(low, high) - low) * (255 / max(high - low, 1))
    return scaled.round().astype(np.uint8), (
        f"16 or more bits per channel of which few are used: {low} to {high} stretched to 0 to 255"
    )


def _read_deep_colours(path: ImageFile, size: Size) -> npt.NDArray[Any] | None:
    """(H, W, 3) of 16 bits, of which Pillow keeps the upper 8; None where OpenCV cannot read it."""
    content = path.getvalue() if isinstance(path, NamedFile) else path.read_bytes()
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != size or pixels.ndim != 3:
        return None
    return np.asarray(pixels[..., 2::-1])  # OpenCV has blue first


def _turned(pixels: UInt8Array, orientation: int) -> UInt8Array:
    image = Image.fromarray(pixels)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@dataclass(frozen=True, eq=False, kw_only=True)
class _Page:
    """A page of a file as Pillow decodes it, and what Pillow does not keep."""

    file: Image.Image
    num_pages: int  # of the file
    is_sixteen_bit: bool  # per channel, or more; Pillow keeps them for grey only
    turned: int  # EXIF orientation that Pillow has applied already: it does so in TIFF
    orientation: int  # EXIF orientation that is left to apply, 1 to 8; 1 changes nothing


def _load_page(path: ImageFile, number: int = 0, max_pixels: int = MAX_PIXELS) -> _Page:
    """Read a page of a file, the first or another one.

    Raises:
        ValueError: whatever is wrong with the file, by its name.
    """
    with _explained(path):
        with _quiet():
            file = _open(path)
        with file:
            _check_pixels(path, (file.height, file.width), max_pixels)
            with _quiet():  # counting the pages of a TIFF reads their metadata
                num_pages = getattr(file, "n_frames", 1) if file.format != "MPO" else 1
            if number:
                with _quiet():
                    file.seek(number)
                _check_pixels(path, (file.height, file.width), max_pixels)
            is_sixteen_bit = (
                ";16" in str(getattr(file, "tile", "")) or file.mode in _SIXTEEN_BIT_GREY
            )
            with _quiet():
                turned = _orientation(getattr(file, "tag_v2", {}))
            # Pillow reads TIFF metadata again while it decodes, warnings included
            with _quiet() if file.format == "TIFF" else nullcontext():
                file.load()
            with _quiet():
                return _Page(
                    file=file,
                    num_pages=num_pages,
                    is_sixteen_bit=is_sixteen_bit,
                    turned=turned,
                    orientation=_orientation(_exif(file)),
                )


def _open(path: ImageFile) -> Image.Image:
    """Open a file of any size: the limit is the reader's, not Pillow's. Only within `_quiet`."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(_openable(path), formats=_FORMATS)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_pixels(path: ImageFile, size: Size, max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise TooManyPixels(
            f"{path}: expected an image of at most {max_pixels} pixels, got {size[1]} x {size[0]} "
            f"= {size[0] * size[1]}; --max-pixels lifts the limit"
        )


def _openable(path: ImageFile) -> Path | NamedFile:
    """Pillow opens files of this machine; those of object stores are fetched."""
    if isinstance(path, NamedFile) or is_local(path):
        return path
    return NamedFile(path.read_bytes(), str(path))


@contextmanager
def _explained(path: ImageFile) -> Iterator[None]:
    """Say of whatever Pillow raises which file it is about."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{path}: expected an image, found no file") from None
    except TooManyPixels:
        raise
    except Image.DecompressionBombError as error:  # a page behind the first one
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
