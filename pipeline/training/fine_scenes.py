"""Made-up objects with exact, fine outlines: twigs, strings, fringes over photographs.

No labelled photographs of such things may be trained on, and drawn ones have outlines without any
error. Colours and textures come from two photographs, so that nothing but the outline is invented.
"""

from __future__ import annotations

import cv2
import numpy as np

from bpr.pipeline.datasets.simulate import smooth_noise
from bpr.pipeline.instance import Float32Array, UInt8Array

_FINE = 2  # drawn at this many times the size, then reduced


def fine_scene(
    front: UInt8Array, back: UInt8Array, rng: np.random.Generator
) -> tuple[UInt8Array, UInt8Array]:
    """Lay a fine shape with the texture of one photograph over another.

    Args:
        front: (H, W, 3) uint8 RGB, the texture of the object.
        back: (h, w, 3) uint8 RGB, the background.
        rng: the only source of chance.

    Returns:
        The picture (S, S, 3) uint8 and its truth (S, S) uint8 0 or 1, S in 200..400.
    """
    side = int(rng.integers(200, 401))
    kinds = (_twigs, _fringed_blob, _strings)
    alpha = kinds[int(rng.integers(len(kinds)))](side * _FINE, rng)
    alpha = cv2.resize(alpha, (side, side), interpolation=cv2.INTER_AREA)
    textures = [_texture(picture, side, rng) for picture in (front, back)]
    if rng.random() < 0.5:  # photographs of one tone are the hard case
        textures[0] += (textures[1].mean((0, 1)) - textures[0].mean((0, 1))) * float(
            rng.uniform(0, 0.8)
        )
    picture = textures[1] + alpha[..., None] * (textures[0] - textures[1])
    if rng.random() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 0.9)))
    return np.clip(picture, 0, 255).astype(np.uint8), (alpha >= 0.5).astype(np.uint8)


def _texture(picture: UInt8Array, side: int, rng: np.random.Generator) -> Float32Array:
    """A square of a photograph, enlarged to `side` where it is smaller."""
    height, width = picture.shape[:2]
    cut = max(int(min(height, width) * rng.uniform(0.4, 1.0)), 8)
    y, x = int(rng.integers(height - cut + 1)), int(rng.integers(width - cut + 1))
    piece = picture[y : y + cut, x : x + cut]
    how = cv2.INTER_AREA if cut > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(piece, (side, side), interpolation=how), np.float32)


def _twigs(side: int, rng: np.random.Generator) -> Float32Array:
    """A trunk that branches."""
    drawn = np.zeros((side, side), np.float32)
    start = rng.uniform(0.3, 0.7, 2) * side
    for _ in range(int(rng.integers(2, 5))):
        width = float(rng.uniform(0.01, 0.05)) * side
        _branch(drawn, start, float(rng.uniform(0, 2 * np.pi)), width, side, rng, 0)
    return drawn


def _branch(
    drawn: Float32Array,
    start: np.ndarray[tuple[int], np.dtype[np.float64]],
    direction: float,
    width: float,
    side: int,
    rng: np.random.Generator,
    depth: int,
) -> None:
    at = np.asarray(start, np.float64)
    for _ in range(int(rng.integers(4, 10))):
        direction += float(rng.normal(0, 0.25))
        step = float(rng.uniform(0.02, 0.07)) * side
        to = at + step * np.array([np.cos(direction), np.sin(direction)])
        ends = [tuple(int(v) for v in np.rint(point)) for point in (at, to)]
        cv2.line(drawn, ends[0], ends[1], 1.0, max(round(width), 1), cv2.LINE_AA)
        at, width = to, max(width * 0.9, 2.0)
        if depth < 2 and rng.random() < 0.35:
            turn = direction + float(rng.choice([-1, 1])) * float(rng.uniform(0.4, 1.1))
            _branch(drawn, at, turn, width * 0.7, side, rng, depth + 1)


def _fringed_blob(side: int, rng: np.random.Generator) -> Float32Array:
    """A blob with hairs, thorns or grass along its outline."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    radius = np.hypot(x * float(rng.uniform(0.7, 1.4)), y)
    field = float(rng.uniform(0.2, 0.36)) - radius
    field = field + 0.06 * smooth_noise(rng, (side, side), float(rng.uniform(0.06, 0.3)) * side)
    drawn = np.asarray(field > 0, np.float32)
    contours, _ = cv2.findContours(drawn.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return _twigs(side, rng)
    outline = max(contours, key=len)[:, 0, :]
    length = float(rng.uniform(0.02, 0.15)) * side
    width = max(round(float(rng.uniform(0.004, 0.012)) * side), 2)
    lean = float(rng.normal(0, 0.5))
    for _ in range(int(rng.integers(20, 120))):
        root = outline[int(rng.integers(len(outline)))].astype(np.float64)
        direction = float(np.arctan2(root[1] - side / 2, root[0] - side / 2)) + lean
        at = root
        for _ in range(4):
            direction += float(rng.normal(0, 0.25))
            to = at + 0.25 * length * rng.uniform(0.5, 1.5) * np.array(
                [np.cos(direction), np.sin(direction)]
            )
            ends = [tuple(int(v) for v in np.rint(point)) for point in (at, to)]
            cv2.line(drawn, ends[0], ends[1], 1.0, width, cv2.LINE_AA)
            at = to
    return drawn


def _strings(side: int, rng: np.random.Generator) -> Float32Array:
    """Loops of string, and the net that they make."""
    drawn = np.zeros((side, side), np.float32)
    for _ in range(int(rng.integers(2, 7))):
        points = rng.uniform(0.1, 0.9, (int(rng.integers(4, 8)), 2)) * side
        steps = np.linspace(0, len(points) - 1, 60)
        curve = np.stack(
            [np.interp(steps, np.arange(len(points)), points[:, axis]) for axis in (0, 1)], axis=1
        )
        curve = cv2.GaussianBlur(curve.astype(np.float32), (1, 15), 0)
        width = max(round(float(rng.uniform(0.008, 0.04)) * side), 2)
        cv2.polylines(drawn, [np.rint(curve).astype(np.int32)], False, 1.0, width, cv2.LINE_AA)
    return drawn
