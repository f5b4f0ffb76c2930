"""Keypoints of a COCO json: points of objects, such as a person's joints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bpr._paths import AnyPath
from bpr.pipeline.formats.text import load_json
from bpr.pipeline.instance import Float64Array


@dataclass(frozen=True, eq=False)
class Keypoints:
    """The keypoints of a data set."""

    names: tuple[str, ...]
    by_annotation: Mapping[int, Float64Array]
    """(K, 3) x, y in pixels and visibility (0 not labelled, 1 hidden, 2 visible), by id."""

    def mirrored(self) -> tuple[int, ...]:
        """Which point each one is in a mirrored image: left and right change places."""
        swap = {"left": "right", "right": "left"}
        places = {name: index for index, name in enumerate(self.names)}
        found = []
        for index, name in enumerate(self.names):
            side = next((side for side in swap if side in name), None)
            other = name if side is None else name.replace(side, swap[side])
            found.append(places.get(other, index))
        return tuple(found)


def read_keypoints(path: AnyPath, number: int) -> Keypoints:
    """Read the keypoints of a COCO json.

    Args:
        path: of the json.
        number: of points that an object must have, K.

    Raises:
        ValueError: no category has K keypoints, or an annotation has others.
    """
    content = load_json(path)
    categories = content.get("categories", []) if isinstance(content, dict) else []
    named = [c["keypoints"] for c in categories if len(c.get("keypoints", ())) == number]
    if not named:
        raise ValueError(f"{path}: expected a category with {number} keypoints, found none")
    found = {}
    for index, item in enumerate(content["annotations"]):
        values = item.get("keypoints")
        if values is None:
            continue
        points = np.asarray(values, np.float64)
        if points.shape != (3 * number,):
            raise ValueError(
                f"{path}, annotations, entry {index}: expected {number} keypoints of x, y and "
                f"visibility, got {points.size} numbers"
            )
        found[item["id"] if isinstance(item.get("id"), int) else index] = points.reshape(-1, 3)
    return Keypoints(tuple(named[0]), found)
