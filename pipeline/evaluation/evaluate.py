"""The evaluation of a data set, image by image: read this first.

Every row of the report is a run: predictions as they were before refinement, after it, by other
methods, and the ceiling. An image passes through all of them at once, so all rows are about the
same images; what stays in memory of an image are a few numbers per object, the pixel counts and
run-length codes that AP needs, and the masks of the largest gains and losses so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bpr.pipeline.datasets.ground_truth import AnnotatedImage
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.photographs import find_photograph, read_photograph
from bpr.pipeline.evaluation.average_precision import rules_of
from bpr.pipeline.evaluation.collect import Collected, ComparedImage
from bpr.pipeline.evaluation.inputs import EvaluationInputs, EvaluationSettings
from bpr.pipeline.evaluation.result import Evaluation, FailedImage
from bpr.pipeline.formats.cityscapes import image_stems
from bpr.pipeline.instance import UInt8Array
from bpr.pipeline.threads import map_ahead

READERS = 2  # threads that decode masks and images
AHEAD = 4  # images read before they are needed


def evaluate(
    inputs: EvaluationInputs,
    settings: EvaluationSettings,
    only_predicted: bool = False,
    on_progress: Callable[[int, int], None] = lambda _images, _objects: None,
) -> Evaluation:
    """Judge predictions by ground truth.

    Args:
        inputs: what to compare.
        settings: how.
        only_predicted: leave out images without predictions instead of counting them as missed.
        on_progress: called after every image with the numbers of images and objects done.

    Raises:
        ValueError: no image has both, or no label occurs in both.
    """
    join = _join(inputs, only_predicted)
    collected = Collected(inputs, settings)
    failures = []
    for done, item in enumerate(map_ahead(_reader(inputs), join.keys, READERS, AHEAD), start=1):
        if item.reason:
            failures.append(FailedImage(item.key, item.reason))
        else:
            collected.add(item)
        on_progress(done, len(collected.objects))
    if not collected.images:
        raise ValueError(
            f"expected at least one image that can be read, all {len(failures)} failed; "
            f"{failures[0].image}: {failures[0].reason}"
        )
    collected.check_labels()
    return Evaluation(
        settings=settings,
        kind=inputs.truth.kind,
        rules=rules_of(inputs.truth, settings.matching.class_agnostic),
        categories=None if settings.matching.class_agnostic else inputs.truth.categories,
        images=tuple(collected.images),
        sizes=tuple(collected.sizes),
        objects=tuple(collected.objects),
        num_crowds=collected.num_crowds,
        num_ignored_images=collected.num_ignored_images,
        runs=tuple(collected.run_result(name) for name in inputs.runs()),
        focus=inputs.focus,
        unlike_images=collected.unlike_images,
        gains=collected.gains.sorted(),
        losses=collected.losses.sorted(),
        outlines=tuple(collected.outlines),
        object_errors=tuple(collected.object_errors),
        wrong=tuple(collected.wrong),
        failures=tuple(failures),
        without_prediction=tuple(join.without_prediction),
        without_truth=tuple(join.without_truth),
        left_out=tuple(collected.left_out),
    )


@dataclass(frozen=True)
class _Join:
    keys: list[str]
    without_prediction: list[str]
    without_truth: list[str]


def _join(inputs: EvaluationInputs, only_predicted: bool) -> _Join:
    """Which images are scored.

    An image id of a COCO results json without file names is compared without leading zeros.
    """
    truth = list(inputs.truth.keys())
    sides = [inputs.prediction, *([inputs.before] if inputs.before else [])]
    known = {key.lstrip("0"): key for key in truth if key.isdigit()} | {key: key for key in truth}
    predicted = [{known.get(key, key) for key in list(side.keys())} for side in sides]
    strangers = sorted(set[str]().union(*predicted) - set(truth))
    everywhere = set.intersection(*predicted)
    if not everywhere & set(truth):
        raise ValueError(
            "ground truth: expected images with the names of the predictions, found none in "
            f"common: {_some(truth)} in the ground truth, {_some(sorted(set().union(*predicted)))} "
            "predicted"
        )
    missing = [
        key
        for key in truth
        if any(
            key not in found and (side.lists_every_image or only_predicted)
            for side, found in zip(sides, predicted, strict=True)
        )
    ]
    if only_predicted:
        left_out = set(missing)
        return _Join([key for key in truth if key not in left_out], [], strangers)
    return _Join(truth, missing, strangers)


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _reader(inputs: EvaluationInputs) -> Callable[[str], ComparedImage]:
    def read(key: str) -> ComparedImage:
        try:
            truth = inputs.truth.read(key)
            prediction = inputs.prediction.read(key, truth.size)
            before = inputs.before.read(key, truth.size) if inputs.before else None
            image = _image(inputs, key, truth) if inputs.methods else None
        except ValueError as error:
            return ComparedImage(key=key, reason=str(error))
        return ComparedImage(
            key=key, truth=truth, prediction=prediction, before=before, image=image
        )

    return read


def _image(inputs: EvaluationInputs, key: str, truth: AnnotatedImage) -> UInt8Array:
    assert inputs.images is not None
    return read_photograph(find_photograph(inputs.images, inputs.truth, key), truth.size)


def find_image(images: ImageIndex, key: str, size: tuple[int, int]) -> UInt8Array:
    """Read the image of a key.

    Raises:
        ValueError: it is missing, unreadable or of another size.
    """
    return read_photograph(images.find(image_stems(key)), size)
