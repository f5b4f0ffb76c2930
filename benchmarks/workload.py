"""A deterministic Cityscapes-like workload: photographs with objects, and coarse predictions.

python -m benchmarks.workload OUT --images 8
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from bpr.pipeline.datasets.simulate import mask_head

LABELS = {24: "person", 26: "car", 33: "bicycle"}
DISTINCT_SCENES = 8  # more images are links to these: a folder of 400 takes the disk of 8


@dataclass(frozen=True, kw_only=True)
class WorkloadSettings:
    """Size of the workload."""

    num_images: int = 8
    width: int = 2048
    height: int = 1024
    instances: tuple[int, int] = (15, 20)  # per image, inclusive
    long_side: tuple[int, int] = (50, 500)  # of an object, pixels
    seed: int = 20210412


def write_workload(out: Path, settings: WorkloadSettings) -> int:
    """Write OUT/images and OUT/predictions (a Cityscapes prediction folder).

    Returns:
        The number of instances.
    """
    images, predictions, scenes = out / "images", out / "predictions", out / "scenes"
    for folder in (images, predictions, scenes):
        folder.mkdir(parents=True, exist_ok=True)
    names: list[list[str]] = []
    total = 0
    for index in range(settings.num_images):
        if index < DISTINCT_SCENES:
            names.append(_write_scene(scenes, index, settings))
        scene = index % DISTINCT_SCENES
        stem = f"scene_{index:06d}_leftImg8bit"
        _link(images / f"{stem}.png", scenes / f"{scene}.png")
        lines = []
        for number, name in enumerate(names[scene]):
            label = name.split("_")[-1].removesuffix(".png")
            file = f"{stem}_{number}.png"
            _link(predictions / file, scenes / name)
            lines.append(f"{file} {label} 0.{900 - number}\n")
        (predictions / f"{stem}_pred.txt").write_text("".join(lines))
        total += len(lines)
    return total


def _write_scene(folder: Path, index: int, settings: WorkloadSettings) -> list[str]:
    """Write one photograph and its coarse masks; returns the masks' names."""
    rng = np.random.default_rng([settings.seed, index])
    height, width = settings.height, settings.width
    image = 110 + 45 * _noise(rng, height, width, 256)[..., None] + rng.normal(0, 12, 3)
    names = []
    for number in range(int(rng.integers(settings.instances[0], settings.instances[1] + 1))):
        low, high = np.log(settings.long_side)
        size = float(np.exp(rng.uniform(low, high)))
        mask = _blob(rng, height, width, size)
        texture = _noise(rng, height, width, size / 3)[..., None]
        image = np.where(mask[..., None], rng.uniform(30, 220, 3) + 30 * texture, image)
        coarse = mask_head(mask, rng)
        if coarse.any():
            label = int(rng.choice(list(LABELS)))
            names.append(f"{index}_{number}_{label}.png")
            Image.fromarray(coarse.view(np.uint8) * np.uint8(255)).save(folder / names[-1])
    image = cv2.GaussianBlur(image, (0, 0), 0.7) + rng.integers(-3, 4, image.shape)
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return names


def _blob(
    rng: np.random.Generator, height: int, width: int, long_side: float
) -> npt.NDArray[np.bool_]:
    """An ellipse with a noisy outline, somewhere in the frame, perhaps cut by it."""
    ys, xs = np.ogrid[:height, :width]
    turn, aspect = rng.uniform(0, np.pi), rng.uniform(0.35, 0.95)
    dx, dy = xs - rng.uniform(0, width), ys - rng.uniform(0.1, 0.95) * height
    u = (np.cos(turn) * dx + np.sin(turn) * dy) / (long_side / 2)
    v = (np.cos(turn) * dy - np.sin(turn) * dx) / (long_side / 2 * aspect)
    wobble = 0.15 * _noise(rng, height, width, max(long_side / 6, 4))
    return np.asarray(1 - u * u - v * v + wobble > 0)


def _noise(
    rng: np.random.Generator, height: int, width: int, cell: float
) -> npt.NDArray[np.float32]:
    small = rng.normal(size=(int(height / cell) + 2, int(width / cell) + 2)).astype(np.float32)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target.resolve())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=8)
    arguments = parser.parse_args()
    print(write_workload(arguments.out, WorkloadSettings(num_images=arguments.images)), "instances")
