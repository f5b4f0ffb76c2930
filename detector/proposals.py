"""The region proposal network: where objects may be."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image

from bpr.detector.anchors import ASPECT_RATIOS, PyramidAnchors
from bpr.detector.box_coder import ClampedBoxCoder
from bpr.detector.claiming import ClaimingMatcher
from bpr.detector.presets import Preset

_KEPT = 1000  # by level before NMS, and of an image after it
_MIN_SIDE = 1e-3  # of torchvision's proposals


class _ProposalHead(RPNHead):
    """Objectness and offsets in float32, whatever the features are."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in deltas]


class ProposalNetwork(RegionProposalNetwork):
    """torchvision's, ranked and trained by the conventions of a preset."""

    def __init__(self, preset: Preset) -> None:
        exact = preset.conventions.library != "torchvision"
        super().__init__(
            PyramidAnchors(exact),
            _ProposalHead(preset.channels, len(ASPECT_RATIOS), preset.rpn_convolutions),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2 * _KEPT, "testing": _KEPT},
            post_nms_top_n={"training": preset.train_proposals, "testing": _KEPT},
            nms_thresh=0.7,
        )
        self.box_coder = ClampedBoxCoder((1.0,) * 4, preset.conventions.clamp_shrinking)
        if preset.conventions.library == "mmdetection":
            self.proposal_matcher = ClaimingMatcher(0.7, 0.3, claim=0.3)
        self._top_by_logit = preset.conventions.top_by_logit
        self._nms_by_logit = preset.conventions.nms_by_logit
        self._min_side = 0.0 if exact else _MIN_SIDE
        self._library = preset.conventions.library
        self._beta = preset.conventions.rpn_beta

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The best of (B, A, 4) boxes with (B * A, 1) logits, NMS within each level.

        Returns:
            For each image boxes inside it, best first, and their logits or probabilities.
        """
        logits = objectness.detach().reshape(len(proposals), -1)
        probability = logits.sigmoid()
        best = self._get_top_n_idx(
            logits if self._top_by_logit else probability, num_anchors_per_level
        )
        ranks = logits if self._nms_by_logit else probability
        levels = torch.repeat_interleave(torch.tensor(num_anchors_per_level, device=ranks.device))
        kept_boxes, kept_ranks = [], []
        for image, shape in enumerate(image_shapes):
            chosen = best[image]
            boxes = clip_boxes_to_image(proposals[image, chosen], shape)
            sides = boxes[:, 2:] - boxes[:, :2]
            fits = ((sides > 0) & (sides >= self._min_side)).all(dim=1)
            boxes, chosen = boxes[fits], chosen[fits]
            rank = ranks[image, chosen]
            keep = batched_nms(boxes, rank, levels[chosen], self.nms_thresh)
            keep = keep[: self.post_nms_top_n()]
            kept_boxes.append(boxes[keep])
            kept_ranks.append(rank[keep])
        return kept_boxes, kept_ranks

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Losses of a random choice of anchors, half of them on objects if there are enough.

        Divided by the number chosen; in detectron2 by that asked for, which small images lack.
        """
        chosen = [torch.where(torch.cat(masks))[0] for masks in self.fg_bg_sampler(labels)]
        positive, sampled = chosen[0], torch.cat(chosen)
        box_loss = functional.smooth_l1_loss(
            pred_bbox_deltas[positive],
            torch.cat(regression_targets)[positive],
            beta=self._beta,
            reduction="sum",
        )
        objectness_loss = functional.binary_cross_entropy_with_logits(
            objectness.flatten()[sampled], torch.cat(labels)[sampled], reduction="sum"
        )
        wanted = self.fg_bg_sampler.batch_size_per_image * len(labels)
        number = wanted if self._library == "detectron2" else max(len(sampled), 1)
        return objectness_loss / number, box_loss / number
