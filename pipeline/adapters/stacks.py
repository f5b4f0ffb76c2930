"""Masks stacked in one array or tensor: what most libraries hold inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bpr.pipeline.instance import BoolArray, Instance, Mask, Prediction, Size

THRESHOLD = 0.5  # of masks that are probabilities; all libraries take the same


class StackAdapter:
    """Masks in an array or tensor, (N, H, W), (N, K, H, W) or, of one mask, (H, W).

    bool; integers of which not more than one is not zero; or probabilities, above 0.5.
    """

    def accepts(self, masks: Any) -> bool:
        """Anything with a dtype and a shape."""
        return hasattr(masks, "dtype") and hasattr(masks, "shape")

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per mask."""
        array = as_array(masks)
        if array.shape == size:
            array = array[None]
        if array.ndim == 4:
            array = array.reshape(-1, *array.shape[2:])
        binary = as_binary(array, "masks")
        return read_stack(binary, size, "masks")

    def write(self, masks: Any, refined: Prediction) -> Any:
        """The same shape, type and device."""
        return typed_like(masks, stack_masks(refined).reshape(tuple(masks.shape)))


class TupleAdapter:
    """(masks, scores, logits), as the predictors of SAM, SAM 2 and HQ-SAM return them."""

    def accepts(self, masks: Any) -> bool:
        """A tuple of three arrays or tensors, the first with masks, the second with scores."""
        return (
            isinstance(masks, tuple)
            and len(masks) == 3
            and all(StackAdapter().accepts(part) for part in masks)
            and len(masks[0].shape) in (3, 4)
            and len(masks[1].shape) == len(masks[0].shape) - 2
        )

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per mask."""
        return StackAdapter().read(masks[0], size)

    def write(self, masks: Any, refined: Prediction) -> Any:
        """A tuple with refined masks."""
        return (StackAdapter().write(masks[0], refined), *masks[1:])


def as_binary(array: npt.NDArray[Any], name: str) -> BoolArray:
    """Masks as bool.

    Args:
        array: of any shape: bool, integers or probabilities.
        name: of the array, for the message.

    Raises:
        ValueError: integers of several values: a label map, in which each value is an object.
    """
    if array.dtype.kind in "iu" and array.size:
        values = np.unique(array)
        if len(values[values != 0]) > 1:
            raise ValueError(
                f"{name}: expected masks of one value, got {len(values)} values; of a label map, "
                "one mask for each value: refiner(image, labels=...)"
            )
    return as_bool(array)


def typed_like(like: Any, array: npt.NDArray[Any]) -> Any:
    """Refined masks in the type and on the device of other ones, and of the shape of `array`.

    Probabilities become 0 and 1; integers take the largest value there was (1 or 255).
    """
    values = as_array(like)
    if values.dtype.kind in "iu" and values.any():
        array = array * values.max()
    if hasattr(like, "new_tensor"):
        return like.new_tensor(array)
    return array.astype(values.dtype)


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
    return [instance_of(as_bool(mask), size) for mask in array]


def instance_of(array: BoolArray, size: Size) -> Instance:
    """An instance with nothing but a mask: labels and scores stay where they are."""
    return Instance(mask=Mask.from_array(array, size=size), label=0, score=1.0)


def write_stack(like: Any, refined: Prediction) -> Any:
    """Refined masks as a stack of the shape, type and device of another one.

    Probabilities become 0 and 1; integers take the largest value there was (1 or 255).
    """
    array = stack_masks(refined)
    return typed_like(like, array[:, None] if len(like.shape) == 4 else array)


def stack_masks(refined: Prediction) -> npt.NDArray[Any]:
    """(N, H, W) bool of N masks."""
    array = np.zeros((len(refined.instances), *refined.size), np.bool_)
    for plane, instance in zip(array, refined.instances, strict=True):
        x0, y0, x1, y1 = instance.mask.window
        plane[y0:y1, x0:x1] = instance.mask.bitmap
    return array


def stack_probabilities(masks: Any, refined: Prediction, is_stack: bool) -> Any:
    """Probabilities of refined masks, float32 in [0, 1].

    Args:
        masks: what was refined.
        refined: its instances, with `soft`.
        is_stack: whether `masks` may be a stack: of label maps the shape says nothing.

    Returns:
        An array or tensor of the shape of `masks` where that is a stack, else (N, H, W).
    """
    array = np.zeros((len(refined.instances), *refined.size), np.float32)
    for plane, instance in zip(array, refined.instances, strict=True):
        if instance.soft is not None:
            x0, y0, x1, y1 = instance.soft.window
            plane[y0:y1, x0:x1] = instance.soft.values * np.float32(1 / 255)
    if not is_stack or not StackAdapter().accepts(masks):
        return array
    array = array.reshape(tuple(masks.shape))
    if hasattr(masks, "new_tensor"):
        return masks.new_tensor(array, dtype=_float32_of(masks))
    return array


def _float32_of(tensor: Any) -> Any:
    """PyTorch's float32, without importing PyTorch."""
    return tensor.new_empty(0).float().dtype


def as_bool(mask: npt.NDArray[Any]) -> BoolArray:
    """Probabilities above 0.5, and everything else that is not zero."""
    return np.asarray(mask > THRESHOLD if mask.dtype.kind == "f" else mask != 0)
