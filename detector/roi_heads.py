"""What happens to proposals: box stages, then masks in the boxes that remain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from bpr.detector.bmask import BMaskBranch
from bpr.detector.box_stage import IOUS, POOLED, WEIGHTS, BoxStage, box_losses
from bpr.detector.claiming import ClaimingMatcher
from bpr.detector.keypoint_head import KeypointHead
from bpr.detector.mask_branch import CascadeFcnBranch, FcnBranch, MaskBranch
from bpr.detector.mask_targets import Positives
from bpr.detector.pooling import PyramidPool, indexed
from bpr.detector.presets import Preset
from bpr.detector.refinemask import RefineMaskBranch
from bpr.detector.simple_refinemask import SimpleRefineMaskBranch

Size = tuple[int, int]

BRANCHES: Mapping[str, type[MaskBranch[Any]]] = {
    "fcn": FcnBranch,
    "cascade_fcn": CascadeFcnBranch,
    "bmask": BMaskBranch,
    "refinemask": RefineMaskBranch,
    "simple_refinemask": SimpleRefineMaskBranch,
}


class DetectorHeads(RoIHeads):
    """One or three box stages, a mask branch, and perhaps a keypoint head.

    Sampling of boxes is torchvision's. Its own box and mask heads are not used: they hide the
    boxes from which a mask branch learns.

    Args:
        preset: of the detector.
        categories: K, without background.
    """

    def __init__(self, preset: Preset, categories: int) -> None:
        super().__init__(
            box_roi_pool=None,
            box_head=None,
            box_predictor=None,
            fg_iou_thresh=IOUS[0],
            bg_iou_thresh=IOUS[0],
            batch_size_per_image=preset.train_samples,
            positive_fraction=0.25,
            bbox_reg_weights=WEIGHTS,
            score_thresh=preset.score,
            nms_thresh=preset.nms_iou,
            detections_per_img=preset.detections,
        )
        if preset.conventions.library == "mmdetection" and not preset.cascade:
            self.proposal_matcher = ClaimingMatcher(IOUS[0], IOUS[0], claim=IOUS[0])
        self.box_pool = PyramidPool(POOLED, preset.conventions.library)
        self.box_stages = nn.ModuleList(
            BoxStage(preset, categories, number) for number in range(3 if preset.cascade else 1)
        )
        maps = 1 if preset.agnostic_masks else categories
        self.mask_branch = BRANCHES[preset.mask_branch](preset, maps)
        self.mask_branch.agnostic = preset.agnostic_masks
        self.points = KeypointHead(preset) if preset.keypoints else None
        self._preset = preset

    def has_mask(self) -> bool:
        """Targets must have masks."""
        return True

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[Size],
        targets: list[dict[str, Any]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Find instances, or learn.

        Args:
            features: of the backbone.
            proposals: for each image (N_i, 4) in pixels of the network's input.
            image_shapes: height, width of each image, without padding.
            targets: of training.

        Returns:
            In evaluation for each image boxes, labels, scores, mask_probabilities and, of a
            preset with keypoints, keypoints, best first; in training losses by name.
        """
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets)
        boxes, scores, labels = self.detect(features, proposals, image_shapes)
        masks = self.mask_branch.predict(features, boxes, labels)
        columns = {"boxes": boxes, "labels": labels, "scores": scores, "mask_probabilities": masks}
        if self.points is not None:
            columns["keypoints"] = self.points.predict(features, boxes)
        return [
            dict(zip(columns, found, strict=True)) for found in zip(*columns.values(), strict=True)
        ], {}

    def detect(
        self, features: Mapping[str, Tensor], proposals: Sequence[Tensor], sizes: Sequence[Size]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The box stages in evaluation: boxes, scores, labels of each image, best first."""
        boxes, probability = self.judge(features, proposals, sizes)
        counts = [len(of_image) for of_image in proposals]
        found = [
            self._best(*of_image)
            for of_image in zip(
                torch.split(boxes, counts), torch.split(probability, counts), sizes, strict=True
            )
        ]
        chosen_boxes, scores, labels = (list(values) for values in zip(*found, strict=True))
        return chosen_boxes, scores, labels

    def judge(
        self, features: Mapping[str, Tensor], proposals: Sequence[Tensor], sizes: Sequence[Size]
    ) -> tuple[Tensor, Tensor]:
        """What the box stages say of proposals, all images in a row.

        Returns:
            (N, 1 or K + 1, 4) boxes, not clipped; (N, K + 1) probability, background first, the
            mean of all stages (in mmdetection, of their logits).
        """
        by_logits = self._preset.conventions.library == "mmdetection"
        boxes, judged = list(proposals), []
        decoded = torch.cat(boxes)[:, None]
        for number, stage in enumerate(self._stages()):
            if number:
                boxes = _clipped(decoded[:, 0], [len(of_image) for of_image in boxes], sizes)
            rois = indexed(boxes)
            logits, deltas = stage(self.box_pool(features, rois))
            decoded = stage.decode(deltas, rois[:, 1:])
            judged.append(logits if by_logits else logits.softmax(dim=-1))
        mean = torch.stack(judged).mean(dim=0)
        return decoded, mean.softmax(dim=-1) if by_logits else mean

    def _best(self, boxes: Tensor, probability: Tensor, size: Size) -> tuple[Tensor, ...]:
        """Detections of one image, from `judge`."""
        categories = probability.shape[1] - 1
        boxes = boxes[:, 1:] if boxes.shape[1] > 1 else boxes.expand(-1, categories, 4)
        boxes = clip_boxes_to_image(boxes.reshape(-1, 4), size)
        scores = probability[:, 1:].reshape(-1)
        labels = torch.arange(1, categories + 1, device=boxes.device).repeat(len(probability))
        sides = boxes[:, 2:] - boxes[:, :2]
        fits = (sides >= self._preset.conventions.min_detection).all(dim=1)
        chosen = torch.where((scores > self.score_thresh) & fits)[0]
        boxes, scores, labels = boxes[chosen], scores[chosen], labels[chosen]
        keep = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return boxes[keep], scores[keep], labels[keep]

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Match boxes; the last ones of each image are the objects' own.

        In mmdetection these match the objects without taking part in the matching itself: each
        would claim itself as its best box.
        """
        own = [len(boxes) for boxes in gt_boxes]
        plain = self._preset.conventions.library != "mmdetection"
        found = [boxes[: len(boxes) - count] for boxes, count in zip(proposals, own, strict=True)]
        if plain or not all(map(len, found)):
            return super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)  # type: ignore[no-any-return]
        objects, labels = super().assign_targets_to_proposals(found, gt_boxes, gt_labels)
        numbers = [torch.arange(len(boxes), device=boxes.device) for boxes in gt_boxes]
        return (
            [torch.cat(pair) for pair in zip(objects, numbers, strict=True)],
            [torch.cat(pair) for pair in zip(labels, gt_labels, strict=True)],
        )

    def _losses(
        self,
        features: Mapping[str, Tensor],
        proposals: list[Tensor],
        sizes: list[Size],
        targets: list[dict[str, Any]] | None,
    ) -> dict[str, Tensor]:
        assert targets is not None  # GeneralizedRCNN has looked
        boxes, objects, labels, offsets = self.select_training_samples(proposals, targets)
        stages = self._stages()
        losses, positives = {}, []
        for number, stage in enumerate(stages):
            rois = indexed(boxes)
            pooled = self.box_pool(features, rois)
            if pooled.requires_grad and len(stages) > 1:
                # the stages share the features: together they pull as one
                pooled.register_hook(lambda gradient: gradient / len(stages))
            logits, deltas = stage(pooled)
            category, box = box_losses(
                logits, deltas, torch.cat(labels), torch.cat(offsets), self._preset.box_beta
            )
            suffix = f"_{number + 1}" if len(stages) > 1 else ""
            losses[f"loss_classifier{suffix}"] = category * self._preset.box_loss_weight
            losses[f"loss_box_reg{suffix}"] = box * self._preset.box_loss_weight
            decoded = stage.decode(deltas.detach(), rois[:, 1:])
            chosen = torch.cat(labels)
            if self._preset.train_on_predicted_boxes:
                column = chosen[:, None, None].expand(-1, 1, 4)
                rois = torch.cat([rois[:, :1], decoded.gather(1, column)[:, 0]], dim=1)
            positives.append(
                self._positives(rois, chosen, torch.cat(objects), features, sizes, targets)
            )
            if number + 1 < len(stages):
                clipped = _clipped(decoded[:, 0], [len(of_image) for of_image in boxes], sizes)
                boxes, objects, labels, offsets = self._relabel(
                    clipped, stages[number + 1], targets
                )
        prepared = self.mask_branch.prepare(features)
        if isinstance(self.mask_branch, CascadeFcnBranch):
            losses.update(self.mask_branch.stage_losses(prepared, positives))
        else:
            losses.update(self.mask_branch.losses(prepared, positives[0]))
        if self.points is not None:
            losses["loss_keypoint"] = self._keypoint_loss(
                self.points, features, positives[0], targets
            )
        return losses

    @staticmethod
    def _keypoint_loss(
        head: KeypointHead,
        features: Mapping[str, Tensor],
        positives: Positives,
        targets: list[dict[str, Any]],
    ) -> Tensor:
        """Of the boxes that masks learn in, where the objects have points."""
        image = positives.rois[:, 0]
        here = [torch.where(image == number)[0] for number in range(len(targets))]
        return head.loss(
            features,
            [positives.rois[chosen, 1:] for chosen in here],
            [positives.objects[chosen] for chosen in here],
            [target["keypoints"] for target in targets],
        )

    def _positives(
        self,
        rois: Tensor,
        labels: Tensor,
        objects: Tensor,
        features: Mapping[str, Tensor],
        sizes: list[Size],
        targets: list[dict[str, Any]],
    ) -> Positives:
        """The boxes on objects among those that a stage learned from."""
        positive = torch.where(labels > 0)[0]
        return Positives(
            rois[positive],
            self.mask_branch.map_labels(labels[positive]),
            objects[positive],
            [target["masks"] for target in targets],
            sizes,
            (features["0"].shape[2] * 4, features["0"].shape[3] * 4),
            [target.get("polygons", [()] * len(target["masks"])) for target in targets],
            self._preset.conventions.library == "mmdetection",
        )

    def _stages(self) -> list[BoxStage]:
        return [cast(BoxStage, stage) for stage in self.box_stages]

    def _relabel(
        self, boxes: list[Tensor], stage: BoxStage, targets: list[dict[str, Any]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes of the stage before -> boxes, objects, labels, offsets for this one."""
        chosen, objects, labels, offsets = [], [], [], []
        for of_image, target in zip(boxes, targets, strict=True):
            of_image = of_image[(of_image[:, 2:] > of_image[:, :2]).all(dim=1)]
            matched = of_image.new_zeros(len(of_image), dtype=torch.int64)
            label, goal = matched, of_image
            if len(target["boxes"]) and len(of_image):
                matched = stage.matcher(box_iou(target["boxes"], of_image))
                is_object = matched >= 0
                matched = matched.clamp(min=0)
                label = torch.where(is_object, target["labels"][matched], 0)
                goal = target["boxes"][matched]
            chosen.append(of_image)
            objects.append(matched)
            labels.append(label)
            offsets.append(stage.coder.encode_single(goal.to(of_image), of_image))
        return chosen, objects, labels, offsets


def _clipped(boxes: Tensor, counts: Sequence[int], sizes: Sequence[Size]) -> list[Tensor]:
    """Boxes of all images in a row -> of each image, inside it."""
    return [
        clip_boxes_to_image(of_image, size)
        for of_image, size in zip(torch.split(boxes, list(counts)), sizes, strict=True)
    ]
