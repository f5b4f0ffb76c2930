"""Small data sets on disk: images, coarse predictions and instance maps of blobs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.instance_maps import InstanceMaps
from bpr.pipeline.datasets.predictions import CityscapesPredictions
from bpr.pipeline.extraction.source import Source


def write_dataset(
    root: Path, num_images: int, size: tuple[int, int] = (96, 128), num_objects: int = 2
) -> Path:
    """Write images, pred (a Cityscapes folder) and gt (instance maps) of `num_images` images.

    Coarse masks are the accurate ones, a few pixels off; names are image_00, image_01, ...
    """
    for name in ("images", "pred", "gt"):
        (root / name).mkdir(parents=True)
    for number in range(num_images):
        rng = np.random.default_rng(number)
        stem = f"image_{number:02d}"
        labels, lines = np.zeros(size, np.uint8), ""
        for index in range(num_objects):
            blob = np.zeros(size, np.uint8)
            centre = (int(rng.integers(size[1])), int(rng.integers(size[0])))
            axes = (int(rng.integers(12, 40)), int(rng.integers(12, 40)))
            cv2.ellipse(blob, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
            labels[blob != 0] = index + 1
            coarse = np.roll(blob, 2, axis=1)
            Image.fromarray(coarse * np.uint8(255)).save(root / f"pred/{stem}_{index}.png")
            lines += f"{stem}_{index}.png 26 0.{9 - index}\n"
        (root / f"pred/{stem}_pred.txt").write_text(lines)
        Image.fromarray(labels).save(root / f"gt/{stem}.png")
        small = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
        pixels = cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)
        Image.fromarray(pixels).save(root / f"images/{stem}.png", compress_level=1)
    return root


def open_dataset(root: Path, simulated: bool = False) -> Source:
    """What `write_dataset` wrote, to be extracted."""
    predictions = None if simulated else CityscapesPredictions(root / "pred")
    return Source(
        InstanceMaps(root / "gt"), predictions, ImageIndex(root / "images"), class_agnostic=True
    )


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a result, but what tells of the run: report, journal, notes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and ".bpr" not in path.relative_to(folder).parts
        and not path.name.startswith("report")
    }
