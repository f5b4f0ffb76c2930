"""Images at other sizes, as the libraries resize with which detectors were trained."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

Size = tuple[int, int]

_ONE = 1 << 11  # OpenCV's weights are whole numbers of this many parts


def resized_size(size: Size, shorter: int, longest: int, kind: str) -> Size:
    """Height and width of an image when it has been resized, in whole pixels.

    Args:
        size: height, width.
        shorter: wanted for the shorter side.
        longest: allowed for the longer side.
        kind: as in `Conventions.resize`; they round differently.
    """
    rows, columns = _scaled(size, shorter, longest, kind)
    return max(rows, 1), max(columns, 1)  # of an image a thousand times as long as wide too


def _scaled(size: Size, shorter: int, longest: int, kind: str) -> Size:
    height, width = size
    if kind == "pillow":  # detectron2: a long image is scaled twice
        scale = shorter / min(size)
        rows, columns = height * scale, width * scale
        rows, columns = (shorter, columns) if height < width else (rows, shorter)
        if max(rows, columns) > longest:
            scale = longest / max(rows, columns)
            rows, columns = rows * scale, columns * scale
        return int(rows + 0.5), int(columns + 0.5)
    if kind == "opencv":
        scale = min(longest / max(size), shorter / min(size))
        return int(height * scale + 0.5), int(width * scale + 0.5)
    scale = min(shorter / min(size), longest / max(size))
    return int(height * scale), int(width * scale)


def resize_image(image: Tensor, size: Size, kind: str) -> Tensor:
    """(3, H, W) in [0, 1] -> (3, height, width), as each library resizes.

    Pillow and OpenCV work on bytes, so that grey levels are whole; Pillow smooths what it
    shrinks, and resizes one axis after the other.
    """
    if kind == "torchvision":
        batch = functional.interpolate(image[None], size, mode="bilinear", align_corners=False)
        return batch[0]
    levels = image * 255
    if kind == "opencv":
        return _resize_as_opencv(levels.round().to(torch.int32), size).to(image.dtype) / 255
    for step in ((image.shape[1], size[1]), size):
        smooth = functional.interpolate(
            levels[None], step, mode="bilinear", align_corners=False, antialias=True
        )[0]
        # halves go up, also those that float32 puts a little below
        levels = (smooth + 0.5 + 1e-4).floor()
    return levels / 255


def _resize_as_opencv(levels: Tensor, size: Size) -> Tensor:
    """(3, H, W) int32 -> (3, height, width) int32, in OpenCV's fixed-point arithmetic."""
    low, high, share = _neighbours(levels.shape[2], size[1], levels.device)
    rows = levels[:, :, low] * (_ONE - share) + levels[:, :, high] * share
    low, high, share = _neighbours(levels.shape[1], size[0], levels.device)
    share, rows = share[:, None], rows >> 4
    above, below = rows[:, low] * (_ONE - share), rows[:, high] * share
    return ((above >> 16) + (below >> 16) + 2) >> 2


def _neighbours(length: int, wanted: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel wanted on an axis the two nearest, and the share of the second of `_ONE`."""
    places = (torch.arange(wanted, device=device) + 0.5) * (length / wanted) - 0.5
    places = places.clamp(0, length - 1)
    low = places.floor()
    share = ((places - low) * _ONE).round().to(torch.int32)
    low = low.long()
    return low, (low + 1).clamp(max=length - 1), share
