"""Going on from the weights of another training: classes are told apart by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Transfer:
    """What was taken over."""

    num_tensors: int
    kept: tuple[str, ...]  # categories whose output weights were known
    fresh: tuple[str, ...]  # categories that begin with random ones
    missing: tuple[str, ...]  # names of tensors that begin with random values altogether


@dataclass(frozen=True)
class ClassRows:
    """How the first axis of an output layer is divided."""

    background: int  # rows before those of the first category
    each: int  # rows of one category

    def fit(self, source: Tensor, target: Tensor, num_categories: int) -> bool:
        """The layer is divided in the same way in both."""
        expected = self.background + num_categories * self.each
        return source.shape == (expected, *target.shape[1:])


def transfer(
    network: nn.Module,
    names: Sequence[str],
    source: Mapping[str, Tensor],
    source_names: Sequence[str],
    build: Callable[[int], nn.Module],
) -> Transfer:
    """Copy weights into a network with other categories, or of a related kind.

    Tensors of the same name and shape are copied. Of output layers the background and the
    categories that both know are, whatever their order; the rest stays as it is.

    Args:
        network: changed in place.
        names: of its categories, in order.
        source: state dict to copy from.
        source_names: of its categories, in order.
        build: makes the network for a number of categories; shows which layers depend on it.

    Raises:
        ValueError: nothing of the source fits.

    Source: He et al., 2017 (arXiv:1703.06870), appendix A: rider begins with random weights.
    """
    rows = class_rows(build)
    target = network.state_dict()
    places = {name: index for index, name in enumerate(source_names)}
    pairs = [(index, places[name]) for index, name in enumerate(names) if name in places]
    missing = []
    for key, value in target.items():
        found = source.get(key)
        if key in rows and found is not None and rows[key].fit(found, value, len(source_names)):
            _copy_rows(value, found, rows[key], pairs)
        elif key not in rows and found is not None and found.shape == value.shape:
            value.copy_(found)
        else:
            missing.append(key)
    if len(missing) == len(target):
        raise ValueError("expected weights of a detector of this kind, found none that fit")
    return Transfer(
        len(target) - len(missing),
        tuple(name for name in names if name in places),
        tuple(name for name in names if name not in places),
        tuple(missing),
    )


def class_rows(build: Callable[[int], nn.Module]) -> dict[str, ClassRows]:
    """The tensors whose first axis depends on the number of categories."""
    with torch.device("meta"):  # no memory, no random numbers
        two, three = (build(number).state_dict() for number in (2, 3))
    rows = {}
    for key, value in two.items():
        each = three[key].shape[0] - value.shape[0] if value.ndim else 0
        if each:
            rows[key] = ClassRows(value.shape[0] - 2 * each, each)
    return rows


def _copy_rows(
    target: Tensor, source: Tensor, rows: ClassRows, pairs: Sequence[tuple[int, int]]
) -> None:
    start, each = rows.background, rows.each
    target[:start].copy_(source[:start])
    for there, here in pairs:
        target[start + there * each : start + (there + 1) * each].copy_(
            source[start + here * each : start + (here + 1) * each]
        )
