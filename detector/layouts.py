"""How other code bases name and order the tensors of a detector."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bpr.detector.presets import PRESETS, Preset

_Rule = tuple[str, str | Callable[[re.Match[str]], str]]

_LEFT = re.compile(
    r"num_batches_tracked$"  # only a moving average would read it
    # facts that the preset knows
    r"|^pixel_(mean|std)$|anchor_generator\.cell_anchors|^data_preprocessor\."
)
_BOXES = r"roi_heads.box_stages.{}.{}"


def _numbered(template: str, shift: int) -> Callable[[re.Match[str]], str]:
    """Put groups into a template, the first one as a number that is moved."""
    return lambda match: template.format(int(match[1]) + shift, *match.groups()[1:])


def _stage(part: str, names: Mapping[str, str]) -> Callable[[re.Match[str]], str]:
    """A layer of the box stage whose number is in group 1, if it has one."""
    return lambda match: _BOXES.format(match[1] or "0", f"{part}.{names[match[2]]}.")


_FC = {"1": "fc6", "2": "fc7"}
_SAME = {name: name for name in ("cls_score", "bbox_pred")}

_DETECTRON2: list[_Rule] = [
    (r"^backbone\.bottom_up\.stem\.conv1\.norm\.", "backbone.body.bn1."),
    (r"^backbone\.bottom_up\.stem\.", "backbone.body."),
    (r"^backbone\.bottom_up\.res(\d)\.(.*)$", _numbered("backbone.body.layer{}.{}", -1)),
    (r"(layer\d\.\d+)\.conv(\d)\.norm\.", r"\1.bn\2."),
    (r"(layer\d\.\d+)\.shortcut\.norm\.", r"\1.downsample.1."),
    (r"(layer\d\.\d+)\.shortcut\.", r"\1.downsample.0."),
    (r"^backbone\.fpn_lateral(\d)\.(.*)$", _numbered("backbone.fpn.inner_blocks.{}.0.{}", -2)),
    (r"^backbone\.fpn_output(\d)\.(.*)$", _numbered("backbone.fpn.layer_blocks.{}.0.{}", -2)),
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn.head.conv.0.0."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.head.cls_logits."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.head.bbox_pred."),
    (r"^roi_heads\.box_head\.(?:(\d)\.)?fc([12])\.", _stage("head", _FC)),
    (
        r"^roi_heads\.box_predictor\.(?:(\d)\.)?(cls_score|bbox_pred)\.",
        _stage("predictor", _SAME),
    ),
]
_MMDETECTION: list[_Rule] = [
    (r"^backbone\.", "backbone.body."),
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"backbone.fpn.inner_blocks.\1.0."),
    (r"^neck\.fpn_convs\.(\d)\.conv\.", r"backbone.fpn.layer_blocks.\1.0."),
    (r"^rpn_head\.rpn_conv\.", "rpn.head.conv.0.0."),
    (r"^rpn_head\.rpn_cls\.", "rpn.head.cls_logits."),
    (r"^rpn_head\.rpn_reg\.", "rpn.head.bbox_pred."),
    (
        r"^roi_head\.bbox_head\.(?:(\d)\.)?shared_fcs\.([01])\.",
        _stage("head", {"0": "fc6", "1": "fc7"}),
    ),
    (
        r"^roi_head\.bbox_head\.(?:(\d)\.)?(fc_cls|fc_reg)\.",
        _stage("predictor", {"fc_cls": "cls_score", "fc_reg": "bbox_pred"}),
    ),
]
_TORCHVISION: list[_Rule] = [
    # files from before version 0.13 lack a level
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (
        r"^roi_heads\.mask_head\.mask_fcn(\d)\.(.*)$",
        _numbered("roi_heads.mask_branch.mask_head.{}.0.{}", -1),
    ),
    (r"^roi_heads\.(mask_head|mask_predictor)\.", r"roi_heads.mask_branch.\1."),
    (r"^roi_heads\.box_(head|predictor)\.", r"roi_heads.box_stages.0.\1."),
    (r"^roi_heads\.keypoint_(head|predictor)\.", r"roi_heads.points.\1."),
]
_FCN_OF: dict[str, list[_Rule]] = {
    "detectron2": [
        (
            r"^roi_heads\.mask_head\.mask_fcn(\d)\.(.*)$",
            _numbered("roi_heads.mask_branch.mask_head.{}.0.{}", -1),
        ),
        (
            r"^roi_heads\.mask_head\.deconv\.",
            "roi_heads.mask_branch.mask_predictor.conv5_mask.",
        ),
        (
            r"^roi_heads\.mask_head\.predictor\.",
            "roi_heads.mask_branch.mask_predictor.mask_fcn_logits.",
        ),
    ],
    "mmdetection": [
        *(
            (
                rf"^roi_head\.mask_head\.(\d)\.{theirs}\.",
                rf"roi_heads.mask_branch.stages.\1.{own}.",
            )
            for theirs, own in (
                ("upsample", "mask_predictor.conv5_mask"),
                ("conv_logits", "mask_predictor.mask_fcn_logits"),
            )
        ),
        (
            r"^roi_head\.mask_head\.(\d)\.convs\.(\d)\.conv\.",
            r"roi_heads.mask_branch.stages.\1.mask_head.\2.0.",
        ),
        (
            r"^roi_head\.mask_head\.convs\.(\d)\.conv\.",
            r"roi_heads.mask_branch.mask_head.\1.0.",
        ),
        (
            r"^roi_head\.mask_head\.upsample\.",
            "roi_heads.mask_branch.mask_predictor.conv5_mask.",
        ),
        (
            r"^roi_head\.mask_head\.conv_logits\.",
            "roi_heads.mask_branch.mask_predictor.mask_fcn_logits.",
        ),
    ],
    "torchvision": [],
}
_RULES = {"detectron2": _DETECTRON2, "mmdetection": _MMDETECTION, "torchvision": _TORCHVISION}
_MARKS = {
    "detectron2": "backbone.bottom_up.",
    "mmdetection": "neck.",
    "torchvision": "backbone.body.",
}
_CLASSES = {
    "detectron2": r"^roi_heads\.box_predictor\.(?:0\.)?cls_score\.bias$",
    "mmdetection": r"^roi_head\.bbox_head\.(?:0\.)?fc_cls\.bias$",
    "torchvision": r"^roi_heads\.box_predictor\.cls_score\.bias$",
}


@dataclass(frozen=True, eq=False)
class Converted:
    """Tensors in our layout, and how they got there."""

    tensors: Mapping[str, Tensor]
    renamed: Mapping[str, str]  # name in the file -> ours
    left_over: tuple[str, ...]  # names in the file that no detector needs
    unknown: tuple[str, ...]  # names in the file that mean nothing to us


def find_layout(keys: Iterable[str]) -> str | None:
    """Whose checkpoint has these names: detectron2, mmdetection, torchvision, or nobody's."""
    names = list(keys)
    for layout, mark in _MARKS.items():
        if any(name.startswith(mark) for name in names):
            return layout
    return None


def count_categories(tensors: Mapping[str, Tensor], layout: str) -> int:
    """How many categories a checkpoint knows, background not counted; 0 if it cannot be seen."""
    for name, tensor in tensors.items():
        if re.match(_CLASSES[layout], name) and tensor.ndim == 1:
            return len(tensor) - 1
    return 0


def is_detector(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint has the parts of a detector with masks, in some known layout."""
    layout = find_layout(tensors)
    masks = any(re.match(r"^roi_heads?\.(mask_head|mask_predictor)\.", name) for name in tensors)
    return layout is not None and masks and count_categories(tensors, layout) > 0


def recognise(tensors: Mapping[str, Tensor], layout: str) -> str | None:
    """The first preset whose tensors match. Schedules (1x, 3x) cannot be told from weights.

    Args:
        tensors: of the file.
        layout: of `find_layout`.
    """
    names = set(tensors)
    categories = count_categories(tensors, layout)
    data = {8: "cityscapes", 1203: "lvis", 1230: "lvis"}.get(categories, "coco")
    traits = {
        "mask_branch": _branch(names),
        "cascade": _is_cascade(names),
        "backbone": _backbone(tensors),
        "head_norm": "affine" if _has_norms_in_heads(names) else "none",
    }
    if categories > 1:  # with one there is nothing to be agnostic of
        traits["agnostic_last_stage"] = _has_one_last_map(tensors)
    fitting = [
        name
        for name, preset in PRESETS.items()
        if layout_of(preset) == layout
        and all(getattr(preset, trait) == value for trait, value in traits.items())
    ]
    return next((name for name in fitting if PRESETS[name].data == data), next(iter(fitting), None))


def layout_of(preset: Preset) -> str:
    """In whose layout weights of a preset were published; ours are in none."""
    if preset.data == "any":
        return ""
    return preset.conventions.library


def convert(tensors: Mapping[str, Tensor], layout: str, bgr: bool | None = None) -> Converted:
    """Rename and reorder tensors.

    Channels of the first convolution become RGB, background comes first, and the plain mask
    branch gets a map for the background, as torchvision has them.

    Args:
        tensors: of the file.
        layout: of `find_layout`.
        bgr: whether the network has learned from BGR; None: what its code base does by default.
    """
    bgr = layout == "detectron2" if bgr is None else bgr
    rows = _rows_by_category(tensors, layout)
    rules = [*_RULES[layout], *_mask_rules(layout, _branch(set(tensors)))]
    own: dict[str, Tensor] = {}
    renamed, left, unknown = {}, [], []
    for name, tensor in tensors.items():
        if _LEFT.search(name):
            left.append(name)
            continue
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if not new.startswith(("backbone.body.", "backbone.fpn.", "rpn.head.")) and not re.match(
            r"roi_heads\.(box_stages|mask_branch|points)\.", new
        ):
            unknown.append(name)
            continue
        own[new] = _reordered(new, tensor, layout, rows, bgr)
        renamed[name] = new
    return Converted(own, renamed, tuple(left), tuple(unknown))


def _rows_by_category(tensors: Mapping[str, Tensor], layout: str) -> Mapping[str, int]:
    """Parts of our names -> rows that all categories have in them together."""
    categories = count_categories(tensors, layout)
    maps = 1 if has_agnostic_masks(tensors, layout) else categories
    if _is_cascade(tensors):  # whose boxes are the same for all
        return {".mask_fcn_logits.": maps}
    return {".mask_fcn_logits.": maps, ".predictor.bbox_pred.": 4 * categories}


def _reordered(
    name: str, tensor: Tensor, layout: str, rows: Mapping[str, int], bgr: bool
) -> Tensor:
    """A tensor in our order of channels and categories; `rows` of `_rows_by_category`."""
    if bgr and name == "backbone.body.conv1.weight" and tensor.ndim == 4:
        return tensor.flip(1)
    if layout == "torchvision" or not tensor.ndim:
        return tensor
    if ".predictor.cls_score." in name:
        return tensor.roll(1, 0)  # their background is the last
    for part, count in rows.items():
        if part in name and len(tensor) == count:
            each = 4 if "bbox_pred" in part else 1
            background = tensor.new_zeros((each, *tensor.shape[1:]))
            return torch.cat([background, tensor])
    return tensor


def _mask_rules(layout: str, branch: str) -> list[_Rule]:
    if branch in ("fcn", "cascade_fcn"):
        return _FCN_OF[layout]
    return [(r"^roi_heads?\.mask_head\.", "roi_heads.mask_branch.head.")]


def _is_cascade(names: Iterable[str]) -> bool:
    return any(re.search(r"(box_predictor|bbox_head)\.2\.", name) for name in names)


def _branch(names: set[str]) -> str:
    if any(name.endswith("mask_head.boundary_predictor.weight") for name in names):
        return "bmask"
    if any(name.endswith("mask_head.semantic_logits.weight") for name in names):
        return "refinemask"
    if any(name.endswith("mask_head.stage_instance_logits.0.weight") for name in names):
        return "simple_refinemask"
    if any(".mask_head.2.convs." in name for name in names):
        return "cascade_fcn"
    return "fcn"


def has_agnostic_masks(tensors: Mapping[str, Tensor], layout: str) -> bool:
    """A plain or BMask branch draws one mask for all categories, where there are several."""
    if count_categories(tensors, layout) < 2:
        return False
    own = 2 if layout == "torchvision" else 1  # torchvision has a map for the background
    last = r"(mask_head\.(\d\.)?(predictor|conv_logits|mask_predictor)|mask_fcn_logits)\.bias$"
    return any(re.search(last, name) and t.numel() == own for name, t in tensors.items())


def _has_one_last_map(tensors: Mapping[str, Tensor]) -> bool:
    """RefineMask's last stage draws one mask for all categories, where there are several."""
    last = r"mask_head\.(final_instance_logits|stage_instance_logits\.3)\.bias$"
    return any(re.search(last, name) and t.numel() == 1 for name, t in tensors.items())


def _backbone(tensors: Mapping[str, Tensor]) -> str:
    """From the number of blocks in the third stage, and the width of the first."""
    blocks = {
        int(match[1])
        for name in tensors
        if (match := re.match(r"^backbone\..*(?:res4|layer3)\.(\d+)\.conv1\.weight$", name))
    }
    for name, tensor in tensors.items():
        first = re.match(r"^backbone\..*(?:res2|layer1)\.0\.conv2\.weight$", name)
        if first and tensor.ndim == 4 and tensor.shape[1] < tensor.shape[0]:
            shape = len(blocks), tensor.shape[0] // tensor.shape[1], tensor.shape[1]
            known = {(23, 32, 8): "resnext101_32x8d", (23, 32, 4): "resnext101_32x4d"}
            return known.get(shape, "another ResNeXt")
    return {6: "resnet50", 23: "resnet101"}.get(len(blocks), "another ResNet")


def _has_norms_in_heads(names: set[str]) -> bool:
    return any(re.match(r"^backbone\.fpn\..*running_mean$", name) for name in names)
