"""Masks in plain lists: what programs collect, and what pipelines of transformers return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bpr.pipeline.adapters.adapter import is_named
from bpr.pipeline.adapters.stacks import as_array, as_binary, instance_of, typed_like
from bpr.pipeline.instance import BoolArray, Instance, Prediction, Size


class ListAdapter:
    """A list or tuple of (H, W) masks: arrays, tensors or Pillow images."""

    def accepts(self, masks: Any) -> bool:
        """A list of such."""
        return isinstance(masks, (list, tuple)) and all(_is_mask(mask) for mask in masks)

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per mask."""
        return [
            instance_of(as_binary(_sized(mask, size, f"masks[{index}]"), f"masks[{index}]"), size)
            for index, mask in enumerate(masks)
        ]

    def write(self, masks: Any, refined: Prediction) -> Any:
        """A list or tuple of masks of the same types."""
        return type(masks)(write_each(masks, refined))


class MaskRecordsAdapter:
    """What transformers' `pipeline("image-segmentation")` returns: dicts with a Pillow `mask`."""

    def accepts(self, masks: Any) -> bool:
        """A list of dicts with a mask."""
        return (
            isinstance(masks, list)
            and bool(masks)
            and all(isinstance(one, dict) and _is_mask(one.get("mask")) for one in masks)
        )

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per dict."""
        return ListAdapter().read([one["mask"] for one in masks], size)

    def write(self, masks: Any, refined: Prediction) -> Any:
        """Dicts with other masks."""
        new = write_each([one["mask"] for one in masks], refined)
        return [{**one, "mask": mask} for one, mask in zip(masks, new, strict=True)]


class MaskListAdapter:
    """What `pipeline("mask-generation")` returns: {"masks": list of (H, W), "scores"}."""

    def accepts(self, masks: Any) -> bool:
        """A dict with a list of masks."""
        return isinstance(masks, dict) and ListAdapter().accepts(masks.get("masks"))

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per mask."""
        return ListAdapter().read(masks["masks"], size)

    def write(self, masks: Any, refined: Prediction) -> Any:
        """A dict with other masks."""
        return {**masks, "masks": ListAdapter().write(masks["masks"], refined)}


def write_each(masks: Sequence[Any], refined: Prediction) -> list[Any]:
    """Refined masks, each of the type of the mask that it was."""
    new = []
    for mask, instance in zip(masks, refined.instances, strict=True):
        array = instance.mask.to_array()
        is_picture = is_named(mask, "PIL", "Image")
        new.append(_picture(mask, array) if is_picture else typed_like(mask, array))
    return new


def _picture(mask: Any, array: BoolArray) -> Any:
    values = np.asarray(mask)
    high = 255 if values.dtype == np.bool_ or not values.any() else int(values.max())
    picture = Image.fromarray((array * np.uint8(high)).astype(np.uint8))
    return picture.convert(mask.mode)


def _is_mask(value: Any) -> bool:
    if is_named(value, "PIL", "Image"):
        return True
    return hasattr(value, "dtype") and len(getattr(value, "shape", ())) == 2


def _sized(mask: Any, size: Size, name: str) -> npt.NDArray[Any]:
    array = np.asarray(mask) if is_named(mask, "PIL", "Image") else as_array(mask)
    if array.shape != size:
        raise ValueError(
            f"{name}: expected a mask of the size of its image, {size} (height, width), got "
            f"{array.shape}"
        )
    return array
