"""Points of an object, such as a person's joints, in its box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, keypointrcnn_loss

from bpr.detector.pooling import PyramidPool, indexed
from bpr.detector.presets import Preset

POOLED = 14
"""Side of the features of a box; heat maps are four times as wide, 56 x 56."""

_WIDTH, _LAYERS = 512, 8


class KeypointHead(nn.Module):
    """Eight convolutions of 512 channels, and a heat map of 56 x 56 for each point.

    Source: He et al., ICCV 2017 (arXiv:1703.06870), section 5; torchvision's parts.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.pool = PyramidPool(POOLED, preset.conventions.library)
        self.head = KeypointRCNNHeads(preset.channels, [_WIDTH] * _LAYERS)
        self.predictor = KeypointRCNNPredictor(_WIDTH, preset.keypoints)

    def forward(self, features: Mapping[str, Tensor], rois: Tensor) -> Tensor:
        """(N, 5) of `indexed` -> (N, K, 56, 56) logits, over the positions of each map."""
        logits: Tensor = self.predictor(self.head(self.pool(features, rois)))
        return logits.float()

    def predict(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Find the points of the objects in boxes.

        Args:
            features: of the backbone.
            boxes: for each image (N_i, 4) in pixels of the network's input.

        Returns:
            For each image (N_i, K, 3): x, y in the same pixels, and the logit of the place.
        """
        maps = self(features, indexed(boxes))
        found = []
        for of_image, drawn in zip(boxes, maps.split([len(b) for b in boxes]), strict=True):
            places, scores = heatmaps_to_keypoints(drawn, of_image)
            found.append(torch.cat([places[..., :2], scores[..., None]], dim=-1))
        return found

    def loss(
        self,
        features: Mapping[str, Tensor],
        boxes: Sequence[Tensor],
        objects: Sequence[Tensor],
        keypoints: Sequence[Tensor],
    ) -> Tensor:
        """Cross entropy of the one right position of each visible point; 0 without any.

        Args:
            features: of the backbone.
            boxes: for each image (N_i, 4) on objects.
            objects: for each image (N_i,) the object of each box.
            keypoints: for each image (M_i, K, 3) x, y in pixels of the network's input, and
                visibility, 0 where a point is not labelled.
        """
        logits = self(features, indexed(boxes))
        loss: Tensor = keypointrcnn_loss(logits, list(boxes), list(keypoints), list(objects))
        return loss
