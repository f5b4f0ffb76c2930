"""What mmdetection's configuration, kept in a checkpoint as text, says of colours and strides."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

STRIDES = (4, 8, 16, 32, 64)
"""Pixels of a position of each level, as bpr has them."""


@dataclass(frozen=True, kw_only=True)
class StatedConfig:
    """Facts of a configuration; None where it does not state them."""

    style: str | None = None  # of the ResNet: "pytorch" or "caffe"
    rgb: bool | None = None  # whether images are RGB; else BGR
    mean: tuple[float, ...] | None = None  # in the order of the channels, of 0..255
    std: tuple[float, ...] | None = None
    strides: tuple[int, ...] | None = None  # of the anchors, by level


def read_config(text: str) -> StatedConfig:
    """Read what is stated, without executing the text.

    Args:
        text: Python source of assignments, as mmcv and mmengine write it; anything that is no
            literal or `dict(...)` of literals is passed over.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return StatedConfig()
    values: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = _value(node.value)
    model = _mapping(values.get("model"))
    norm = next(_normalisations(values), {})
    rgb = norm.get("to_rgb", norm.get("bgr_to_rgb"))
    anchors = _mapping(_mapping(model.get("rpn_head")).get("anchor_generator"))
    style = _mapping(model.get("backbone")).get("style")
    strides = anchors.get("strides")
    return StatedConfig(
        style=style if isinstance(style, str) else None,
        rgb=rgb if isinstance(rgb, bool) else None,
        mean=_numbers(norm.get("mean")),
        std=_numbers(norm.get("std")),
        strides=tuple(strides) if isinstance(strides, list | tuple) else None,
    )


def stated_changes(stated: StatedConfig) -> dict[str, Any]:
    """Conventions of a configuration, as changes of a preset (`presets.change_preset`).

    A field that the configuration does not state is not among them.
    """
    changes: dict[str, Any] = {}
    if stated.style is not None:
        changes["stride_in_1x1"] = stated.style == "caffe"
    for name, values in (("image_mean", stated.mean), ("image_std", stated.std)):
        if values is not None and len(values) == 3:
            of_rgb = values if stated.rgb is not False else values[::-1]
            changes[name] = [value / 255 for value in of_rgb]
    return changes


def unlike_strides(stated: StatedConfig) -> str:
    """What a configuration states of anchors that bpr has not; "" where there is nothing."""
    if stated.strides in (None, STRIDES):
        return ""
    return f"expected anchors at strides {STRIDES}, got {stated.strides}"


def _normalisations(values: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Dicts that say how images are normalised: mmdetection 3's, then 2's, then of a pipeline."""
    model = _mapping(values.get("model"))
    for found in (model.get("data_preprocessor"), values.get("img_norm_cfg")):
        if "mean" in _mapping(found):
            yield _mapping(found)
    pending: list[Any] = list(values.values())
    while pending:
        item = pending.pop(0)
        if isinstance(item, dict):
            if item.get("type") == "Normalize" and "mean" in item:
                yield item
            pending += item.values()
        elif isinstance(item, list | tuple):
            pending += item


def _value(node: ast.expr) -> Any:
    """A literal, with `dict(a=1)` for one; None for anything else."""
    if isinstance(node, ast.Call):
        if not (isinstance(node.func, ast.Name) and node.func.id == "dict"):
            return None
        return {item.arg: _value(item.value) for item in node.keywords if item.arg is not None}
    if isinstance(node, ast.Dict):
        return {
            key.value: _value(value)
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant)
        }
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _numbers(value: Any) -> tuple[float, ...] | None:
    if isinstance(value, list) and all(isinstance(item, int | float) for item in value):
        return tuple(float(item) for item in value)
    return None
