"""Which detectors there are: the published configurations by name, and a small one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from bpr.detector.schedule import Schedule

TIMM = {"efficientnet_lite0": "tf_efficientnet_lite0"}
"""Backbones that torchvision lacks: our name -> timm's."""

Library = Literal["detectron2", "mmdetection", "torchvision"]

CITYSCAPES_EPOCH = 2965  # steps of 8 images: each of the 2965 images with objects, 8 times


@dataclass(frozen=True)
class Conventions:
    """What a code base does to pixels, anchors and boxes.

    Weights only work with the conventions that they were trained under.

    Source: detectron2, mmdetection 2.3 and torchvision; tests/golden/detectors/README.md.
    """

    # whose sizes, resizing, pooling, matching, mask targets and normalised losses hold
    library: Library = "detectron2"
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of RGB in [0, 1]
    image_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    stride_in_1x1: bool = False  # where a block of the ResNet halves its input
    # Which proposals are looked at, and which of two stays: by logit; else by probability, where
    # large ones are equal
    top_by_logit: bool = True
    nms_by_logit: bool = True
    clamp_shrinking: bool = False  # boxes shrink at most as much as they grow
    min_detection: float = 0.0  # pixels; detections with a side below it are dropped
    norm_eps: float = 1e-5
    rpn_beta: float = 0.0  # where the loss of boxes turns from L2 to L1; 0 is L1


DETECTRON2 = Conventions(image_std=(1 / 255, 1 / 255, 1 / 255), stride_in_1x1=True)
DETECTRON2_RESNEXT = Conventions()
MMDETECTION = Conventions(
    "mmdetection",
    top_by_logit=False,
    nms_by_logit=False,
    clamp_shrinking=True,
)
TORCHVISION = Conventions(
    "torchvision",
    nms_by_logit=False,
    min_detection=1e-2,
    rpn_beta=1 / 9,
)


@dataclass(frozen=True)
class Preset:
    """A detector and its training. Sides and sizes are in pixels."""

    schedule: Schedule
    mask_branch: Literal["fcn", "bmask", "refinemask", "simple_refinemask"] = "fcn"
    cascade: bool = False  # three box stages instead of one
    backbone: str = "resnet50"  # a function of torchvision.models.resnet, or a name of TIMM
    conventions: Conventions = DETECTRON2
    data: Literal["coco", "cityscapes", "lvis", "any"] = "coco"  # what it was made for
    norm: Literal["frozen", "affine", "group"] = "frozen"  # affine: statistics are frozen
    head_norm: Literal["none", "affine", "group"] = "none"  # in pyramid, box and mask heads
    frozen_stages: int = 2  # of stem and four stages of the backbone, from the first
    channels: int = 256  # of the pyramid
    box_features: int = 1024
    box_convolutions: int = 0  # before the fully connected layers of the box head
    rpn_convolutions: int = 1
    agnostic_last_stage: bool = False  # RefineMask: one mask for all categories at 112 x 112
    train_sizes: Sequence[int] = (800,)  # shorter sides, one drawn for each image
    test_size: int = 800  # shorter side
    max_size: int = 1333  # longer side, never exceeded
    train_proposals: int = 1000  # of an image; 1000 in inference
    train_samples: int = 512  # of these and the objects, for the second stage
    train_on_predicted_boxes: bool = False  # masks learn in boxes of the box head
    box_loss_weight: float = 1.0  # of categories and boxes in the second stage
    box_beta: float = 0.0  # as rpn_beta
    score: float = 0.05  # detections need more, in [0, 1]
    nms_iou: float = 0.5  # of two detections of a category with more, one stays
    detections: int = 100  # of an image, at most


def _detectron2(rounds: Literal["1x", "3x"], **fields: Any) -> Preset:
    steps, *drops = {"1x": (90_000, 60_000, 80_000), "3x": (270_000, 210_000, 250_000)}[rounds]
    schedule = Schedule(steps, 16, 0.02, tuple(drops), clip_norm=math.inf)
    return replace(Preset(schedule, train_sizes=range(640, 801, 32)), **fields)


def _detectron2_cityscapes(**fields: Any) -> Preset:
    return replace(
        Preset(
            Schedule(24_000, 8, 0.01, (18_000,), clip_norm=math.inf),
            data="cityscapes",
            train_sizes=range(800, 1025, 32),
            test_size=1024,
            max_size=2048,
        ),
        **fields,
    )


def _bmask(preset: Preset, **fields: Any) -> Preset:
    return replace(preset, mask_branch="bmask", train_on_predicted_boxes=True, **fields)


def _cascade(preset: Preset) -> Preset:
    return replace(preset, cascade=True, train_proposals=2000, train_on_predicted_boxes=False)


def _mmdetection(epochs: Literal[12, 24], **fields: Any) -> Preset:
    epoch = 117_266 // 16  # COCO's images with objects, 16 a step
    drops = {12: (8, 11), 24: (16, 22)}[epochs]
    schedule = Schedule(
        epochs * epoch, 16, 0.02, tuple(drop * epoch for drop in drops), 500, clip_norm=math.inf
    )
    return replace(Preset(schedule, conventions=MMDETECTION, norm="affine"), **fields)


def _refinemask(epochs: Literal[12, 24], **fields: Any) -> Preset:
    plain = _mmdetection(epochs)
    return replace(
        plain,
        schedule=replace(plain.schedule, clip_norm=35.0),
        mask_branch="refinemask",
        box_loss_weight=2.0,
        **fields,
    )


_TORCHVISION_V1 = Preset(
    # references/detection: 26 epochs
    Schedule(26 * 7330, 16, 0.02, (16 * 7330, 22 * 7330), clip_norm=math.inf),
    conventions=TORCHVISION,
    train_proposals=2000,
    box_beta=1 / 9,
)
# to load its weights: rounds are as long as COCO's, and rare categories are not repeated
_REFINEMASK_LVIS = _refinemask(
    12,
    data="lvis",
    agnostic_last_stage=True,
    train_sizes=range(640, 801, 32),
    score=1e-4,
    detections=300,
)
_MASK_R50 = _detectron2("1x")
_BMASK_R50 = _bmask(_MASK_R50, train_sizes=(800,))

PRESETS: Mapping[str, Preset] = {
    "small": Preset(
        Schedule(12_000, 8, 0.02, (9_000, 11_000), warmup_steps=500, clip_norm=10.0),
        backbone="resnet18",
        conventions=Conventions(),
        data="any",
        norm="group",
        head_norm="group",
        frozen_stages=0,
        channels=128,
        box_features=512,
        train_sizes=range(256, 417, 32),
        test_size=320,
        max_size=640,
    ),
    # for a CPU, and a few hundred photographs: wants an ImageNet backbone to start from
    "lite": Preset(
        Schedule(12_000, 4, 0.01, (9_000, 11_000), warmup_steps=300, clip_norm=10.0),
        backbone="efficientnet_lite0",
        conventions=Conventions(image_mean=(0.5,) * 3, image_std=(0.5,) * 3),
        data="any",
        norm="affine",
        head_norm="group",
        channels=128,
        box_features=512,
        train_sizes=range(160, 257, 16),
        test_size=224,
        max_size=400,
        train_proposals=300,
        train_samples=96,
    ),
    "mask_rcnn_R_50_FPN_1x": _MASK_R50,
    "mask_rcnn_R_50_FPN_3x": _detectron2("3x"),
    "mask_rcnn_R_101_FPN_3x": _detectron2("3x", backbone="resnet101"),
    "mask_rcnn_X_101_32x8d_FPN_3x": _detectron2(
        "3x", backbone="resnext101_32x8d", conventions=DETECTRON2_RESNEXT
    ),
    "mask_rcnn_R_50_FPN_cityscapes": _detectron2_cityscapes(),
    "cascade_mask_rcnn_R_50_FPN_1x": _cascade(_MASK_R50),
    "cascade_mask_rcnn_R_50_FPN_3x": _cascade(_detectron2("3x")),
    "bmask_rcnn_R_50_FPN_1x": _BMASK_R50,
    "bmask_rcnn_R_101_FPN_1x": replace(_BMASK_R50, backbone="resnet101"),
    "bmask_rcnn_R_101_FPN_3x": _bmask(_detectron2("3x"), backbone="resnet101", train_sizes=(800,)),
    "bmask_rcnn_R_50_FPN_cityscapes": _bmask(_detectron2_cityscapes()),
    "cascade_bmask_rcnn_R_50_FPN_1x": _cascade(_BMASK_R50),
    "cascade_bmask_rcnn_R_101_FPN_1x": _cascade(replace(_BMASK_R50, backbone="resnet101")),
    "mask_rcnn_r50_fpn_1x_coco": _mmdetection(12),
    "mask_rcnn_r50_fpn_2x_coco": _mmdetection(24),
    "mask_rcnn_r101_fpn_1x_coco": _mmdetection(12, backbone="resnet101"),
    "mask_rcnn_r101_fpn_2x_coco": _mmdetection(24, backbone="resnet101"),
    "refinemask_r50_1x": _refinemask(12),
    "refinemask_r50_2x": _refinemask(24),
    "refinemask_r50_1x_faster_better": replace(
        _refinemask(12), mask_branch="simple_refinemask", agnostic_last_stage=True
    ),
    "refinemask_r101_1x": _refinemask(12, backbone="resnet101"),
    "refinemask_r101_2x": _refinemask(24, backbone="resnet101"),
    "refinemask_r50_cityscapes": replace(
        _refinemask(12),
        schedule=Schedule(
            8 * CITYSCAPES_EPOCH, 8, 0.01, (7 * CITYSCAPES_EPOCH,), 500, clip_norm=35.0
        ),
        data="cityscapes",
        box_beta=1.0,
        train_sizes=range(800, 1025),
        test_size=1024,
        max_size=2048,
    ),
    "refinemask_r50_lvis_1x": _REFINEMASK_LVIS,
    "refinemask_r101_lvis_1x": replace(_REFINEMASK_LVIS, backbone="resnet101"),
    "maskrcnn_resnet50_fpn": _TORCHVISION_V1,
    # torchvision sets this for its own first weights, which were trained that way
    "maskrcnn_resnet50_fpn_coco_v1": replace(
        _TORCHVISION_V1, conventions=replace(TORCHVISION, norm_eps=0.0)
    ),
    "maskrcnn_resnet50_fpn_v2": replace(
        _TORCHVISION_V1,
        norm="affine",
        head_norm="affine",
        box_convolutions=4,
        rpn_convolutions=2,
    ),
}
"""By the authors' name of the configuration; "small", to train from scratch, and "lite", ours."""


def find_preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"model: expected one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]
