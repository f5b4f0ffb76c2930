"""What a checkpoint is that bpr cannot run, in words."""

from __future__ import annotations

import re
from collections.abc import Iterable

DETECTORS = "Mask R-CNN, Cascade Mask R-CNN, BMask R-CNN or RefineMask with a feature pyramid"
"""The detectors that bpr runs."""

# the first whose pattern some name fits; those that others contain come later
_KNOWN = (
    (r"^(?:\d+\.)+(?:conv|cv1|cv2|m)\.", "a YOLO network"),
    (r"^transformer\.|^bbox_embed\.|^bbox_head\.(?:reg|cls)_branches\.", "a DETR"),
    (
        r"^sem_seg_head\.(?:predictor|pixel_decoder)\.|^panoptic_head\.|pixel_level_module\.",
        "a MaskFormer or Mask2Former",
    ),
    (r"(?:^|\.)(?:point_head|mask_point_head|coarse_head)\.", "a PointRend"),
    (r"^roi_head\.semantic_head\.", "a Hybrid Task Cascade (HTC)"),
    (r"mask_?iou_head\.", "a Mask Scoring R-CNN"),
    (r"conv2?_offset\.", "a network with deformable convolutions"),
    (r"(?:retina_cls|cls_subnet|classification_head)\.", "a RetinaNet"),
    (r"(?:kernel_convs|kernel_preds|solo_)", "a SOLO"),
    (r"(?:proto_?net|^proto)\.", "a YOLACT"),
    (r"^bbox_head\.", "a single-stage detector (FCOS, ATSS, SSD or a relative)"),
    (r"keypoint_(?:head|predictor)\.", "a Keypoint R-CNN without a mask branch"),
    (r"^backbone\.res\d", "an R-CNN without a feature pyramid (C4 or DC5)"),
    (r"^decode_head\.|^classifier\.4\.", "a network for semantic segmentation"),
)
_CLASSIFIER = re.compile(r"^(?:stem\.)?conv1[._]")
_MASKS = re.compile(r"mask_head|mask_branch|mask_predictor")
_BOXES = re.compile(r"^roi_heads?\.(?:box_head|box_predictor|bbox_head)\.(?:([012])\.)?")


def describe(names: Iterable[str]) -> str:
    """Say what a checkpoint with these tensors is, for a message after "got".

    Args:
        names: of its tensors.
    """
    names = list(names)
    boxes = [match for name in names if (match := _BOXES.search(name))]
    has_masks = any(_MASKS.search(name) for name in names)
    for pattern, words in _KNOWN:
        if any(re.search(pattern, name) for name in names):
            return words
    if boxes and not has_masks:
        cascade = any(match[1] == "2" for match in boxes)
        kind = "Cascade R-CNN" if cascade else "Faster R-CNN"
        return f"no mask branch: it is a {kind}, which finds boxes only"
    if any(_CLASSIFIER.match(name) for name in names):
        return (
            "a classifier's backbone; pass it to `bpr train-detector --start-from` to train a "
            "detector from it"
        )
    return "a network that is none of these"
