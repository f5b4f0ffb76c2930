"""Masks stacked in one array or tensor: what most libraries hold inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bpr.pipeline.instance import BoolArray, Instance, Mask, Prediction, Size

THRESHOLD = 0.5  # of masks that are probabilities; all libraries take the same


class StackAdapter:
    """(N, H, W) or (N, 1, H, W) bool, an array or a tensor."""

    def accepts(self, masks: Any) -> bool:
        """Anything with a dtype and a shape."""
        return hasattr(masks, "dtype") and hasattr(masks, "shape")

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per mask."""
        array = as_array(masks)
        if array.dtype != np.bool_:
            raise ValueError(
                f"masks: expected bool, got {array.dtype}; say masks > 0 (or > 0.5 for "
                "probabilities)"
            )
        return read_stack(masks, size, "masks")

    def write(self, masks: Any, refined: Prediction) -> Any:
        """The same shape, type and device."""
        return write_stack(masks, refined)


def as_array(stack: Any) -> npt.NDArray[Any]:
    """An array of numpy, or a tensor of PyTorch on any device, as an array of numpy."""
    if hasattr(stack, "detach"):
        stack = stack.detach().cpu()
        if stack.dtype.is_floating_point:
            stack = stack.float()  # numpy has no bfloat16
        return np.asarray(stack.numpy())
    return np.asarray(stack)


def read_stack(stack: Any, size: Size, name: str) -> list[Instance]:
    """One instance per mask of a stack.

    Args:
        stack: (N, H, W) or (N, 1, H, W), array or tensor; bool, integers (not zero is the
            object) or probabilities (above 0.5 is).
        size: (height, width) of the image.
        name: what the caller's program calls the stack.

    Raises:
        ValueError: another shape.
    """
    array = as_array(stack)
    shape = array.shape
    if array.ndim == 4 and shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 3 or (array.shape[1:] != size and len(array)):
        height, width = size
        advice = "; one mask is masks[None]" if array.ndim == 2 else ""
        raise ValueError(
            f"{name}: expected masks of the size of their image, shape (N, {height}, {width}), "
            f"got {shape}{advice}"
        )
    return [instance_of(_as_bool(mask), size) for mask in array]


def instance_of(array: BoolArray, size: Size) -> Instance:
    """An instance with nothing but a mask: labels and scores stay where they are."""
    return Instance(Mask.from_array(array, size=size), 0, 1.0)


def write_stack(like: Any, refined: Prediction) -> Any:
    """Refined masks as a stack of the shape, type and device of another one.

    Probabilities become 0 and 1; integers take the largest value there was (1 or 255).
    """
    array = stack_masks(refined)
    if len(like.shape) == 4:
        array = array[:, None]
    values = as_array(like)
    if values.dtype.kind in "iu" and values.any():
        array = array * values.max()
    if hasattr(like, "new_tensor"):
        return like.new_tensor(array)
    return array.astype(values.dtype)


def stack_masks(refined: Prediction) -> npt.NDArray[Any]:
    """(N, H, W) bool of N masks."""
    array = np.zeros((len(refined.instances), *refined.size), np.bool_)
    for plane, instance in zip(array, refined.instances, strict=True):
        x0, y0, x1, y1 = instance.mask.window
        plane[y0:y1, x0:x1] = instance.mask.bitmap
    return array


def _as_bool(mask: npt.NDArray[Any]) -> BoolArray:
    return np.asarray(mask > THRESHOLD if mask.dtype.kind == "f" else mask != 0)
