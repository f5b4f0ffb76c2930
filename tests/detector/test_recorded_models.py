"""The four detectors, imported and run, against what the authors' code computed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection.rpn import concat_box_prediction_layers

from bpr.detector.bmask import BMaskBranch
from bpr.detector.checkpoints import import_detector
from bpr.detector.pooling import indexed
from bpr.detector.refinemask import RefineMaskBranch
from bpr.detector.roi_heads import _clipped
from tests.detector.conftest import Arrays

SIZE = (128, 160)
LEVELS = ("0", "1", "2", "3", "pool")
PRESET_OF = {
    "d2_maskrcnn": "mask_rcnn_R_50_FPN_1x",
    "d2_bmask": "bmask_rcnn_R_50_FPN_cityscapes",
    "d2_cascade_bmask": "cascade_bmask_rcnn_R_50_FPN_1x",
    "mm_refinemask_cityscapes": "refinemask_r50_cityscapes",
}


def near(actual: Tensor, expected: Any, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=tolerance)


def tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.array(array))


@pytest.mark.parametrize("name", PRESET_OF)
def test_a_published_detector_computes_what_its_authors_code_does(
    name: str, publish: Callable[[str], Path], arrays: Callable[[str], Arrays]
) -> None:
    model, report = import_detector(publish(name))
    assert report.info.preset == PRESET_OF[name]
    expected = arrays(name)
    model.transform.test_size, model.transform.max_size = SIZE
    image = tensor(expected["image_rgb"]).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        batch, _ = model.transform([image])
        assert batch.image_sizes == [SIZE]
        features = model.backbone(batch.tensors)
        _check_pyramid(model, batch, features, expected)
        proposals = _check_proposals(model.rpn, batch, features, expected)
        _check_boxes(model.roi_heads, features, expected)
        _check_masks(model.roi_heads.mask_branch, features, expected)
        # and all at once, not from recorded intermediate results
        found, _ = model.roi_heads(features, proposals, [SIZE])
        height, width = expected["out_size_hw"].tolist()
        (detections,) = model.transform.postprocess(found, [SIZE], [(height, width)])
    near(detections.boxes, expected["out_boxes"], 1e-3)
    near(detections.scores, expected["out_scores"])
    assert (detections.labels.numpy() - 1).tolist() == expected["out_labels0"].tolist()
    packed = expected["out_masks_packed_first12"]
    masks = np.unpackbits(packed, axis=-1)[..., :width].astype(bool)
    drawn = np.stack([mask.numpy() for mask in islice(detections.masks(), len(masks))])
    assert masks.any()
    assert (drawn != masks).sum() <= 5


def _check_pyramid(model: Any, batch: Any, features: dict[str, Tensor], expected: Arrays) -> None:
    logits, deltas = model.rpn.head(list(features.values()))
    for number, level in enumerate(LEVELS):
        name = f"p{number + 2}"
        near(features[level][0, :4], expected[f"fpn_{name}_ch0_3"])
        moments = torch.stack([features[level].mean(), features[level].std()])
        near(moments, expected[f"fpn_{name}_mean_std"])
        near(logits[number][0], expected[f"rpn_logits_{name}"])
        near(deltas[number][0], expected[f"rpn_deltas_{name}"])
    anchors = [expected[f"anchors_p{number + 2}"] for number in range(len(LEVELS))]
    near(
        model.rpn.anchor_generator(batch, list(features.values()))[0],
        np.concatenate(anchors),
        1e-5,
    )


def _check_proposals(
    rpn: Any, batch: Any, features: dict[str, Tensor], expected: Arrays
) -> list[Tensor]:
    proposals, _ = rpn(batch, features)
    near(proposals[0], expected["proposals"], 1e-3)
    # and what they are ranked by, which the network keeps to itself
    logits, deltas = rpn.head(list(features.values()))
    counts = [level[0].numel() for level in logits]
    logits, deltas = concat_box_prediction_layers(logits, deltas)
    anchors = rpn.anchor_generator(batch, list(features.values()))
    boxes = rpn.box_coder.decode(deltas, anchors).transpose(0, 1)
    _, ranks = rpn.filter_proposals(boxes, logits, [SIZE], counts)
    name = "proposal_logits" if "proposal_logits" in expected else "proposal_probs"
    near(ranks[0], expected[name])
    return list(proposals)


def _check_boxes(heads: Any, features: dict[str, Tensor], expected: Arrays) -> None:
    boxes = tensor(expected["proposals"])[:32]
    for number, stage in enumerate(heads.box_stages):
        pooled = heads.box_pool(features, indexed([boxes]))
        logits, deltas = stage(pooled)
        decoded = stage.decode(deltas, boxes)
        prefix = "box_"
        if len(heads.box_stages) > 1:
            prefix = f"stage{number}_"
            near(boxes, expected[f"{prefix}boxes_in"], 1e-3)
            (boxes,) = _clipped(decoded[:, 0], [len(boxes)], [SIZE])
        else:
            near(pooled[:, :4], expected["box_pooled_ch0_3"])
            deltas = deltas[:, 4:]  # those of the background are never used
        near(logits.roll(-1, 1), expected[f"{prefix}cls_logits"])
        near(deltas, expected[f"{prefix}deltas"])
    if len(heads.box_stages) > 1:
        near(decoded[:, 0], expected["stage2_boxes_out"], 1e-3)
    found, scores, labels = heads.detect(features, [tensor(expected["proposals"])], [SIZE])
    near(found[0], expected["det_boxes"], 1e-3)
    near(scores[0], expected["det_scores"])
    assert (labels[0].numpy() - 1).tolist() == expected["det_labels0"].tolist()


def _check_masks(branch: Any, features: dict[str, Tensor], expected: Arrays) -> None:
    rois = indexed([tensor(expected["det_boxes"])[:12]])
    labels = tensor(expected["det_labels0"])[:12] + 1
    prepared = branch.prepare(features)
    if isinstance(branch, RefineMaskBranch):
        for number, drawn in enumerate(branch.stage_logits(prepared, rois, labels)):
            near(drawn, expected[f"mask_stage{number}_logits"])
        near(prepared.logits[0, 0], expected["semantic_logits"])
        near(branch.logits(prepared, rois, labels), expected["mask_final_logits_after_bar"])
        return
    near(branch.pool(features, rois)[:, :4], expected["mask_pooled_ch0_3"])
    near(branch.logits(prepared, rois, labels), expected["mask_logits_at_label"])
    if isinstance(branch, BMaskBranch):
        near(branch.boundary_pool(features, rois)[:, :2], expected["boundary_pooled_ch0_1"])
        _, boundaries = branch.both_logits(prepared, rois, labels)
        near(boundaries, expected["boundary_logits_at_label"])
