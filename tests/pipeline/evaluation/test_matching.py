import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpr.pipeline.datasets.ground_truth import AnnotatedImage, Annotation
from bpr.pipeline.evaluation.matching import MatchSettings, match
from bpr.pipeline.instance import Instance, Mask, Prediction
from bpr.pipeline.metrics import mask_iou
from tests.strategies import bitmaps, masks, quick, thorough

SIZE = (40, 60)


def square(x, y, side=10):
    array = np.zeros(SIZE, np.bool_)
    array[y : y + side, x : x + side] = True
    return Mask.from_array(array)


def truth(*masks, labels=None, crowds=(), ignore=None):
    labels = labels or [1] * len(masks)
    items = [
        Annotation(mask=mask, label=label, id=index + 1, is_crowd=index in crowds)
        for index, (mask, label) in enumerate(zip(masks, labels, strict=True))
    ]
    return AnnotatedImage(SIZE, tuple(items), ignore)


def prediction(*masks, labels=None, scores=None):
    labels, scores = labels or [1] * len(masks), scores or [0.9] * len(masks)
    items = zip(masks, labels, scores, strict=True)
    return Prediction(
        SIZE, tuple(Instance(mask=mask, label=label, score=score) for mask, label, score in items)
    )


def indices(image, predicted, **settings):
    return [found.index for found in match(image, predicted, MatchSettings(**settings)).matches]


@st.composite
def scenes(draw):
    """Objects and instances that often overlap, on one small image."""
    size = draw(st.tuples(st.integers(4, 40), st.integers(4, 40)))
    drawn = [draw(masks(size=size)) for _ in range(draw(st.integers(1, 3)))]
    again = [
        Mask.from_array(np.roll(mask.to_array(), draw(st.integers(-2, 2)), 1)) for mask in drawn
    ]
    labels = st.integers(1, 2)
    objects = tuple(
        Annotation(mask=mask, label=draw(labels), id=k, is_crowd=draw(st.integers(0, 4)) == 0)
        for k, mask in enumerate(drawn)
    )
    instances = tuple(
        Instance(mask=mask, label=draw(labels), score=draw(st.sampled_from([0.3, 0.8])))
        for mask in again + drawn
    )
    ignore = draw(st.none() | bitmaps(size=size))
    return AnnotatedImage(size, objects, ignore), Prediction(size, instances)


def iou_of_images(mask, gt, ignore):
    counted = np.ones(gt.shape, np.bool_) if ignore is None else ~ignore
    union = ((mask | gt) & counted).sum()
    return (mask & gt & counted).sum() / union if union else 0.0


@thorough
@given(scene=scenes(), agnostic=st.booleans(), least=st.sampled_from([0.1, 0.5, 0.9]))
def test_each_object_has_its_best_positive_prediction(scene, agnostic, least):
    image, predicted = scene
    found = match(image, predicted, MatchSettings(least, agnostic))
    objects = [item for item in image.annotations if not item.is_crowd]
    assert [item.annotation for item in found.matches] == objects
    for item in found.matches:
        best = None
        for index, instance in enumerate(predicted.instances):
            if not agnostic and instance.label != item.annotation.label:
                continue
            iou = iou_of_images(
                instance.mask.to_array(), item.annotation.mask.to_array(), image.ignore
            )
            if iou >= least and (best is None or (iou, instance.score) > best[:2]):
                best = (iou, instance.score, index)
        assert (item.iou, item.index) == ((best[0], best[2]) if best else (0, -1))
        assert (item.instance is None) == (best is None)


@quick
@given(scene=scenes())
def test_the_iou_is_that_of_whole_images(scene):
    image, predicted = scene
    gt, instance = image.annotations[0], predicted.instances[-1]
    expected = iou_of_images(instance.mask.to_array(), gt.mask.to_array(), image.ignore)
    assert mask_iou(instance.mask, gt.mask, image.ignore) == pytest.approx(expected)


def test_ties_go_to_the_higher_score_then_to_the_earlier_one():
    image = truth(square(0, 0))
    assert indices(image, prediction(*[square(0, 0)] * 3, scores=[0.5, 0.7, 0.7])) == [1]


def test_an_instance_may_serve_two_objects():
    image = truth(square(0, 0), square(0, 2))
    assert indices(image, prediction(square(0, 1))) == [0, 0]


def test_labels_count_unless_they_are_placeholders():
    image = truth(square(0, 0), labels=[3])
    assert indices(image, prediction(square(0, 0), labels=[1])) == [-1]
    assert indices(image, prediction(square(0, 0), labels=[1]), class_agnostic=True) == [0]


def test_instances_of_no_object_are_counted():
    image = truth(square(0, 0))
    predicted = prediction(square(0, 0), square(30, 20), square(0, 6))
    assert match(image, predicted, MatchSettings()).num_false == 2


def test_what_lies_in_a_crowd_of_its_label_is_no_mistake():
    image = truth(square(20, 10, 25), crowds=[0])
    assert match(image, prediction(square(25, 15)), MatchSettings()).num_false == 0
    other = prediction(square(25, 15), labels=[2])
    assert match(image, other, MatchSettings()).num_false == 1
    half_outside = prediction(square(39, 15, 12))
    assert match(image, half_outside, MatchSettings()).num_false == 1


def test_what_is_mostly_ignored_is_no_mistake():
    ignore = np.zeros(SIZE, np.bool_)
    ignore[:, :30] = True
    image = truth(square(40, 0), ignore=ignore)
    assert match(image, prediction(square(22, 10)), MatchSettings()).num_false == 0
    assert match(image, prediction(square(28, 10)), MatchSettings()).num_false == 1


@pytest.mark.parametrize("least", [0, -0.1, 1.1])
def test_a_threshold_outside_of_its_range_is_refused(least):
    with pytest.raises(ValueError, match=r"positive_iou: expected a number in \(0, 1\], got"):
        MatchSettings(least)
