"""Draw the pictures of README.md and docs/how-it-works.md with the code that they explain.

python -m bpr.scripts.draw_docs
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bpr.pipeline.adapters.refiner import load_refiner
from bpr.pipeline.crops import crop_patches, patch_probabilities
from bpr.pipeline.demo.drawing import draw_closeups
from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.files import write_atomically
from bpr.pipeline.formats.images import encode_png
from bpr.pipeline.geometry import reassemble, select_patches
from bpr.pipeline.instance import BoolArray, Box, Float32Array, Mask, UInt8Array, grow
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.model_config import PAPER_WEIGHTS
from bpr.refiner.predictor import load_predictor

FOLDER = Path(__file__).resolve().parents[1] / "docs/pictures"
SCENE, OBJECT = "coffee", 0
AROUND = 24  # pixels around the object
SHOWN_PATCHES = 5
PATCH_SIDE = 120  # of a patch in the picture, pixels
GAP = 6
RED, GREEN, YELLOW = (232, 72, 85), (60, 200, 110), (250, 205, 60)
CAPTION_HEIGHT = 40  # pixels
THEMES = {"light": ((255, 255, 255), (31, 35, 40)), "dark": ((13, 17, 23), (230, 237, 243))}
"""Background and ink of the picture in README.md."""


def main() -> None:
    """Write all pictures; the same code and weights give the same bytes."""
    (scene,) = (scene for scene in load_demo_scenes() if scene.name == SCENE)
    mask = scene.coarse[OBJECT]
    predictor = load_predictor(PAPER_WEIGHTS, device="cpu", backend="torch")
    settings = PatchSettings(
        patch_size=predictor.config.patch_size, padding=predictor.config.padding
    )
    boxes = select_patches(mask, settings)
    patches = crop_patches(scene.image, mask, boxes, predictor.input_size, settings)
    side = int(boxes[0, 2] - boxes[0, 0])
    probability = patch_probabilities(predictor(patches), side, settings.padding)
    refined = reassemble(mask, boxes, probability)
    view = grow(mask.window, AROUND, mask.size)
    outline = _outlined(_cut(scene.image, view), mask.read(view), RED)
    pictures = {
        "coarse.png": outline,
        "patches.png": _boxed(outline, boxes.tolist(), view),
        "network.png": _rows(patches, probability),
        "refined.png": _outlined(_cut(scene.image, view), refined.read(view), GREEN),
        "closeups.png": draw_closeups(scene.image, [mask], [refined], count=2),
    }
    default = load_refiner(device="cpu", backend="torch")
    by_default = Mask.from_array(default(scene.image, mask.to_array()[None])[0])
    after = _outlined(_cut(scene.image, view), by_default.read(view), GREEN)
    for theme in THEMES:
        sides = (outline, after)
        pictures[f"before-after-{theme}.png"] = _before_after(sides, theme)
    for name, pixels in pictures.items():
        write_atomically(FOLDER / name, encode_png(_few_colours(pixels)))
        print(FOLDER / name)


def _before_after(sides: Sequence[UInt8Array], theme: str) -> UInt8Array:
    """Two pictures of one size side by side, with captions below."""
    background, ink = THEMES[theme]
    height, width = sides[0].shape[:2]
    gap = 2 * GAP
    canvas = Image.new("RGB", (2 * width + gap, height + CAPTION_HEIGHT), background)
    draw = ImageDraw.Draw(canvas)
    for left, side, caption in zip(
        (0, width + gap), sides, ("your mask", "after bpr refine"), strict=True
    ):
        canvas.paste(Image.fromarray(side), (left, 0))
        middle = (left + width / 2, height + CAPTION_HEIGHT / 2)
        draw.text(middle, caption, ink, ImageFont.load_default(20), anchor="mm")
    return np.asarray(canvas, np.uint8)


def _cut(image: UInt8Array, box: Box) -> UInt8Array:
    x0, y0, x1, y1 = box
    return np.ascontiguousarray(image[y0:y1, x0:x1])


def _outlined(image: UInt8Array, mask: BoolArray, colour: tuple[int, int, int]) -> UInt8Array:
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    drawn = image.copy()
    cv2.drawContours(drawn, contours, -1, colour, 2)
    return np.asarray(drawn, np.uint8)


def _boxed(image: UInt8Array, boxes: Sequence[Sequence[int]], view: Box) -> UInt8Array:
    drawn = image.copy()
    for x0, y0, x1, y1 in boxes:
        start, end = (x0 - view[0], y0 - view[1]), (x1 - 1 - view[0], y1 - 1 - view[1])
        cv2.rectangle(drawn, start, end, YELLOW, 1)
    return np.asarray(drawn, np.uint8)


def _rows(patches: UInt8Array, probability: Float32Array) -> UInt8Array:
    """What the network sees (photograph, coarse mask) and says (probability), patch by patch."""
    chosen = np.linspace(0, len(patches) - 1, SHOWN_PATCHES).astype(int)
    columns = []
    for index in chosen:
        cells = [patches[index, ..., :3], patches[index, ..., 3] * 255, probability[index] * 255]
        columns.append(_stack([_square(cell) for cell in cells], axis=0))
    return _stack(columns, axis=1)


def _square(cell: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> UInt8Array:
    pixels = np.rint(cell.astype(np.float32)).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    size = (PATCH_SIDE, PATCH_SIDE)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _stack(cells: Sequence[UInt8Array], axis: int) -> UInt8Array:
    gap_shape = list(cells[0].shape)
    gap_shape[axis] = GAP
    gap = np.full(gap_shape, 255, np.uint8)
    parts = [part for cell in cells for part in (cell, gap)][:-1]
    return np.concatenate(parts, axis=axis)


def _few_colours(pixels: UInt8Array) -> UInt8Array:
    """Steps of 8 in each channel: a third of the bytes, and nobody sees it."""
    return np.asarray((pixels & 0xF8) | 0x04, np.uint8)


if __name__ == "__main__":
    main()
