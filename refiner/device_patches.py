"""Patches cut, resized and put back on a device, without a loop over them.

The same as pipeline/crops.py and `reassemble`, as functions of tensors. Bitmaps of all objects
lie in one flat tensor, one after the other; a table says of each patch where its object lies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

HALF = 1 << 15  # of a probability of 1 in whole numbers


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchTable:
    """Patches of one size, and the region of the object that each belongs to.

    A region is a box of the image; its bitmap begins at `offset` of a flat tensor. It may be
    smaller than the patch; beyond it there is no object, and nothing is put back.
    """

    size: int  # P, pixels
    x0: Tensor  # (N,) int64, of the patches in the image, without padding
    y0: Tensor
    offset: Tensor  # (N,) int64
    region_x0: Tensor  # (N,) int64
    region_y0: Tensor
    region_width: Tensor
    region_height: Tensor

    @classmethod
    def of_columns(cls, size: int, columns: Iterable[Tensor]) -> PatchTable:
        """A table of the fields after `size`, in their order."""
        names = [field.name for field in fields(cls)][1:]
        return cls(size=size, **dict(zip(names, columns, strict=True)))

    def part(self, start: int, stop: int) -> PatchTable:
        """Patches start..stop."""
        columns = [getattr(self, field.name) for field in fields(self)][1:]
        return self.of_columns(self.size, (column[start:stop] for column in columns))


def cut_patches(
    image: Tensor, bitmaps: Tensor, table: PatchTable, input_size: int, padding: int, compat: bool
) -> Tensor:
    """Cut image and coarse masks at patches and resize them to the network's input.

    Args:
        image: (H, W, 3) uint8 RGB.
        bitmaps: (B,) uint8, 0 or 1.
        table: where; N patches.
        input_size: S in pixels.
        padding: pixels of context around a patch.
        compat: zeros beyond the image and bilinear always, instead of the edge continued and
            means of areas where a patch shrinks.

    Returns:
        (N, S, S, 4) uint8; colours differ from OpenCV's by 1 at most, which rounds otherwise.
    """
    height, width = image.shape[:2]
    side = table.size + 2 * padding
    device = image.device
    steps = torch.arange(side, device=device)
    # cv2.INTER_NEAREST
    nearest = torch.arange(input_size, device=device) * side // input_size
    ys = table.y0[:, None] - padding + steps
    xs = table.x0[:, None] - padding + steps
    rows, columns = ys.clamp(0, height - 1), xs.clamp(0, width - 1)
    pixels = image[rows[:, :, None], columns[:, None, :]].float()
    y, x = rows[:, nearest, None], columns[:, None, nearest]
    index, inside = _in_region(table, y, x)
    objects = bitmaps[torch.where(inside, index, 0)] * inside
    if compat:
        in_image = (ys == rows)[:, :, None] & (xs == columns)[:, None, :]
        pixels = pixels * in_image[..., None]
        objects = objects * in_image[:, nearest][:, :, nearest]
    how = _resizing(side, input_size, side > input_size and not compat).to(device)
    colours = torch.einsum("sp,npqc,tq->nstc", how, pixels, how).round().clamp(0, 255)
    return torch.cat([colours.to(torch.uint8), objects.to(torch.uint8)[..., None]], dim=-1)


def put_back(logits: Tensor, table: PatchTable, padding: int, sums: Tensor, counts: Tensor) -> None:
    """Add the probabilities of patches to the sums of their objects.

    Probabilities are counted from 0.5 in whole numbers: their sum does not depend on the order
    in which a device adds, and where it is > 0 the mean is > 0.5.

    Args:
        logits: (N, S, S) float32.
        table: of the same patches.
        padding: pixels of context to cut off.
        sums: (B + 1,) int32, changed in place; the last one takes what lies in no region.
        counts: (B + 1,) int32, patches that cover a pixel, changed in place.
    """
    size = table.size
    how = _resizing(logits.shape[1], size + 2 * padding, shrinks=False).to(logits.device)
    how = how[padding : padding + size]
    probability = torch.einsum("sp,npq,tq->nst", how, logits, how).sigmoid()
    steps_above_half = (probability * (2 * HALF)).round().to(torch.int32) - HALF
    steps = torch.arange(size, device=logits.device)
    y = (table.y0[:, None] + steps)[:, :, None]
    x = (table.x0[:, None] + steps)[:, None, :]
    index, inside = _in_region(table, y, x)
    index = torch.where(inside, index, len(sums) - 1).flatten()
    sums.index_add_(0, index, steps_above_half.flatten())
    counts.index_add_(0, index, torch.ones_like(index, dtype=torch.int32))


def mean_probability(sums: Tensor, counts: Tensor, bitmaps: Tensor) -> Tensor:
    """The mean of overlapping patches, (B,) uint8: above 127 where it is > 0.5.

    Args:
        sums: (B,) int32 from `put_back`.
        counts: (B,) int32 from `put_back`.
        bitmaps: (B,) uint8, 0 or 1: what stays where there is no patch.
    """
    # as SoftMask.of_probability rounds: ceil(256 * mean) - 1
    above = -((-sums.long() * 128) // (counts.clamp(min=1).long() * HALF))
    mean = (above + 127).clamp(0, 255).to(torch.uint8)
    return torch.where(counts > 0, mean, bitmaps * 255)


def _in_region(table: PatchTable, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Index of pixels in the flat bitmaps, and whether they lie in the patch's region.

    Args:
        table: N patches.
        y, x: (N, A, 1) and (N, 1, B) int64 in the image.
    """

    def each(column: Tensor) -> Tensor:
        return column[:, None, None]

    y, x = y - each(table.region_y0), x - each(table.region_x0)
    in_rows = (y >= 0) & (y < each(table.region_height))
    in_columns = (x >= 0) & (x < each(table.region_width))
    return each(table.offset) + y * each(table.region_width) + x, in_rows & in_columns


@lru_cache(maxsize=256)
def _resizing(source: int, target: int, shrinks: bool) -> Tensor:
    """(target, source) float32: how much of each source pixel is in each target pixel.

    Bilinear with half-pixel centres, or, where it shrinks, the mean of the area: as cv2's
    INTER_LINEAR and INTER_AREA, and as torch's bilinear interpolation.
    """
    scale = source / target
    out = torch.arange(target, dtype=torch.float64)[:, None]
    pixel = torch.arange(source, dtype=torch.float64)
    if shrinks:
        overlap = torch.minimum((out + 1) * scale, pixel + 1) - torch.maximum(out * scale, pixel)
        return (overlap.clamp(min=0) / scale).float()
    centre = ((out + 0.5) * scale - 0.5).clamp(0, source - 1)
    return (1 - (centre - pixel).abs()).clamp(min=0).float()
