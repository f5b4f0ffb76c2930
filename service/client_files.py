"""What callers of the client give, as files of a request."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from bpr.pipeline.files import find_files
from bpr.pipeline.formats.images import encode_png

ImageLike = str | Path | bytes | np.ndarray[Any, np.dtype[np.uint8]]
"""A path, the bytes of a file, or pixels: (H, W, 3) uint8 RGB."""
MaskLike = str | Path | bytes | np.ndarray[Any, np.dtype[Any]]
"""A path, the bytes of a PNG, or an array (H, W): every value that is not zero is the object."""


def image_file(image: ImageLike) -> tuple[str, bytes]:
    """The name and the content of an image.

    Raises:
        ValueError: an array of another kind.
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image: expected (H, W, 3) uint8, got {image.shape} of {image.dtype}")
        return "image.png", encode_png(image)
    return _file(image, "image")


def mask_file(mask: MaskLike) -> tuple[str, bytes]:
    """The name and the content of a mask.

    Raises:
        ValueError: an array of another kind.
    """
    if isinstance(mask, np.ndarray):
        if mask.ndim != 2:
            raise ValueError(f"masks: expected arrays (H, W), got {mask.shape}")
        return "mask.png", encode_png((mask != 0).astype(np.uint8) * 255)
    return _file(mask, "mask.png")


def map_file(values: MaskLike) -> tuple[str, bytes]:
    """The name and the content of an instance map.

    Raises:
        ValueError: an array of another kind.
    """
    if isinstance(values, np.ndarray):
        if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"instance_map: expected (H, W) uint8 or uint16, got {values.shape} of "
                f"{values.dtype}"
            )
        return "map.png", encode_png(values)
    return _file(values, "map.png")


def open_file_or_folder(path: str | Path) -> tuple[str, IO[bytes]]:
    """The name and the content of a file; of a folder, as a zip archive.

    Raises:
        OSError: it cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        return path.name, path.open("rb")
    packed = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    try:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:  # images are compressed
            for file in find_files(path):
                archive.write(file, file.relative_to(path).as_posix())
        packed.seek(0)
    except BaseException:
        packed.close()
        raise
    return f"{path.resolve().name}.zip", packed


def _file(file: str | Path | bytes, name: str) -> tuple[str, bytes]:
    if isinstance(file, bytes):
        return name, file
    path = Path(file)
    return path.name, path.read_bytes()
