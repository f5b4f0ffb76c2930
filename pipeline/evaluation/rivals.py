"""Classical refiners behind the interface of the network: what a user has without one.

A method is any function `(image, prediction) -> prediction` that keeps the instances and their
order: `GrabCut`, `GuidedFilter`, or `refine` with a network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from bpr.pipeline.instance import Float32Array, Mask, Prediction, UInt8Array, grow


class Method(Protocol):
    """Something that refines all instances of one image."""

    def __call__(self, image: UInt8Array, prediction: Prediction) -> Prediction:
        """(H, W, 3) uint8 RGB and its coarse masks -> the same instances with other masks."""


@dataclass(frozen=True)
class GuidedFilter:
    """Smooths a mask along the colours of its image.

    Of shares 0.02 to 0.06 and eps 1e-4 to 1e-2, these did best on real photographs with masks of
    a 28 x 28 mask head.

    Source: He et al., ECCV 2010.
    """

    radius_share: float = 0.04  # radius of the windows by the diagonal of the object's window
    eps: float = 1e-4  # variance of colours (0..1) below which a window is smoothed

    def __call__(self, image: UInt8Array, prediction: Prediction) -> Prediction:
        """Filter each mask by itself."""
        return _with_masks(
            prediction,
            [
                filtered_mask(image, item.mask, band(item.mask, self.radius_share), self.eps)
                for item in prediction.instances
            ],
        )


@dataclass(frozen=True)
class GrabCut:
    """Cuts a band around the outline by the colours inside and outside of it.

    The band follows the object, because errors do. What lies deeper in the object or further
    away stays as it is, and so does a mask that would be cut away whole or that leaves too few
    pixels for the colours of one side. Of shares 0.01 to 0.04 and 1 to 3 iterations these did best
    on real photographs with masks of a 28 x 28 mask head; wider bands did more harm.

    Source: Rother et al., SIGGRAPH 2004, as OpenCV does it.
    """

    band_share: float = 0.015  # width of the band to each side, by the diagonal of the window
    iterations: int = 2

    def __call__(self, image: UInt8Array, prediction: Prediction) -> Prediction:
        """Cut each mask by itself."""
        return _with_masks(
            prediction, [self._cut(image, item.mask) for item in prediction.instances]
        )

    def _cut(self, image: UInt8Array, mask: Mask) -> Mask:
        if mask.is_empty:
            return mask
        width = max(band(mask, self.band_share), 2)
        # colours of the surroundings come from two more bands
        box = grow(mask.window, 3 * width, mask.size)
        x0, y0, x1, y1 = box
        inside = mask.read(box).view(np.uint8)
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
        # the outside of the image is neither: an object that it cuts is sure up to the edge
        certain = cv2.erode(inside, disk) != 0
        possible = cv2.dilate(inside, disk) != 0
        labels = np.where(inside != 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        labels[certain] = cv2.GC_FGD
        labels[~possible] = cv2.GC_BGD
        background = np.isin(labels, (cv2.GC_BGD, cv2.GC_PR_BGD))
        if background.sum() < _LEAST_PIXELS or (~background).sum() < _LEAST_PIXELS:
            return mask  # too few colours for its two models of five each
        cv2.setRNGSeed(0)  # it clusters colours with random starts
        # it reads three channels as BGR only in name
        cut, _, _ = cv2.grabCut(
            np.ascontiguousarray(image[y0:y1, x0:x1]),
            labels,
            None,
            np.zeros((1, 65)),
            np.zeros((1, 65)),
            self.iterations,
            cv2.GC_INIT_WITH_MASK,
        )
        found = Mask.from_array(np.isin(cut, (cv2.GC_FGD, cv2.GC_PR_FGD)), (x0, y0), mask.size)
        return mask if found.is_empty else found


_LEAST_PIXELS = 10


def band(mask: Mask, share: float) -> int:
    """A width in pixels that follows an object: a share of its window's diagonal, at least 1."""
    x0, y0, x1, y1 = mask.window
    return max(round(share * math.hypot(x1 - x0, y1 - y0)), 1)


def guided_filter(
    guide: Float32Array, values: Float32Array, radius: int, eps: float
) -> Float32Array:
    """Smooth values along the edges of a guide.

    Args:
        guide: (H, W, C) float32 in 0..1; C is 3, or 1 for a grey guide.
        values: (H, W) float32.
        radius: of the square windows, px.
        eps: variance of the guide below which a window is smoothed.

    Source: He et al., ECCV 2010, eq. 11-12 for one channel, 19-21 for three.
    """
    channels = guide.shape[2]

    def mean(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        side = (2 * radius + 1, 2 * radius + 1)
        smooth = cv2.boxFilter(array, -1, side, borderType=cv2.BORDER_REFLECT)
        return np.asarray(smooth, np.float32).reshape(array.shape)

    guide_mean, values_mean = mean(guide), mean(values)
    products = (guide[..., :, None] * guide[..., None, :]).reshape(*values.shape, channels**2)
    variance = mean(products).reshape(*values.shape, channels, channels)
    variance -= guide_mean[..., :, None] * guide_mean[..., None, :]
    variance += np.float32(eps) * np.eye(channels, dtype=np.float32)
    covariance = mean(guide * values[..., None]) - guide_mean * values_mean[..., None]
    slope = np.linalg.solve(variance, covariance[..., None])[..., 0]
    offset = values_mean - (slope * guide_mean).sum(axis=-1)
    return np.asarray((mean(slope) * guide).sum(axis=-1) + mean(offset), np.float32)


def filtered_mask(image: UInt8Array, mask: Mask, radius: int, eps: float) -> Mask:
    """A mask, filtered along the colours of its image, in its window and what it can reach."""
    if mask.is_empty:
        return mask
    box = grow(mask.window, 2 * radius + 1, mask.size)
    x0, y0, x1, y1 = box
    guide = image[y0:y1, x0:x1].astype(np.float32) / np.float32(255)
    smoothed = guided_filter(guide, mask.read(box).astype(np.float32), radius, eps)
    return Mask.from_array(smoothed > 0.5, (x0, y0), mask.size)


def _with_masks(prediction: Prediction, masks: list[Mask]) -> Prediction:
    instances = zip(prediction.instances, masks, strict=True)
    return replace(
        prediction, instances=tuple(replace(item, mask=mask) for item, mask in instances)
    )
