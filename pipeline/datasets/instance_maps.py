"""Ground truth as instance maps: PNGs with 0 background, k instance, 255 not scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bpr.pipeline.datasets.ground_truth import AnnotatedImage, Annotation, ignored_pixels
from bpr.pipeline.datasets.png_files import PngFiles
from bpr.pipeline.datasets.precision_rules import COCO
from bpr.pipeline.formats.images import IGNORE, InstanceMap, read_instance_map
from bpr.pipeline.instance import Mask


class InstanceMaps(PngFiles):
    """One PNG per image, 8 bits (palette or grey) or 16; its values number the objects.

    With 16 bits, 255 is an object like others: only 8-bit maps have ignored pixels.

    Args:
        path: a folder, or one PNG.

    Raises:
        ValueError: no PNG is there, or two for one image.
    """

    kind = "instance maps"
    categories: Mapping[int, str] | None = None
    boundary_ratio = 0.02
    rules = COCO

    def __init__(self, path: Path) -> None:
        files = sorted(path.rglob("*.png")) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path}: expected instance maps (*.png), found none")
        super().__init__(files, path)

    def read(self, key: str) -> AnnotatedImage:
        """One annotation per value, in order of the values."""
        path = self._files[key]
        values = read_instance_map(path)
        ignored = ignored_pixels(values == IGNORE) if values.dtype == np.uint8 else None
        annotations = [
            Annotation(mask=mask, label=0, id=value)
            for value, mask in split_instances(values)
            if not (value == IGNORE and values.dtype == np.uint8)
        ]
        return AnnotatedImage(values.shape[:2], tuple(annotations), ignored)


def split_instances(values: InstanceMap) -> list[tuple[int, Mask]]:
    """Each value of a map but 0, in order, with the mask of its pixels.

    The time follows the map and the instances' windows, not their product.
    """
    if values.size == 0:
        return []
    ys, xs = np.nonzero(values)
    found = values[ys, xs].astype(np.int64)
    order = np.argsort(found, kind="stable")
    found, ys, xs = found[order], ys[order], xs[order]
    starts = np.flatnonzero(np.diff(found, prepend=found[:1] - 1))
    if starts.size == 0:
        return []
    size = (values.shape[0], values.shape[1])
    x0s, x1s = np.minimum.reduceat(xs, starts), np.maximum.reduceat(xs, starts) + 1
    ends = np.append(starts[1:], len(ys)) - 1
    instances = []
    # rows come in order, columns do not
    for value, x0, y0, x1, y1 in zip(
        found[starts].tolist(), x0s.tolist(), ys[starts].tolist(), x1s.tolist(),
        (ys[ends] + 1).tolist(), strict=True,
    ):  # fmt: skip
        bitmap = values[y0:y1, x0:x1] == value
        instances.append((value, Mask(bitmap, (x0, y0, x1, y1), size)))
    return instances
