"""The training stream of a coarse-to-fine refiner.

A sample is what the network meets in the product: an object of a real or a made-up picture, with a
coarse mask that a network predicted, that was simulated, or that the network's own earlier pass
left, cut into patches of any share of the object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from torch.utils.data import IterableDataset

from bpr.pipeline.colour_evidence import object_colours
from bpr.pipeline.crops import patch_probabilities
from bpr.pipeline.datasets.simulate import (
    displaced_outline,
    low_resolution,
    mask_head,
    missing_or_leaking,
    nearly_perfect,
    over_or_under_segmented,
    perfect,
    polygon,
)
from bpr.pipeline.datasets.simulate_parts import lost_and_added_parts, small_error
from bpr.pipeline.geometry import reassemble, select_patches
from bpr.pipeline.instance import BoolArray, Float32Array, Mask, UInt8Array
from bpr.pipeline.passes import cut_patches, long_side, pass_settings
from bpr.pipeline.training.fine_scenes import fine_scene
from bpr.pipeline.training.patch_stream import batch_numbers, photometric, target_patch
from bpr.pipeline.training.pool import Pool, PoolItem, reduce_item

Predict = Callable[[UInt8Array], Float32Array]
"""(N, S, S, 7) patches -> (N, S, S) logits: the network as it is now."""

DATASET_WEIGHTS = {
    "davis2016": 0.15,
    "bsds500": 0.16,
    "ecssd": 0.25,
    "weizmann-horses": 0.05,
    "nepal-notes": 0.05,
    "feral-cats": 0.12,
    "ccp": 0.13,
    "penn-fudan": 0.09,
}
"""How often a photograph of each set is drawn; sets not named share what is left evenly."""

NOISY = ("davis2016", "bsds500", "ccp", "penn-fudan", "nepal-notes")
"""Sets whose outlines err by a pixel or more: seen reduced more often."""

SIMULATED = {
    mask_head: 0.20,
    polygon: 0.18,
    displaced_outline: 0.03,
    over_or_under_segmented: 0.02,
    low_resolution: 0.03,
    missing_or_leaking: 0.03,
    lost_and_added_parts: 0.11,
    small_error: 0.22,
    nearly_perfect: 0.08,
    perfect: 0.20,
}
"""The simulated errors and how often each is drawn."""

RECORDED = 0.45  # of the coarse masks of objects that have recorded ones
MADE_UP = 0.14  # of the objects
ROLLED_OUT = 0.22  # of the coarse masks are refined by a wide pass first
SHARES = (0.07, 1.0)  # patch size by the object's long side
NARROW, NARROW_OFTEN = 0.2, 0.35  # so many views are narrower than this: most patches are
WIDE = (0.4, 0.9)  # of passes before
NEXT = (0.25, 0.6)  # of the pass before: the next one's share
VIEWS, PATCHES = 2, 2  # shares an object, patches a share; twice the views after a roll-out
MAX_TRIES = 2000


@dataclass(frozen=True)
class ChainSettings:
    """What a batch of the stream holds."""

    input_size: int = 96  # S, pixels
    batch_size: int = 32  # patches
    seed: int = 0


class ChainStream(IterableDataset[tuple[UInt8Array, UInt8Array]]):
    """Endless batches; batch k depends on the settings, on k, and on the network of that time.

    Args:
        pool: objects to draw from.
        settings: what a batch holds.
        start: number of the first batch.
        network: gives the present network, or None while it is too young for roll-outs.

    Yields:
        patches (B, S, S, 7) uint8 as from `cut_patches`, and targets (B, S, S) uint8:
        0, 1, or 255 where the truth is unknown.
    """

    def __init__(
        self,
        pool: Pool,
        settings: ChainSettings,
        start: int = 0,
        network: Callable[[], Predict | None] = lambda: None,
    ) -> None:
        self.pool, self.settings, self.start, self.network = pool, settings, start, network
        names = [pool.dataset(number) for number in range(len(pool))]
        counts = {name: names.count(name) for name in set(names)}
        even = 1 / len(counts)
        weights = np.array([DATASET_WEIGHTS.get(name, even) / counts[name] for name in names])
        self._chances = np.cumsum(weights / weights.sum())

    def __iter__(self) -> Iterator[tuple[UInt8Array, UInt8Array]]:
        cv2.setNumThreads(1)
        return map(self.batch, batch_numbers(self.start, 1))

    def batch(self, number: int) -> tuple[UInt8Array, UInt8Array]:
        """Make batch `number`."""
        rng = np.random.default_rng([self.settings.seed, number])
        network = self.network()
        patches, targets, count = [], [], 0
        for _ in range(MAX_TRIES):
            made = self._sample(rng, network)
            if made is not None:
                patches.append(made[0])
                targets.append(made[1])
                count += len(made[0])
            if count >= self.settings.batch_size:
                size = self.settings.batch_size
                return np.concatenate(patches)[:size], np.concatenate(targets)[:size]
        raise ValueError(f"{self.pool.folder}: expected objects with outlines, found none")

    def _draw(self, rng: np.random.Generator) -> PoolItem:
        number = int(np.searchsorted(self._chances, rng.random()))
        return self.pool[min(number, len(self.pool) - 1)]

    def _sample(
        self, rng: np.random.Generator, network: Predict | None
    ) -> tuple[UInt8Array, UInt8Array] | None:
        item = self._draw(rng)
        if rng.random() < MADE_UP:
            image, truth = fine_scene(item.image, self._draw(rng).image, rng)
            item = PoolItem(image, truth, (), "made up")
        else:
            often = 0.7 if item.dataset in NOISY else 0.35
            if rng.random() < often:
                item = reduce_item(item, float(rng.uniform(0.5, 1.0)))
        if rng.random() < 0.5:
            item = PoolItem(
                np.ascontiguousarray(item.image[:, ::-1]),
                np.ascontiguousarray(item.truth[:, ::-1]),
                tuple(np.ascontiguousarray(mask[:, ::-1]) for mask in item.recorded),
                item.dataset,
            )
        if not (item.truth == 1).any():
            return None
        coarse = Mask.from_array(_coarse(item, rng))
        if coarse.is_empty:
            return None
        shares, size, views = SHARES, self.settings.input_size, VIEWS
        if network is not None and rng.random() < ROLLED_OUT:
            share, views = _between(WIDE, rng), 2 * VIEWS
            coarse = refine_pass(item.image, coarse, share, network, size)
            if rng.random() < 0.3 and not coarse.is_empty:
                share *= _between(NEXT, rng)
                coarse = refine_pass(item.image, coarse, share, network, size)
            shares = (SHARES[0], max(share * NEXT[1], SHARES[0] + 0.01))
            if coarse.is_empty:
                return None
        return _patches(item, coarse, shares, size, views, rng)


def refine_pass(
    image: UInt8Array, mask: Mask, share: float, network: Predict, input_size: int
) -> Mask:
    """One pass of refinement, as the product does it."""
    settings = pass_settings(mask, share, 0.2)
    boxes = select_patches(mask, settings)
    if len(boxes) == 0:
        return mask
    colours = object_colours(image, mask)
    patches = cut_patches(image, mask, boxes, input_size, colours, long_side(mask))
    probability = patch_probabilities(network(patches), int(boxes[0, 2] - boxes[0, 0]), 0)
    return reassemble(mask, boxes, probability)


def _coarse(item: PoolItem, rng: np.random.Generator) -> BoolArray:
    if item.recorded and rng.random() < RECORDED:
        return np.asarray(item.recorded[int(rng.integers(len(item.recorded)))] != 0)
    kinds, weights = list(SIMULATED), np.array(list(SIMULATED.values()))
    kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
    gt = item.truth == 1
    coarse = kind(gt, rng)
    return coarse if coarse.any() else gt


def _patches(
    item: PoolItem,
    coarse: Mask,
    shares: tuple[float, float],
    input_size: int,
    views: int,
    rng: np.random.Generator,
) -> tuple[UInt8Array, UInt8Array] | None:
    colours = object_colours(item.image, coarse)
    patches, targets = [], []
    for _ in range(views):
        low, high = shares
        if rng.random() < NARROW_OFTEN:
            high = max(min(NARROW, high), low + 0.01)
        settings = pass_settings(coarse, _between((low, high), rng), 0.4)
        boxes = select_patches(coarse, settings)
        if len(boxes) == 0:
            return None
        chosen = rng.choice(len(boxes), min(PATCHES, len(boxes)), replace=False)
        assert isinstance(settings.patch_size, int)
        reach = settings.patch_size // 8
        shift = rng.integers(-reach, reach + 1, (len(chosen), 2))
        boxes = boxes[np.sort(chosen)] + np.concatenate([shift, shift], axis=1)
        # the scale is told inexactly, so that it is a hint and no key
        side = round(long_side(coarse) * float(np.exp(rng.normal(0, 0.2))))
        patches.append(cut_patches(item.image, coarse, boxes, input_size, colours, max(side, 1)))
        targets.append(np.stack([target_patch(item.truth, box, input_size) for box in boxes]))
    joined = np.concatenate(patches)
    joined[..., :3] = photometric(joined[..., :3], rng)
    return joined, np.concatenate(targets)


def _between(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))
