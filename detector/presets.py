"""Which detectors there are: the published configurations by name, and a small one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from bpr.detector.schedule import Schedule

TIMM = {"efficientnet_lite0": "tf_efficientnet_lite0"}
"""Backbones that torchvision lacks: our name -> timm's."""

RESNEXT = {"resnext101_32x4d": ((3, 4, 23, 3), 32, 4)}
"""ResNeXts that torchvision has no function for: blocks of each stage, groups, their width."""

Library = Literal["detectron2", "mmdetection", "torchvision"]

CITYSCAPES_EPOCH = 2965  # steps of 8 images: each of the 2965 images with objects, 8 times


@dataclass(frozen=True, kw_only=True)
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
    library="mmdetection",
    top_by_logit=False,
    nms_by_logit=False,
    clamp_shrinking=True,
)
TORCHVISION = Conventions(
    library="torchvision",
    nms_by_logit=False,
    min_detection=1e-2,
    rpn_beta=1 / 9,
)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A detector and its training. Sides and sizes are in pixels."""

    schedule: Schedule
    mask_branch: Literal["fcn", "cascade_fcn", "bmask", "refinemask", "simple_refinemask"] = "fcn"
    cascade: bool = False  # three box stages instead of one
    # a function of torchvision.models.resnet, a key of RESNEXT, or a name of TIMM
    backbone: str = "resnet50"
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
    agnostic_masks: bool = False  # one mask for all categories, in every mask branch
    # The ablations of RefineMask, tables 3 to 7 and 13 of its paper
    refine_stages: int = 3  # 1 to 4 after the mask of 14 x 14: 28, 56, 112 or 224 pixels
    # in the place of the fusion module: one convolution of 1 x 1 or 3 x 3, or three of 3 x 3
    fusion: Literal["sfm", "conv1", "conv3", "parallel"] = "sfm"
    supervised_stages: Literal["all", "last"] = "all"  # which masks have a loss
    semantic_head: bool = True  # whether masks see the image at full resolution
    boundary_refinement: bool = True  # whether late stages redraw the boundary alone
    # The boundary band: squares as in the authors' code, or distances as in the paper's equation 1
    band: Literal["squares", "distance"] = "squares"
    band_width: int = 2  # in training, in pixels of the mask, 1 to 3
    keypoints: int = 0  # points of an object that a keypoint head finds; 0 is no such head
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
    # share of the images below which a category's images are repeated in a round; 0 repeats none
    repeat_threshold: float = 0.0


def _detectron2(rounds: Literal["1x", "3x"], **fields: Any) -> Preset:
    steps, *drops = {"1x": (90_000, 60_000, 80_000), "3x": (270_000, 210_000, 250_000)}[rounds]
    schedule = Schedule(
        steps=steps, batch_size=16, learning_rate=0.02, drops=tuple(drops), clip_norm=math.inf
    )
    return replace(Preset(schedule=schedule, train_sizes=range(640, 801, 32)), **fields)


def _detectron2_cityscapes(**fields: Any) -> Preset:
    return replace(
        Preset(
            schedule=Schedule(
                steps=24_000, batch_size=8, learning_rate=0.01, drops=(18_000,), clip_norm=math.inf
            ),
            data="cityscapes",
            train_sizes=range(800, 1025, 32),
            test_size=1024,
            max_size=2048,
        ),
        **fields,
    )


def _cascade_mmdetection(epochs: Literal[12, 20], **fields: Any) -> Preset:
    """A mask head behind each box stage, and logits of categories averaged."""
    epoch = 117_266 // 16
    drops = {12: (8, 11), 20: (16, 19)}[epochs]
    plain = _mmdetection(12)
    schedule = replace(
        plain.schedule, steps=epochs * epoch, drops=tuple(drop * epoch for drop in drops)
    )
    changed = replace(plain, schedule=schedule, cascade=True, mask_branch="cascade_fcn", **fields)
    return replace(changed, train_proposals=2000, box_beta=1.0)


def _bmask(preset: Preset, **fields: Any) -> Preset:
    return replace(preset, mask_branch="bmask", train_on_predicted_boxes=True, **fields)


def _cascade(preset: Preset) -> Preset:
    return replace(preset, cascade=True, train_proposals=2000, train_on_predicted_boxes=False)


def _mmdetection(epochs: Literal[12, 24], **fields: Any) -> Preset:
    epoch = 117_266 // 16  # COCO's images with objects, 16 a step
    drops = {12: (8, 11), 24: (16, 22)}[epochs]
    schedule = Schedule(
        steps=epochs * epoch,
        batch_size=16,
        learning_rate=0.02,
        drops=tuple(drop * epoch for drop in drops),
        warmup_steps=500,
        clip_norm=math.inf,
    )
    return replace(Preset(schedule=schedule, conventions=MMDETECTION, norm="affine"), **fields)


def _refinemask(epochs: Literal[12, 24], **fields: Any) -> Preset:
    plain = _mmdetection(epochs)
    return replace(
        plain,
        schedule=replace(plain.schedule, clip_norm=35.0),
        mask_branch="refinemask",
        box_loss_weight=2.0,
        **fields,
    )


_COCO_EPOCH = 117_266 // 16
_3X: Mapping[str, Any] = {"steps": 36 * _COCO_EPOCH, "drops": (27 * _COCO_EPOCH, 33 * _COCO_EPOCH)}
_TORCHVISION_V1 = Preset(
    # references/detection: 26 epochs
    schedule=Schedule(
        steps=26 * 7330,
        batch_size=16,
        learning_rate=0.02,
        drops=(16 * 7330, 22 * 7330),
        clip_norm=math.inf,
    ),
    conventions=TORCHVISION,
    train_proposals=2000,
    box_beta=1 / 9,
)
# rounds are as long as COCO's
_REFINEMASK_LVIS = _refinemask(
    12,
    data="lvis",
    agnostic_last_stage=True,
    train_sizes=range(640, 801, 32),
    score=1e-4,
    detections=300,
    repeat_threshold=1e-3,
)
_REFINEMASK_3X = replace(
    _refinemask(12),
    schedule=replace(_refinemask(12).schedule, **_3X),
    train_sizes=range(640, 801),
)
_MASK_R50 = _detectron2("1x")
_X101: Mapping[str, Any] = {"backbone": "resnext101_32x4d"}
_BMASK_R50 = _bmask(_MASK_R50, train_sizes=(800,))

# for a CPU, and a few hundred photographs: start it from an ImageNet backbone
_LITE = Preset(
    schedule=Schedule(
        steps=12_000,
        batch_size=4,
        learning_rate=0.01,
        drops=(9_000, 11_000),
        warmup_steps=300,
        clip_norm=10.0,
    ),
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
)

PRESETS: Mapping[str, Preset] = {
    "small": Preset(
        schedule=Schedule(
            steps=12_000,
            batch_size=8,
            learning_rate=0.02,
            drops=(9_000, 11_000),
            warmup_steps=500,
            clip_norm=10.0,
        ),
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
    "lite": _LITE,
    # the same network on larger images, for a few thousand photographs
    "lite_320": replace(
        _LITE,
        schedule=Schedule(
            steps=40_000,
            batch_size=4,
            learning_rate=0.01,
            drops=(30_000, 37_000),
            warmup_steps=300,
            clip_norm=10.0,
        ),
        train_sizes=range(256, 385, 32),
        test_size=320,
        max_size=640,
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
    "cascade_mask_rcnn_R_101_FPN_3x": _cascade(_detectron2("3x", backbone="resnet101")),
    "cascade_mask_rcnn_X_101_32x8d_FPN_3x": _cascade(
        _detectron2("3x", backbone="resnext101_32x8d", conventions=DETECTRON2_RESNEXT)
    ),
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
    "mask_rcnn_x101_32x4d_fpn_1x_coco": _mmdetection(12, **_X101),
    "cascade_mask_rcnn_r50_fpn_1x_coco": _cascade_mmdetection(12),
    "cascade_mask_rcnn_r50_fpn_20e_coco": _cascade_mmdetection(20),
    "cascade_mask_rcnn_r101_fpn_1x_coco": _cascade_mmdetection(12, backbone="resnet101"),
    "cascade_mask_rcnn_r101_fpn_20e_coco": _cascade_mmdetection(20, backbone="resnet101"),
    "cascade_mask_rcnn_x101_32x4d_fpn_1x_coco": _cascade_mmdetection(12, **_X101),
    "cascade_mask_rcnn_x101_32x4d_fpn_20e_coco": _cascade_mmdetection(20, **_X101),
    "refinemask_r50_1x": _refinemask(12),
    "refinemask_r50_2x": _refinemask(24),
    "refinemask_r50_1x_faster_better": replace(
        _refinemask(12), mask_branch="simple_refinemask", agnostic_last_stage=True
    ),
    "refinemask_r101_1x": _refinemask(12, backbone="resnet101"),
    "refinemask_r101_2x": _refinemask(24, backbone="resnet101"),
    # the paper's table 1 and 8: X101 is 32x4d as in mmdetection; 3x with sides of 640 to 800
    "refinemask_x101_1x": _refinemask(12, **_X101),
    "refinemask_r50_3x": _REFINEMASK_3X,
    "refinemask_r101_3x": replace(_REFINEMASK_3X, backbone="resnet101"),
    "refinemask_x101_3x": replace(_REFINEMASK_3X, **_X101),
    "refinemask_r50_cityscapes": replace(
        _refinemask(12),
        schedule=Schedule(
            steps=8 * CITYSCAPES_EPOCH,
            batch_size=8,
            learning_rate=0.01,
            drops=(7 * CITYSCAPES_EPOCH,),
            warmup_steps=500,
            clip_norm=35.0,
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
"""By the authors' name of the configuration; "small", "lite" and "lite_320" are ours."""


def find_preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"model: expected one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


CHANGEABLE: Mapping[str, type | tuple[Any, ...]] = {
    "agnostic_masks": (True, False),
    "refine_stages": (1, 2, 3, 4),
    "fusion": ("sfm", "conv1", "conv3", "parallel"),
    "supervised_stages": ("all", "last"),
    "semantic_head": (True, False),
    "boundary_refinement": (True, False),
    "band": ("squares", "distance"),
    "band_width": (1, 2, 3),
    "keypoints": int,
    "stride_in_1x1": (True, False),
    "image_mean": tuple,
    "image_std": tuple,
}
"""Fields of a preset or its conventions that weights may have otherwise, and their values."""


def change_preset(preset: Preset, changes: Mapping[str, Any]) -> Preset:
    """A preset with other values in some fields of `CHANGEABLE`.

    Args:
        preset: what is changed.
        changes: values by name, as json has them: a list stands for a tuple of three numbers.

    Raises:
        ValueError: a field cannot be changed, or not to this value.
    """
    for name, value in changes.items():
        known = CHANGEABLE.get(name)
        if known is None:
            raise ValueError(f"change: expected one of {', '.join(CHANGEABLE)}, got {name!r}")
        if isinstance(known, tuple):
            is_fit = any(type(value) is type(other) and value == other for other in known)
            expected = f"one of {', '.join(map(str, known))}"
        elif known is int:
            is_fit = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            expected = "an int >= 0"
        else:
            is_fit = (
                isinstance(value, list | tuple)
                and len(value) == 3
                and all(isinstance(item, int | float) for item in value)
            )
            expected = "three numbers"
        if not is_fit:
            raise ValueError(f"{name}: expected {expected}, got {value!r}")
    own = {field.name for field in fields(Preset)}
    of_preset: dict[str, Any] = {}
    of_conventions: dict[str, Any] = {}
    for name, value in changes.items():
        kept = tuple(value) if isinstance(value, list) else value
        (of_preset if name in own else of_conventions)[name] = kept
    changed = replace(
        preset, conventions=replace(preset.conventions, **of_conventions), **of_preset
    )
    if changed.supervised_stages == "last" and changed.boundary_refinement:
        raise ValueError(
            "supervised_stages: expected boundary_refinement false with 'last', because it joins "
            "the masks of all stages"
        )
    return changed
