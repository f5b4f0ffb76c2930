"""The adapter for an object."""

from __future__ import annotations

from typing import Any

from bpr.pipeline.adapters.adapter import Adapter
from bpr.pipeline.adapters.coco import RecordsAdapter, RLEAdapter
from bpr.pipeline.adapters.detectron2 import Detectron2Adapter
from bpr.pipeline.adapters.fiftyone import FiftyOneAdapter
from bpr.pipeline.adapters.lists import ListAdapter, MaskListAdapter, MaskRecordsAdapter
from bpr.pipeline.adapters.mmdetection import MMDetectionAdapter
from bpr.pipeline.adapters.stacks import StackAdapter, TupleAdapter
from bpr.pipeline.adapters.supervision import SupervisionAdapter
from bpr.pipeline.adapters.torchvision import TorchvisionAdapter
from bpr.pipeline.adapters.transformers import TransformersAdapter
from bpr.pipeline.adapters.ultralytics import UltralyticsAdapter

# those that go by a type's name before those that go by structure
ADAPTERS: tuple[Adapter, ...] = (
    SupervisionAdapter(),
    FiftyOneAdapter(),
    MMDetectionAdapter(),
    UltralyticsAdapter(),
    TransformersAdapter(),
    TorchvisionAdapter(),
    Detectron2Adapter(),
    RLEAdapter(),
    RecordsAdapter(),
    MaskListAdapter(),
    MaskRecordsAdapter(),
    TupleAdapter(),
    ListAdapter(),
    StackAdapter(),
)

_KINDS = (
    "an array or tensor (N, H, W), a list of (H, W) masks, supervision.Detections, a torchvision "
    "dict, detectron2 "
    "Instances, mmdetection InstanceData, ultralytics Results, transformers segments, fiftyone "
    "Detections, or a list of RLEs or COCO records"
)


def find_adapter(masks: Any) -> Adapter:
    """The adapter that takes an object.

    Raises:
        ValueError: none does.
    """
    for adapter in ADAPTERS:
        if adapter.accepts(masks):
            return adapter
    advice = ""
    if isinstance(masks, (list, tuple)) and any(a.accepts(masks[0]) for a in ADAPTERS):
        advice = f" of {type(masks[0]).__name__}; refine one image at a time, with masks[0]"
    raise ValueError(f"masks: expected {_KINDS}, got {type(masks).__name__}{advice}")
