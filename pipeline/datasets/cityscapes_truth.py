"""Ground truth as a Cityscapes gtFine folder: `<image>_gtFine_instanceIds.png`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bpr._extras import needs_extra
from bpr._paths import AnyPath
from bpr.pipeline.datasets.ground_truth import AnnotatedImage, Annotation, ignored_pixels
from bpr.pipeline.datasets.png_files import PngFiles
from bpr.pipeline.datasets.precision_rules import CITYSCAPES
from bpr.pipeline.formats.images import read_instance_map
from bpr.pipeline.formats.mask_values import distinct
from bpr.pipeline.instance import Mask

PATTERN = "*_gtFine_instanceIds.png"
_FIRST_INSTANCE = 1000  # smaller values are label ids: one object or a group, nobody knows


class CityscapesTruth(PngFiles):
    """Values of at least 1000 are objects of the label value // 1000.

    Smaller values are label ids. Those of labels with instances are groups (`is_crowd`); those
    that the benchmark does not evaluate (void) are ignored pixels; the rest is background.

    Args:
        folder: holds the PNGs, subfolders included.

    Raises:
        ValueError: there is no such PNG, or two for one image.
    """

    kind = "Cityscapes gtFine"
    boundary_ratio = 0.005
    rules = CITYSCAPES

    def __init__(self, folder: AnyPath) -> None:
        files = sorted(folder.rglob(PATTERN))
        if not files:
            raise ValueError(f"{folder}: expected files {PATTERN}, found none")
        super().__init__(files, folder)
        with needs_extra("Cityscapes ground truth"):
            from cityscapesscripts.helpers.labels import labels
        self._known = {label.id for label in labels}
        self._void = [label.id for label in labels if label.ignoreInEval and label.id >= 0]
        self.categories: Mapping[int, str] = {
            label.id: label.name
            for label in labels
            if label.hasInstances and not label.ignoreInEval
        }

    def read(self, key: str) -> AnnotatedImage:
        """The objects and groups of the evaluated labels, in order of their values."""
        path = self._files[key]
        values = read_instance_map(path)
        annotations = []
        for value in distinct(values):
            label = value if value < _FIRST_INSTANCE else value // _FIRST_INSTANCE
            if label not in self._known:
                raise ValueError(f"{path}: expected Cityscapes ids, got the value {value}")
            if label in self.categories:
                mask = Mask.from_array(values == value)
                annotations.append(
                    Annotation(mask=mask, label=label, id=value, is_crowd=value < _FIRST_INSTANCE)
                )
        if values.dtype == np.int64:
            raise ValueError(f"{path}: expected Cityscapes ids of 16 bits, got {values.max()}")
        is_void = np.zeros(2**16, np.bool_)
        is_void[self._void] = True
        ignore = ignored_pixels(is_void[values])
        return AnnotatedImage(values.shape[:2], tuple(annotations), ignore)
