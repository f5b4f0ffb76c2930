"""Refined masks as a second label field of a FiftyOne data set, and the two side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bpr.pipeline.adapters.fiftyone import CHANGED
from bpr.pipeline.adapters.refiner import Refiner
from bpr.pipeline.formats.images import read_image


def add_refined_field(samples: Any, field: str, refined_field: str, refiner: Refiner) -> list[str]:
    """Refine the detections in one field of all samples into another field.

    Args:
        samples: a fiftyone.Dataset or a view of one (or any samples, which are then not saved).
        field: with Detections that have masks; samples without Detections are skipped.
        refined_field: gets the refined ones.
        refiner: of `load_refiner`.

    Returns:
        What was left out, and why: images that cannot be read, masks that do not fit.
    """
    failures = []
    can_save = hasattr(samples, "iter_samples")
    for sample in samples.iter_samples(autosave=True, progress=True) if can_save else samples:
        detections = sample[field]
        if detections is None:
            continue
        path = sample.filepath
        try:
            image = read_image(Path(path)).pixels
            sample[refined_field] = refiner(image, detections)
        except ValueError as error:
            failures.append(str(error) if str(error).startswith(path) else f"{path}: {error}")
    return failures


def open_comparison(samples: Any, field: str, refined_field: str) -> Any:
    """Open FiftyOne's App on both fields, the samples that have changed most first.

    Args:
        samples: a fiftyone.Dataset or a view of one.
        field: coarse masks.
        refined_field: of `add_refined_field`.

    Returns:
        The App's session; `session.wait()` keeps a script from ending.
    """
    import fiftyone
    from fiftyone import ViewField

    changed = ViewField(f"{refined_field}.detections.{CHANGED}").sum()
    view = samples.exists(refined_field).sort_by(changed, reverse=True)
    view = view.select_fields([field, refined_field])
    return fiftyone.launch_app(view)
