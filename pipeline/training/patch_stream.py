"""Training patches made on the fly: accurate masks in, (patch, target) batches out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import IterableDataset

from bpr._paths import AnyPath
from bpr.pipeline.crops import crop_patches
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.simulate import simulate_coarse_mask
from bpr.pipeline.formats.images import IGNORE, InstanceMap, read_image, read_instance_map
from bpr.pipeline.geometry import select_patches
from bpr.pipeline.instance import Float32Array, Int64Array, Mask, UInt8Array
from bpr.pipeline.settings import PatchSettings

PATCHES_PER_OBJECT = 2
MAX_TRIES = 2000  # draws in a row that give no patch
PATCH_SHARES = (0.11, 0.36)  # of the object's long side
MIN_AREA = 100  # pixels; smaller objects have no shape to learn from


@dataclass(frozen=True)
class LabelledImage:
    """A photograph and its instance map (8-bit, 0 background, k instance, 255 ignore)."""

    image: AnyPath
    instance_map: Path


def find_labelled_images(images: Path, instance_maps: Path) -> list[LabelledImage]:
    """Pair the files of two folders by stem, in sorted order.

    Raises:
        ValueError: no pair, or an instance map without an image or with several.
    """
    index = ImageIndex(images)
    pairs = [
        LabelledImage(index.find([path.stem]), path) for path in sorted(instance_maps.glob("*.png"))
    ]
    if not pairs:
        raise ValueError(f"{instance_maps}: expected instance maps (*.png), found none")
    return pairs


@dataclass(frozen=True)
class StreamSettings:
    """What a batch of the stream holds."""

    input_size: int = 64  # S, pixels
    batch_size: int = 32  # patches
    seed: int = 0


class PatchStream(IterableDataset[tuple[UInt8Array, UInt8Array]]):
    """Endless batches; batch number k depends on the settings and k alone.

    So a resumed training sees what an uninterrupted one would have seen, and several loader
    processes (each makes every n-th batch) give the same batches as one.

    Args:
        images: where patches come from.
        settings: what a batch holds.
        start: number of the first batch.
        stride: from each batch to the next: how many processes train together.

    Yields:
        patches (B, S, S, 4) uint8 as from `crop_patches`, and targets (B, S, S) uint8:
        0, 1, or 255 where the truth is unknown.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        settings: StreamSettings,
        start: int = 0,
        stride: int = 1,
    ) -> None:
        self.images = tuple(images)
        self.settings = settings
        self.start, self.stride = start, stride

    def __iter__(self) -> Iterator[tuple[UInt8Array, UInt8Array]]:
        return map(self.batch, batch_numbers(self.start, self.stride))

    def batch(self, number: int) -> tuple[UInt8Array, UInt8Array]:
        """Make batch `number`."""
        rng = np.random.default_rng([self.settings.seed, number])
        patches, targets, count, in_vain = [], [], 0, 0
        while count < self.settings.batch_size:
            if in_vain == MAX_TRIES:
                raise ValueError(
                    f"{self.images[0].instance_map.parent}: expected maps with instances "
                    f"(values 1 to 254) of {MIN_AREA} pixels or more, found none in "
                    f"{MAX_TRIES} draws"
                )
            source = self.images[int(rng.integers(len(self.images)))]
            made = sample_patches(*_load(source), self.settings.input_size, rng)
            in_vain += 1
            if made is not None:
                in_vain = 0
                patches.append(made[0])
                targets.append(made[1])
                count += len(made[0])
        size = self.settings.batch_size
        return np.concatenate(patches)[:size], np.concatenate(targets)[:size]


def sample_patches(
    image: UInt8Array, instance_map: InstanceMap, input_size: int, rng: np.random.Generator
) -> tuple[UInt8Array, UInt8Array] | None:
    """Patches of one random instance, seen at a random scale, with a simulated coarse mask.

    Args:
        image: (H, W, 3) uint8 RGB.
        instance_map: (H, W).
        input_size: S in pixels.
        rng: the only source of chance.

    Returns:
        Patches (n, S, S, 4) and targets (n, S, S), n <= PATCHES_PER_OBJECT; None where the
        instance drawn is too small or its coarse mask has no boundary.
    """
    labels = np.unique(instance_map)
    labels = labels[(labels != 0) & (labels != IGNORE)]
    if labels.size == 0:
        return None
    image, instance_map = _augmented_view(image, instance_map, int(rng.choice(labels)), rng)
    gt = instance_map == 1
    if np.count_nonzero(gt) < MIN_AREA:
        return None
    coarse = Mask.from_array(simulate_coarse_mask(gt, rng))
    settings = _drawn_settings(coarse, rng)
    boxes = select_patches(coarse, settings)
    if len(boxes) == 0:
        return None
    chosen = rng.choice(len(boxes), min(PATCHES_PER_OBJECT, len(boxes)), replace=False)
    boxes = boxes[np.sort(chosen)] + _box_jitter(len(chosen), settings, rng)
    patches = crop_patches(image, coarse, boxes, input_size, settings)
    targets = np.stack([target_patch(instance_map, box, input_size) for box in boxes])
    patches[..., :3] = photometric(patches[..., :3], rng)
    return patches, targets


def _augmented_view(
    image: UInt8Array, instance_map: InstanceMap, label: int, rng: np.random.Generator
) -> tuple[UInt8Array, UInt8Array]:
    """The surroundings of one instance, scaled, rotated and flipped; the map is 0, 1, 255."""
    ys, xs = np.nonzero(instance_map == label)
    margin = int(0.25 * max(np.ptp(xs), np.ptp(ys))) + 40
    rows = slice(max(int(ys.min()) - margin, 0), int(ys.max()) + margin)
    columns = slice(max(int(xs.min()) - margin, 0), int(xs.max()) + margin)
    image, instance_map = image[rows, columns], instance_map[rows, columns]
    view = np.zeros(instance_map.shape, np.uint8)
    view[instance_map == label] = 1
    view[instance_map == IGNORE] = IGNORE
    if rng.random() < 0.7:
        scale = float(np.exp(rng.uniform(np.log(0.4), np.log(1.6))))
        turn = float(rng.normal(0, 8)) if rng.random() < 0.5 else 0.0
        image, view = _rotozoom(image, view, scale, turn)
    if rng.random() < 0.5:
        image, view = image[:, ::-1], view[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(view)


def _rotozoom(
    image: UInt8Array, view: UInt8Array, scale: float, degrees: float
) -> tuple[UInt8Array, UInt8Array]:
    height, width = view.shape
    side = (max(round(width * scale), 8), max(round(height * scale), 8))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = cv2.resize(image, side, interpolation=how)
    # smooth enlargement of each value keeps outlines free of stairs
    parts: list[Float32Array] = [
        cv2.resize(
            (view == value).astype(np.float32),
            side,
            interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
        )
        for value in (1, IGNORE)
    ]
    if degrees:
        turn = cv2.getRotationMatrix2D((side[0] / 2, side[1] / 2), degrees, 1.0)
        image = cv2.warpAffine(image, turn, side, borderMode=cv2.BORDER_REFLECT_101)
        parts = [
            cv2.warpAffine(part, turn, side, borderMode=cv2.BORDER_REFLECT_101) for part in parts
        ]
    out = np.zeros(parts[0].shape, np.uint8)
    out[parts[0] > 0.5] = 1
    out[parts[1] > 0.3] = IGNORE
    return image, out


def _drawn_settings(coarse: Mask, rng: np.random.Generator) -> PatchSettings:
    """Patch sizes on both sides of any that is sensible for the object, and the paper's."""
    x0, y0, x1, y1 = coarse.window
    share = float(np.exp(rng.uniform(*np.log(PATCH_SHARES))))
    size = 64.0 if rng.random() < 0.15 else share * max(x1 - x0, y1 - y0)
    return PatchSettings(patch_size=int(np.clip(2 * round(size / 2), 24, 384)), nms_iou=0.4)


def _box_jitter(count: int, settings: PatchSettings, rng: np.random.Generator) -> Int64Array:
    """Shifts that keep the outline in the patch but not always in its middle."""
    assert isinstance(settings.patch_size, int)
    reach = settings.patch_size // 8
    shift = rng.integers(-reach, reach + 1, (count, 2))
    return np.concatenate([shift, shift], axis=1)


def target_patch(view: UInt8Array, box: Int64Array, input_size: int) -> UInt8Array:
    """The truth in a box, which may leave the image: there it is unknown."""
    x0, y0, x1, y1 = (int(v) for v in box)
    height, width = view.shape
    patch = np.full((y1 - y0, x1 - x0), IGNORE, np.uint8)
    ix0, iy0, ix1, iy1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    patch[iy0 - y0 : iy1 - y0, ix0 - x0 : ix1 - x0] = view[iy0:iy1, ix0:ix1]
    side = (input_size, input_size)
    how = cv2.INTER_AREA if patch.shape[0] > input_size else cv2.INTER_LINEAR
    share = cv2.resize((patch == 1).astype(np.float32), side, interpolation=how)
    unknown = cv2.resize((patch == IGNORE).astype(np.float32), side, interpolation=how)
    target = np.asarray(share > 0.5, np.uint8)
    target[unknown > 0.3] = IGNORE
    return target


def batch_numbers(start: int, stride: int) -> Iterator[int]:
    """start, start + stride, ... without end, dealt among the workers of a DataLoader."""
    from torch.utils.data import get_worker_info

    worker = get_worker_info()
    offset, step = (worker.id, worker.num_workers) if worker else (0, 1)
    return itertools.count(start + offset * stride, step * stride)


def photometric(patches: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Brightness, contrast, saturation, tint, blur, noise and JPEG, alike for one object."""
    out = patches.astype(np.float32)
    if rng.random() < 0.8:
        out = (out - 128) * float(rng.uniform(0.6, 1.4)) + 128 + float(rng.uniform(-32, 32))
        grey = out.mean(axis=-1, keepdims=True)
        out = grey + (out - grey) * float(rng.uniform(0.3, 1.6))
        out += rng.normal(0, 6, 3).astype(np.float32)
    if rng.random() < 0.1:
        out = np.repeat(out.mean(axis=-1, keepdims=True), 3, axis=-1)
    if rng.random() < 0.25:
        sigma = float(rng.uniform(0.3, 1.5))
        out = np.stack([cv2.GaussianBlur(patch, (0, 0), sigma) for patch in out])
    if rng.random() < 0.25:
        out += rng.normal(0, float(rng.uniform(1, 8)), out.shape).astype(np.float32)
    result = np.clip(out, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 90))]
        codes = [cv2.imencode(".jpg", patch, quality)[1] for patch in result]
        result = np.array([cv2.imdecode(code, cv2.IMREAD_COLOR) for code in codes], np.uint8)
    return result


@lru_cache(maxsize=1024)  # a few hundred photographs fit into memory
def _load(source: LabelledImage) -> tuple[UInt8Array, InstanceMap]:
    image = read_image(source.image).pixels
    instance_map = read_instance_map(source.instance_map)
    if instance_map.shape != image.shape[:2]:
        raise ValueError(
            f"{source.instance_map}: expected the size of its image {image.shape[:2]} "
            f"(height, width), got {instance_map.shape}"
        )
    return image, instance_map
