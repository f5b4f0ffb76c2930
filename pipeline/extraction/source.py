"""Where patches come from: images, their ground truth, and predictions or simulated ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from zlib import crc32

import numpy as np

from bpr.pipeline.datasets.ground_truth import Annotation, GroundTruth
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.photographs import (
    find_photograph,
    photograph_names,
    read_photograph,
)
from bpr.pipeline.datasets.predictions import Predictions
from bpr.pipeline.datasets.simulate import simulate_coarse_mask
from bpr.pipeline.extraction.pairing import Pair, best_pair
from bpr.pipeline.files import stamp
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.instance import BoolArray, Instance, Mask, UInt8Array, grow
from bpr.pipeline.metrics import mask_iou


@dataclass(frozen=True, eq=False, kw_only=True)
class PairedImage:
    """An image with its coarse masks and what they should have been."""

    name: str  # of the image file, relative to the folder of images
    pixels: UInt8Array  # (H, W, 3) RGB
    pairs: tuple[Pair, ...]  # in the order of the predictions, or of the annotations
    ignore: BoolArray | None  # (H, W), True where nobody knows the truth
    left: tuple[LeftObject, ...] = ()  # of the ground truth: without a mask that can be read


@dataclass(frozen=True, eq=False)
class Source:
    """Everything patches are cut from, read one image at a time.

    Args:
        truth: accurate masks.
        predictions: coarse masks; None simulates them from the accurate ones.
        images: the photographs.
        class_agnostic: labels of predictions and ground truth are not compared.
    """

    truth: GroundTruth
    predictions: Predictions | None
    images: ImageIndex
    class_agnostic: bool = False

    def keys(self) -> list[str]:
        """Names of the images with ground truth and, where there are predictions, one; sorted."""
        if self.predictions is None:
            return sorted(self.truth.keys())
        return sorted(self._prediction_keys)

    def strays(self) -> list[str]:
        """Names of predictions without ground truth, sorted."""
        if self.predictions is None:
            return []
        return sorted(set(self.predictions.keys()) - set(self._prediction_keys.values()))

    def categories(self) -> Mapping[int, str]:
        """Names by label; empty where the ground truth has none."""
        return self.truth.categories or {}

    def count(self, key: str) -> int | None:
        """Number of predictions of an image; None where they are simulated, or unreadable."""
        if self.predictions is None:
            return None
        try:
            return self.predictions.count(self._prediction_keys[key])
        except ValueError:
            return None

    def part(self, keys: Collection[str]) -> Source:
        """The same with these images alone: small to send to another process."""
        names = [name for key in keys for name in photograph_names(self.truth, key)]
        predictions = self.predictions
        if predictions is not None:
            predictions = predictions.part([self._prediction_keys[key] for key in keys])
        return replace(
            self,
            truth=self.truth.part(keys),
            predictions=predictions,
            images=self.images.part(names),
        )

    def stamp(self, key: str) -> str:
        """Changes when a file that the image is read from does."""
        files = list(self.truth.files(key))
        if self.predictions is not None:
            files += self.predictions.files(self._prediction_keys[key])
        try:
            files.append(find_photograph(self.images, self.truth, key))
        except ValueError as error:
            return str(error)
        return " ".join(stamp(file) for file in files)

    def read(self, key: str, seed: int) -> PairedImage:
        """Read an image and pair its masks.

        Args:
            key: one of `keys`.
            seed: of simulated masks, which depend on it, the key and the object alone.

        Raises:
            ValueError: something is wrong with its files; the message says what and where.
        """
        truth = self.truth.read(key)
        pairs: Sequence[Pair]
        if self.predictions is None:
            pairs = [
                _simulated(annotation, [seed, crc32(key.encode()), index])
                for index, annotation in enumerate(truth.objects)
                if not annotation.mask.is_empty
            ]
        else:
            prediction = self.predictions.read(self._prediction_keys[key], truth.size)
            pairs = [
                best_pair(instance, truth, self.class_agnostic) for instance in prediction.instances
            ]
        path = find_photograph(self.images, self.truth, key)
        pixels = read_photograph(path, truth.size)
        name = path.relative_to(self.images.folder).as_posix()
        return PairedImage(
            name=name, pixels=pixels, pairs=tuple(pairs), ignore=truth.ignore, left=truth.left
        )

    @cached_property
    def _prediction_keys(self) -> Mapping[str, str]:
        """The predictions' name of an image by that of the ground truth.

        COCO results without a list of file names go by the id, without leading zeros.
        """
        assert self.predictions is not None
        known = set(self.predictions.keys())
        found = {}
        for key in self.truth.keys():  # noqa: SIM118
            for name in (key, key.lstrip("0")):
                if name in known:
                    found[key] = name
                    break
        return found


def _simulated(annotation: Annotation, seed: list[int]) -> Pair:
    """A coarse mask with the errors of real ones, made from the accurate one."""
    gt = annotation.mask
    x0, y0, x1, y1 = gt.window
    around = grow(gt.window, max(x1 - x0, y1 - y0) // 4 + 40, gt.size)
    coarse = simulate_coarse_mask(gt.read(around), np.random.default_rng(seed))
    mask = Mask.from_array(coarse, around[:2], gt.size)
    instance = Instance(mask=mask, label=annotation.label, score=1.0)
    return Pair(instance, gt, mask_iou(mask, gt), annotation.id)
