"""Images as the network wants them, and what it finds in the pixels of the image."""

from __future__ import annotations

from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import (
    GeneralizedRCNNTransform,
    resize_boxes,
    resize_keypoints,
)
from torchvision.ops import clip_boxes_to_image

from bpr.detector.detections import Detections
from bpr.detector.presets import Preset
from bpr.detector.resizing import resize_image, resized_size

Size = tuple[int, int]


class DetectorTransform(GeneralizedRCNNTransform):
    """Resizes and normalises images and boxes; masks of targets stay as they are.

    In training the shorter side is drawn from `min_size` for each image, in evaluation it is
    `test_size`; the longer side is never more than `max_size`.
    """

    def __init__(self, preset: Preset) -> None:
        conventions = preset.conventions
        super().__init__(
            tuple(preset.train_sizes),
            preset.max_size,
            list(conventions.image_mean),
            list(conventions.image_std),
        )
        self.test_size = preset.test_size
        self._library = conventions.library

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """Images (3, H, W) float RGB in [0, 1] -> a batch, padded with zeros to multiples of 32."""
        resized = [self.normalize(self._resize(image)) for image in images]
        sizes = [_size(image) for image in resized]
        if targets is not None:
            targets = [
                _resized(target, _size(image), size)
                for image, target, size in zip(images, targets, sizes, strict=True)
            ]
        return ImageList(self.batch_images(resized, self.size_divisible), sizes), targets

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[Size],
        original_image_sizes: list[Size],
    ) -> list[Detections]:
        """What `DetectorHeads` found -> the same in the pixels of the images, without empty boxes.

        Args:
            result: of each image.
            image_shapes: height, width of each image as the network saw it.
            original_image_sizes: height, width of each image.

        Returns:
            Nothing in training.
        """
        if self.training:
            return []
        return [
            _in_image(found, seen, size)
            for found, seen, size in zip(result, image_shapes, original_image_sizes, strict=True)
        ]

    def _resize(self, image: Tensor) -> Tensor:
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ValueError(
                f"image: expected (3, H, W) floats, got {tuple(image.shape)} of {image.dtype}"
            )
        shorter = self.torch_choice(self.min_size) if self.training else self.test_size
        size = resized_size(_size(image), shorter, self.max_size, self._library)
        return image if size == _size(image) else resize_image(image, size, self._library)


def _in_image(found: dict[str, Tensor], seen: Size, size: Size) -> Detections:
    boxes = clip_boxes_to_image(resize_boxes(found["boxes"], seen, size), size)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return Detections(
        boxes=boxes[keep],
        labels=found["labels"][keep],
        scores=found["scores"][keep],
        mask_probabilities=found["mask_probabilities"][keep],
        size=size,
        keypoints=resize_keypoints(found["keypoints"][keep], seen, size)
        if "keypoints" in found
        else None,
    )


def _resized(target: dict[str, Tensor], size: Size, seen: Size) -> dict[str, Tensor]:
    """A target in the pixels of the network's input, but for its masks."""
    moved = {**target, "boxes": resize_boxes(target["boxes"], size, seen)}
    if "keypoints" in target:
        moved["keypoints"] = resize_keypoints(target["keypoints"], size, seen)
    return moved


def _size(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]
