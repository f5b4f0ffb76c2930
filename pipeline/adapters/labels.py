"""Label maps in Python: one array in which each value is an object."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bpr.pipeline.adapters.stacks import as_array, instance_of
from bpr.pipeline.formats.images import IGNORE
from bpr.pipeline.instance import Instance, Prediction, Size, paint


class LabelMapAdapter:
    """(H, W) integers, array or tensor: 0 is background, and so are negative values.

    Of uint8, 255 means that nobody labelled the pixel: it stays. A pixel that no object has any
    more becomes background; where refined objects overlap, the smaller value has the pixel.
    """

    def accepts(self, masks: Any) -> bool:
        """A map of integers."""
        return (
            hasattr(masks, "dtype") and len(masks.shape) == 2 and as_array(masks).dtype.kind in "iu"
        )

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per value, in order."""
        array = as_array(masks)
        if array.shape != size:
            raise ValueError(
                f"labels: expected the size of the image, {size} (height, width), got {array.shape}"
            )
        return [instance_of(array == value, size) for value in _objects(array)]

    def write(self, masks: Any, refined: Prediction) -> Any:
        """A map of the same type."""
        array = as_array(masks)
        values = _objects(array)
        new = np.where(np.isin(array, values), 0, array).astype(array.dtype)
        paint(new, [item.mask for item in refined.instances], values, [1.0] * len(values))
        new[_unlabelled(array)] = array[_unlabelled(array)]
        return masks.new_tensor(new) if hasattr(masks, "new_tensor") else new


def _objects(array: npt.NDArray[Any]) -> list[int]:
    values = np.unique(array[~_unlabelled(array)])
    return [int(value) for value in values if value > 0]


def _unlabelled(array: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.asarray(array == IGNORE if array.dtype == np.uint8 else np.zeros(array.shape, bool))
