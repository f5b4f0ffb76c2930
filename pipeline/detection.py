"""A detector as the pipeline uses it: an image in, the instances of the data set out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bpr._weight_files import file_sha256
from bpr.detector.build import Detector, set_inference
from bpr.detector.checkpoints import DetectorInfo, find_detector, load_detector
from bpr.detector.detections import Detections
from bpr.detector.views import detect_views
from bpr.pipeline.instance import Instance, Mask, Prediction, UInt8Array

_MAX_SCALE = 4096  # of a shorter side; a network needs some kB for each pixel


@dataclass(frozen=True, kw_only=True)
class DetectionSettings:
    """What a detector gives out; None keeps what its preset says."""

    score: float | None = None  # detections need more, in [0, 1]
    nms_iou: float | None = None  # of two of a category that overlap more, one stays
    detections: int | None = None  # of an image, at most
    flip: bool = False  # look at the mirrored image too
    scales: tuple[int, ...] = ()  # shorter sides in pixels to look at; empty is the preset's one


class InstanceDetector:
    """Finds instances in images; their masks are windows, made one at a time.

    Args:
        weights: see `bpr.detector.checkpoints.load_detector`.
        device: auto, cpu or cuda.
        settings: what is given out.

    Raises:
        ValueError: the weights cannot be read, a setting is outside of its range, or there is no
            such device.
    """

    def __init__(
        self, weights: str | Path, device: str = "auto", settings: DetectionSettings | None = None
    ) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: expected a GPU that PyTorch can use, got none")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.settings = settings or DetectionSettings()
        path, self.name = find_detector(weights)
        model, self.info = load_detector(path)
        set_inference(model, self.settings.score, self.settings.nms_iou, self.settings.detections)
        for scale in self.settings.scales:
            if not 1 <= scale <= _MAX_SCALE:
                raise ValueError(f"scales: expected ints of 1 to {_MAX_SCALE}, got {scale}")
        self.weights_sha256 = file_sha256(path)
        self._device = torch.device(device)
        self._model: Detector = model.to(self._device).eval()

    @property
    def categories(self) -> dict[int, str]:
        """Names by label, as instances have it."""
        categories = self.info.categories
        return dict(zip(categories.ids, categories.names, strict=True))

    def __call__(self, image: UInt8Array) -> Prediction:
        """Find the instances of one image, (H, W, 3) uint8 RGB, best first.

        Instances whose mask has no pixel are left out.

        Raises:
            MemoryError: of this computer or of its GPU.
        """
        return Prediction((image.shape[0], image.shape[1]), tuple(self.instances(image)))

    def instances(self, image: UInt8Array) -> Iterator[Instance]:
        """The same one after the other: each mask is drawn when it is asked for."""
        with _memory_errors():
            yield from draw_instances(self._detect(image), self.info)

    @torch.inference_mode()
    def _detect(self, image: UInt8Array) -> Detections:
        pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())  # it may be read-only
        tensor = pixels.to(self._device).float().div_(255)
        if self.settings.flip or self.settings.scales:
            found = detect_views(self._model, tensor, self.settings.scales, self.settings.flip)
        else:
            (found,) = self._model([tensor])
        return found


@contextmanager
def _memory_errors() -> Iterator[None]:
    """PyTorch has no exception of its own for a computer without memory."""
    try:
        yield
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        raise MemoryError(str(error).splitlines()[0]) from None


def as_prediction(found: Detections, info: DetectorInfo) -> Prediction:
    """Detections of one image -> instances with the data set's labels, without empty ones."""
    return Prediction(found.size, tuple(draw_instances(found, info)))


def draw_instances(found: Detections, info: DetectorInfo) -> Iterator[Instance]:
    """The instances of `as_prediction`, one after the other."""
    points = [None] * len(found) if found.keypoints is None else found.keypoints.cpu()
    for label, score, (window, bitmap), of_object in zip(
        found.labels.tolist(), found.scores.tolist(), found.windows(), points, strict=True
    ):
        mask = Mask.from_array(bitmap.cpu().numpy(), window[:2], found.size)
        if not mask.is_empty:
            record = {} if of_object is None else {"keypoints": coco_keypoints(of_object)}
            yield Instance(
                mask=mask, label=info.categories.ids[label - 1], score=score, record=record
            )


def coco_keypoints(points: Tensor) -> list[float]:
    """(K, 3) x, y, logit -> x, y, 1 of each point in a row, as COCO results have them."""
    return [value for x, y, _ in points.tolist() for value in (round(x, 2), round(y, 2), 1.0)]
