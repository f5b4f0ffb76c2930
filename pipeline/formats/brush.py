"""Label Studio's brush masks: runs of the RGBA pixels of the image, packed bit by bit.

A header of 32 bits (number of values), 5 (bits of a value - 1) and four times 4 (bits of a run's
length - 1); then runs: one bit (1: a value that repeats, 0: different values follow), two bits
that choose one of the four lengths, the length - 1, and the value or values.
Source: rle-pack of thi.ng/umbrella, and label_studio_sdk/converter/brush.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bpr.pipeline.formats.text import short
from bpr.pipeline.instance import Mask, Size

_CHANNELS = 4
_WORD = 8  # bits of a value
_LENGTHS = (3, 4, 8, 16)  # bits
_OBJECT = 255


def encode(mask: Mask) -> list[int]:
    """Write a mask, its pixels 255 in all four channels.

    Returns:
        Bytes as ints, ready for json.
    """
    pixels = mask.to_array().ravel()
    starts = np.flatnonzero(np.diff(pixels, prepend=~pixels[:1]))
    lengths = np.diff(starts, append=pixels.size) * _CHANNELS
    bits = [f"{pixels.size * _CHANNELS:032b}{_WORD - 1:05b}"]
    bits += [f"{length - 1:04b}" for length in _LENGTHS]
    longest = 2 ** _LENGTHS[-1]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = f"{_OBJECT if pixels[start] else 0:08b}"
        while length > 0:
            run = min(length, longest)
            choice = next(i for i, size in enumerate(_LENGTHS) if run <= 2**size)
            bits.append(f"1{choice:02b}{run - 1:0{_LENGTHS[choice]}b}{value}")
            length -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def decode(code: Any, size: Size) -> Mask:
    """Read a mask: pixels with any alpha are the object.

    Args:
        code: bytes as ints.
        size: (height, width) of the image.

    Raises:
        ValueError: no such code, damaged, or of another number of pixels.
    """
    reader = _BitReader(code)
    num_values, word = reader.read(32), reader.read(5) + 1
    lengths = [reader.read(4) + 1 for _ in _LENGTHS]
    height, width = size
    if num_values != height * width * _CHANNELS or word != _WORD:
        raise ValueError(
            f"rle: expected 4 values of 8 bits for each of {width} x {height} pixels, got "
            f"{num_values} of {word} bits"
        )
    values = np.zeros(num_values, np.uint8)
    position = 0
    while position < num_values:
        repeats = reader.read(1)
        end = position + 1 + reader.read(lengths[reader.read(2)])
        if end > num_values:
            raise ValueError("rle: expected runs that add up to the image, got more")
        if repeats:
            values[position:end] = reader.read(word)
        else:
            values[position:end] = reader.read_bytes(end - position)
        position = end
    alpha = values.reshape(height, width, _CHANNELS)[..., 3]
    return Mask.from_array(alpha)


class _BitReader:
    """Reads numbers of any width from the front of some bytes."""

    def __init__(self, code: Sequence[int]) -> None:
        try:
            self._bytes = bytes(code)
        except (TypeError, ValueError):
            raise ValueError(
                f"rle: expected a list of bytes (0 to 255), got {short(code)}"
            ) from None
        self._position = 0

    def read(self, width: int) -> int:
        """The next `width` bits, at most 32, as a number."""
        first, offset = divmod(self._position, 8)
        self._advance(width)
        window = int.from_bytes(self._bytes[first : first + 5].ljust(5, b"\0"), "big")
        return (window >> (40 - offset - width)) & ((1 << width) - 1)

    def read_bytes(self, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The next numbers of 8 bits."""
        first, offset = divmod(self._position, 8)
        self._advance(8 * count)
        window = np.frombuffer(self._bytes, np.uint8)[first : first + count + 1]
        if offset == 0:
            return window[:count]
        wide = window.astype(np.uint16)
        joined = (wide[:-1] << offset) | (wide[1:] >> (8 - offset))
        return joined.astype(np.uint8)

    def _advance(self, width: int) -> None:
        self._position += width
        if self._position > 8 * len(self._bytes):
            raise ValueError("rle: expected all runs of the image, got a code that ends before")
