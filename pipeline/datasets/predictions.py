"""Predictions to judge, in the formats that need no images: Cityscapes, COCO, mask files."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Protocol

from bpr._paths import AnyPath
from bpr.pipeline.datasets.coco_images import image_keys
from bpr.pipeline.datasets.ground_truth import image_key, unique_keys
from bpr.pipeline.formats import cityscapes, coco
from bpr.pipeline.formats.coco import ImageId
from bpr.pipeline.formats.images import read_masks
from bpr.pipeline.instance import Instance, Mask, Prediction, Size, size_text


class Predictions(Protocol):
    """The predictions for a set of images, read one image at a time."""

    @property
    def lists_every_image(self) -> bool:
        """Whether a missing entry means "not processed" (True) or "nothing found" (False)."""

    @property
    def has_labels(self) -> bool:
        """Instances carry category ids."""

    def keys(self) -> Sequence[str]:
        """Names of the images, as `image_key` gives them."""

    def count(self, key: str) -> int:
        """Number of instances of an image, before any mask is read.

        Raises:
            ValueError: as for `read`.
        """

    def files(self, key: str) -> Sequence[AnyPath]:
        """What the instances of an image are read from, as far as it can be told."""

    def part(self, keys: Collection[str]) -> Predictions:
        """The same with these images alone: small to send to another process."""

    def read(self, key: str, size: Size) -> Prediction:
        """Read the instances of an image.

        Args:
            key: one of `keys`, or another name: no instances then.
            size: (height, width) of its ground truth.

        Raises:
            ValueError: they cannot be read or have another size; the message says what and where.
        """


class CityscapesPredictions:
    """A folder of `<image>_pred.txt` files and mask PNGs.

    Raises:
        ValueError: there is no such file, or two for one image.
    """

    lists_every_image = True
    has_labels = True

    def __init__(self, folder: AnyPath) -> None:
        self._folder = folder
        files = cityscapes.find_prediction_files(folder)
        named = [(image_key(cityscapes.image_stem(file) + ".txt"), str(file)) for file in files]
        self._files = dict(zip(unique_keys(named, str(folder)), files, strict=True))

    def keys(self) -> Sequence[str]:
        """Names of the txts without endings."""
        return list(self._files)

    def count(self, key: str) -> int:
        """Files that the txt names."""
        return len(self._parse(key).check().lines)

    def files(self, key: str) -> Sequence[AnyPath]:
        """The txt and its masks; the txt alone where it is damaged."""
        path = self._files[key]
        try:
            lines = self._parse(key).lines
        except ValueError:
            return [path]
        return [path, *(path.parent / line.file for line in lines)]

    def part(self, keys: Collection[str]) -> CityscapesPredictions:
        """The same with these images alone."""
        part = copy(self)
        part._files = {key: self._files[key] for key in keys}
        return part

    def read(self, key: str, size: Size) -> Prediction:
        """Read the txt and its masks.

        Where lines name one file, the last counts, in the place of the first: as in
        cityscapesscripts.
        """
        if key not in self._files:
            return Prediction(size, ())
        parsed = self._parse(key).check()
        instances = cityscapes.read_instances(parsed)
        for line, instance in zip(parsed.lines, instances, strict=True):
            _check_size(instance.mask, size, str(parsed.path.parent / line.file))
        return Prediction(size, instances)

    def _parse(self, key: str) -> cityscapes.PredictionFile:
        parsed = cityscapes.parse_prediction_file(self._files[key], self._folder)
        last = {os.path.normpath(line.file): line for line in parsed.lines}
        return replace(parsed, lines=tuple(last.values()))


class CocoPredictions:
    """A COCO results json, or the labels of a data set.

    Args:
        path: of the json.
        keys: name of each image id in the ground truth, as `CocoTruth.key_of_ids` and
            `image_keys` give it; None: images are called by their ids.
        labels: number of each category id; see `coco.read_prediction`.

    Raises:
        ValueError: it is no such json.
    """

    lists_every_image = False
    has_labels = True

    def __init__(
        self,
        path: AnyPath,
        keys: Mapping[ImageId, str] | None,
        labels: Mapping[str, int] | None = None,
    ) -> None:
        self._results = coco.load_results_or_labels(path)
        data_set = self._results.data_set
        if data_set is None:  # every entry of results must have a mask
            self._results = coco.load_results(path)
        elif keys is None:
            keys = image_keys(coco.parse_images(path, data_set))
        self._labels = labels
        self._ids: dict[str, ImageId] = {}
        for image_id in self._results.by_image:
            # without a list of names, files are named by the id, plain or with leading zeros
            key = image_id if keys is None else keys.get(image_id, f"image id {image_id}")
            self._ids[key] = image_id

    def keys(self) -> Sequence[str]:
        """Stems of the file names, or ids."""
        return list(self._ids)

    def count(self, key: str) -> int:
        """Entries of the image."""
        return len(self._results.by_image[self._ids[key]])

    def files(self, key: str) -> Sequence[AnyPath]:  # noqa: ARG002
        """The json."""
        return [self._results.path]

    def part(self, keys: Collection[str]) -> CocoPredictions:
        """The same with these images alone; entries keep their numbers."""
        part = copy(self)
        part._ids = {key: self._ids[key] for key in keys}
        part._results = self._results.part(part._ids.values())
        return part

    def read(self, key: str, size: Size) -> Prediction:
        """Decode the instances of an image."""
        image_id = self._ids.get(key, self._ids.get(key.lstrip("0")))
        if image_id is None:
            return Prediction(size, ())
        return coco.read_prediction(self._results, image_id, size, self._labels)


class MaskFiles:
    """Mask files of one image; scores are 1 and the label 0."""

    lists_every_image = True
    has_labels = False

    def __init__(self, image: AnyPath, masks: Sequence[AnyPath]) -> None:
        self._key, self._masks = image_key(image.name), tuple(masks)

    def keys(self) -> Sequence[str]:
        """The name of the image."""
        return [self._key]

    def count(self, key: str) -> int:  # noqa: ARG002
        """Mask files."""
        return len(self._masks)

    def files(self, key: str) -> Sequence[AnyPath]:  # noqa: ARG002
        """The mask files."""
        return self._masks

    def part(self, keys: Collection[str]) -> MaskFiles:  # noqa: ARG002
        """There is but one image."""
        return self

    def read(self, key: str, size: Size) -> Prediction:
        """Read the masks."""
        if key != self._key:
            return Prediction(size, ())
        instances = []
        for path in self._masks:
            for item in read_masks(path).objects:
                mask = Mask.from_array(item.pixels)
                _check_size(mask, size, str(path))
                instances.append(
                    Instance(mask=mask, label=0, score=1.0, record={"file": path.name})
                )
        return Prediction(size, tuple(instances))


def _check_size(mask: Mask, size: Size, name: str) -> None:
    if mask.size != size:
        raise ValueError(
            f"{name}: expected a mask of the size of its ground truth, {size_text(size)}, "
            f"got {size_text(mask.size)}"
        )


def open_predictions(
    path: AnyPath,
    masks: Sequence[AnyPath] | None,
    keys: Mapping[ImageId, str] | None,
    labels: Mapping[str, int] | None = None,
) -> Predictions:
    """Open predictions of whatever format.

    Args:
        path: a Cityscapes folder, a COCO results json, or, with masks, one image.
        masks: mask files of the image.
        keys: name of each image id of a COCO results json; see `CocoPredictions`.
        labels: number of each category id of a COCO results json.

    Raises:
        ValueError: nothing is there, or nothing of these.
    """
    if not path.exists():
        raise ValueError(f"{path}: expected predictions, found no file or folder")
    if masks:
        return MaskFiles(path, masks)
    if path.is_dir():
        return CityscapesPredictions(path)
    if path.suffix.lower() != ".json":
        raise ValueError(
            f"{path}: expected a folder of <image>_pred.txt files or a COCO results json; "
            "for one image, name its masks with --masks"
        )
    return CocoPredictions(path, keys, labels)
