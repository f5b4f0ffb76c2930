"""torchvision's own Mask R-CNN, through our importer: the same output."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.roi_heads import paste_masks_in_image

from bpr.detector.build import Detector, set_inference
from bpr.detector.checkpoints import import_detector

MAKERS = {
    "maskrcnn_resnet50_fpn": maskrcnn_resnet50_fpn,
    "maskrcnn_resnet50_fpn_v2": maskrcnn_resnet50_fpn_v2,
}


def lively(model: nn.Module, seed: int) -> nn.Module:
    """Random weights under which scores and masks differ from box to box."""
    random = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for name, value in state.items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=random)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.1, generator=random)
        elif name.endswith("bn3.weight"):  # else every block adds to what comes before
            value.fill_(0.2)
        elif re.search(r"(cls_logits|cls_score|bbox_pred|mask_fcn_logits)\.weight", name):
            value.normal_(0, 0.03, generator=random)
    return model.eval()


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As files were before torchvision 0.13, the published one among them."""
    rules = [
        (r"(fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1."),
        (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
    ]
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        match = re.match(r"roi_heads\.mask_head\.(\d)\.0\.(.*)", name)
        if match:
            name = f"roi_heads.mask_head.mask_fcn{int(match[1]) + 1}.{match[2]}"
        renamed[name] = value
    return renamed


def imported(state: dict[str, Tensor], path: Path) -> tuple[Detector, str]:
    torch.save(state, path)
    model, report = import_detector(path)
    return model, report.info.preset


def compare(theirs: nn.Module, ours: Detector, image: Tensor) -> None:
    size = (image.shape[1], image.shape[2])
    with torch.no_grad():
        (expected,), (found,) = theirs([image]), ours([image])
    assert len(found) > 5
    assert found.size == size
    torch.testing.assert_close(found.boxes, expected["boxes"], rtol=0, atol=1e-3)
    torch.testing.assert_close(found.scores, expected["scores"], rtol=0, atol=1e-4)
    assert found.labels.equal(expected["labels"])
    # torchvision's way to paste draws its own masks from ours; ours keeps to the contour
    pasted = paste_masks_in_image(found.mask_probabilities[:, None], found.boxes, size)
    torch.testing.assert_close(pasted, expected["masks"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("seed", "size", "old"), [(0, (90, 130), False), (1, (150, 101), True)])
def test_weights_of_torchvision_give_its_own_output(
    seed: int, size: tuple[int, int], old: bool, tmp_path: Path
) -> None:
    sides = {"min_size": 128, "max_size": 200}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        theirs = lively(
            maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=6, **sides), seed
        )
        image = torch.rand(3, *size)
    state: dict[str, Any] = theirs.state_dict()
    ours, preset = imported(old_names(state) if old else state, tmp_path / "model.pth")
    assert preset == "maskrcnn_resnet50_fpn"
    set_inference(ours, test_size=128, max_size=200)
    compare(theirs, ours, image)


def test_weights_of_torchvisions_second_recipe_give_its_own_output(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = lively(
            maskrcnn_resnet50_fpn_v2(
                weights=None,
                weights_backbone=None,
                num_classes=4,
                min_size=96,
                max_size=200,
                box_detections_per_img=10,
                rpn_post_nms_top_n_test=100,
            ),
            0,
        )
        image = torch.rand(3, 60, 70)
    ours, preset = imported(theirs.state_dict(), tmp_path / "model.pth")
    assert preset == "maskrcnn_resnet50_fpn_v2"
    set_inference(ours, test_size=96, max_size=200, detections=10)
    ours.rpn._post_nms_top_n["testing"] = 100
    compare(theirs, ours, image)
