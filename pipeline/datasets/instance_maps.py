"""Ground truth as instance maps: PNGs with 0 background, k instance, 255 not scored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bpr._paths import AnyPath
from bpr.pipeline.datasets.ground_truth import AnnotatedImage, Annotation, ignored_pixels
from bpr.pipeline.datasets.png_files import PngFiles
from bpr.pipeline.datasets.precision_rules import COCO
from bpr.pipeline.formats.images import IGNORE, read_instance_map
from bpr.pipeline.formats.label_maps import split_instances


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

    def __init__(self, path: AnyPath) -> None:
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
