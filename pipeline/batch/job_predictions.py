"""Masks in any format that `bpr refine` reads, as predictions to evaluate, view or extract."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from pathlib import Path

from bpr._paths import AnyPath
from bpr.pipeline.batch.job import Job
from bpr.pipeline.batch.label_files_job import LabelFilesJob
from bpr.pipeline.batch.open_job import CITYSCAPES, COCO, JobRequest, format_of, open_job
from bpr.pipeline.batch.segment_maps_job import SegmentMapsJob
from bpr.pipeline.datasets.coco_folders import find_coco_splits
from bpr.pipeline.datasets.ground_truth import image_key, unique_keys
from bpr.pipeline.datasets.predictions import Predictions, open_predictions
from bpr.pipeline.formats.coco import ImageId
from bpr.pipeline.formats.images import IMAGE_SUFFIXES
from bpr.pipeline.instance import Prediction, Size, size_text


class JobPredictions:
    """What a job reads. Scores are 1 and labels say nothing: formats have numbers of their own.

    Args:
        job: that reads the masks.
        lists_every_image: see `Predictions`.

    Raises:
        ValueError: two entries are for one image.
    """

    has_labels = False

    def __init__(self, job: Job, lists_every_image: bool) -> None:
        self.lists_every_image = lists_every_image
        self._job = job
        named = [(image_key(_image_name(job, key)), key) for key in job.keys()]  # noqa: SIM118
        self._keys = dict(
            zip(unique_keys(named, str(job.source)), dict(named).values(), strict=True)
        )

    def keys(self) -> Sequence[str]:
        """Names of the images."""
        return list(self._keys)

    def count(self, key: str) -> int:
        """Number of masks that can be read."""
        return len(self._job.read(self._keys[key]).prediction.instances)

    def files(self, key: str) -> Sequence[AnyPath]:  # noqa: ARG002
        """The source as a whole."""
        return [self._job.source]

    def part(self, keys: Collection[str]) -> Predictions:
        """The same with these images alone."""
        part = copy(self)
        part._keys = {key: self._keys[key] for key in keys}
        if len(part._keys) == 1:
            part._job = self._job.part(next(iter(part._keys.values())))
        return part

    def read(self, key: str, size: Size) -> Prediction:
        """Read the masks of an image, and the image that they belong to."""
        if key not in self._keys:
            return Prediction(size, ())
        found = self._job.read(self._keys[key]).prediction
        if found.size != size:
            raise ValueError(
                f"{self._job.source}, {self._keys[key]}: expected masks of the size of their "
                f"ground truth, {size_text(size)}, got {size_text(found.size)}"
            )
        return found


def open_masks(
    path: AnyPath,
    masks: Sequence[AnyPath] | None,
    keys: Mapping[ImageId, str] | None,
    labels: Mapping[str, int] | None = None,
    images: AnyPath | None = None,
) -> Predictions:
    """As `open_predictions`, in every format that `bpr refine` reads.

    Args:
        path: as for `open_predictions`, or masks in another format.
        masks: as for `open_predictions`.
        keys: as for `open_predictions`.
        labels: as for `open_predictions`.
        images: folder of images; formats other than Cityscapes and COCO need it.

    Raises:
        ValueError: nothing is there, nothing that is known, or the images are missing.
    """
    if masks or not path.exists():
        return open_predictions(path, masks, keys, labels)
    found = format_of(path)
    if found == CITYSCAPES or (found == COCO and path.is_file()):
        return open_predictions(path, None, keys, labels)
    if found == COCO:
        jsons = [split.json for split in find_coco_splits(path)]
        if len(jsons) != 1:
            raise ValueError(f"{path}: expected one COCO json, got {', '.join(map(str, jsons))}")
        return open_predictions(jsons[0], None, keys, labels)
    # nothing is written there: jobs know where they would write
    opened = open_job(JobRequest(pred=path, images=images, out=_nowhere(path)))
    return JobPredictions(opened.job, lists_every_image=path.is_dir())


def _nowhere(path: AnyPath) -> AnyPath:
    folder = path.resolve().parent / ".bpr-not-written"
    return folder if path.is_dir() else folder / path.name


def _image_name(job: Job, key: str) -> str:
    """What the image of a key is called, without folders; endings may be missing."""
    if isinstance(job, (SegmentMapsJob, LabelFilesJob)):
        key = job.image_name(key)
    name = Path(key).name
    return name if Path(name).suffix.lower() in IMAGE_SUFFIXES else f"{name}.any"
