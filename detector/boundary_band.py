"""The band around a mask's boundary in which RefineMask looks again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

TRAIN_WIDTH = 2
WIDTH = 1
"""Of the band on either side, in pixels of the mask: in training, and when masks are merged."""


def boundary_band(masks: Tensor, width: int) -> Tensor:
    """Pixels near the boundary of masks.

    Args:
        masks: (N, S, S) bool.
        width: pixels on either side. A pixel is in the band where more than a tenth of the
            2 width + 1 square around it is not what the pixel is.

    Returns:
        (N, S, S) bool. Outside of the box there is background, so that an object that the box
        cuts has a band along the cut.

    Source: Zhang et al., CVPR 2021 (arXiv:2104.08569), eq. 1, as `generate_block_target` does it.
    """
    area = (2 * width + 1) ** 2
    foreground = functional.pad(masks.float()[:, None], (width,) * 4)
    num_foreground = functional.avg_pool2d(foreground, 2 * width + 1, 1, divisor_override=1)[:, 0]
    others = torch.where(masks, area - num_foreground, num_foreground)
    return others / area > 0.1


def distance_band(masks: Tensor, width: int) -> Tensor:
    """Pixels nearer to the outline of masks than a distance: the paper's definition.

    The outline lies between pixels: a pixel's distance is that to the nearest pixel of the other
    kind, less half a pixel.

    Args:
        masks: (N, S, S) bool.
        width: distance in pixels of the mask.

    Returns:
        (N, S, S) bool. Outside of the box there is background.

    Source: Zhang et al., CVPR 2021 (arXiv:2104.08569), eq. 1: the Euclidean distance to the
    nearest pixel on the contour is less than d.
    """
    reach = width
    offsets = torch.arange(-reach, reach + 1, device=masks.device)
    near = (offsets[:, None] ** 2 + offsets[None] ** 2).sqrt() - 0.5 < width
    disk = near.float()[None, None]
    foreground = functional.pad(masks.float()[:, None], (reach,) * 4)
    num_foreground = functional.conv2d(foreground, disk)[:, 0]
    others = torch.where(masks, disk.sum() - num_foreground, num_foreground)
    return others > 0.5


BANDS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "squares": boundary_band,
    "distance": distance_band,
}
"""Definitions of the band, by the names of `Preset.band`."""


def upsample(values: Tensor, side: int) -> Tensor:
    """(N, S, S) float -> (N, side, side), corners on corners."""
    return functional.interpolate(
        values[:, None], (side, side), mode="bilinear", align_corners=True
    )[:, 0]


def merge(coarse: Tensor, fine: Tensor, band: str = "squares") -> Tensor:
    """Take finer logits in the band of a coarse mask, and enlarged coarse ones elsewhere.

    Args:
        coarse: (N, S, S) logits.
        fine: (N, 2 S, 2 S) logits.
        band: a key of `BANDS`.

    Returns:
        (N, 2 S, 2 S) logits.

    Source: Zhang et al., CVPR 2021 (arXiv:2104.08569), eq. 5-6.
    """
    side = fine.shape[-1]
    away = ~BANDS[band](coarse.sigmoid() >= 0.5, WIDTH)
    keep = upsample(away.float(), side) >= 0.5
    return torch.where(keep, upsample(coarse, side), fine)
