"""Images at other sizes, as the libraries resize with which detectors were trained."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from bpr.detector.presets import Library

Size = tuple[int, int]


def resized_size(size: Size, shorter: int, longest: int, library: Library) -> Size:
    """Height and width of an image when it has been resized, in whole pixels.

    Args:
        size: height, width.
        shorter: wanted for the shorter side.
        longest: allowed for the longer side.
        library: they round differently.
    """
    rows, columns = _scaled(size, shorter, longest, library)
    return max(rows, 1), max(columns, 1)  # of an image a thousand times as long as wide too


def _scaled(size: Size, shorter: int, longest: int, library: Library) -> Size:
    height, width = size
    if library == "detectron2":  # a long image is scaled twice
        scale = shorter / min(size)
        rows, columns = height * scale, width * scale
        rows, columns = (shorter, columns) if height < width else (rows, shorter)
        if max(rows, columns) > longest:
            scale = longest / max(rows, columns)
            rows, columns = rows * scale, columns * scale
        return int(rows + 0.5), int(columns + 0.5)
    if library == "mmdetection":
        scale = min(longest / max(size), shorter / min(size))
        return int(height * scale + 0.5), int(width * scale + 0.5)
    scale = min(shorter / min(size), longest / max(size))
    return int(height * scale), int(width * scale)


def resize_image(image: Tensor, size: Size, library: Library) -> Tensor:
    """(3, H, W) in [0, 1] -> (3, height, width), as each library resizes.

    Pillow (detectron2) and OpenCV (mmdetection) work on bytes and in whole numbers: they resize
    on the CPU, exactly as they did for those who published weights.
    """
    if library == "torchvision":
        batch = functional.interpolate(image[None], size, mode="bilinear", align_corners=False)
        return batch[0]
    levels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    across_down = size[1], size[0]
    if library == "mmdetection":
        resized = cv2.resize(levels, across_down, interpolation=cv2.INTER_LINEAR)
    else:
        resized = np.array(Image.fromarray(levels).resize(across_down, Image.Resampling.BILINEAR))
    return torch.from_numpy(resized).permute(2, 0, 1).to(image) / 255
