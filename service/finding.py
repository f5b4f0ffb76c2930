"""The instances that a detector finds in an uploaded image, as if they had been uploaded too."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from bpr.pipeline.formats.images import Photograph
from bpr.pipeline.instance import Instance, Prediction
from bpr.service.inputs import MaskBudget, Patience, RequestInputs, count_up
from bpr.service.problems import unavailable
from bpr.service.settings import ServiceSettings

if TYPE_CHECKING:  # a service without a detector starts without PyTorch
    from bpr.pipeline.detection import InstanceDetector

logger = logging.getLogger(__name__)


def find_instances(
    photograph: Photograph, detector: InstanceDetector, limits: ServiceSettings, patience: Patience
) -> RequestInputs:
    """Detect; records say what was found. Beyond `max_instances` the best are taken.

    Raises:
        Problem: 413 masks of more pixels than the limit, 503 out of time or memory.
    """
    patience.check()
    height, width = photograph.pixels.shape[:2]
    budget = MaskBudget(limits)
    instances: list[Instance] = []
    try:
        for instance in islice(detector.instances(photograph.pixels), limits.max_instances):
            patience.check()
            budget.add(instance.mask.bitmap.size)
            record = {
                "category_id": instance.label,
                "category": detector.categories[instance.label],
                "score": instance.score,
            }
            instances.append(replace(instance, record=record))
    except (MemoryError, RuntimeError):
        logger.exception("the detector failed")
        raise unavailable(
            "The detector failed on this image. Try again, or a smaller one; the operator's log "
            "says why.",
            "detector_failed",
        ) from None
    prediction = Prediction((height, width), tuple(instances))
    return RequestInputs(
        image=photograph.pixels,
        prediction=prediction,
        notes=photograph.notes,
        values=count_up(prediction),
    )
