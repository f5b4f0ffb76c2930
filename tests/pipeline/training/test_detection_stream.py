"""What a detector is trained on: the same objects from every kind of ground truth."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from bpr.pipeline.datasets.coco_keypoints import read_keypoints
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.open_ground_truth import open_ground_truth
from bpr.pipeline.formats import rle
from bpr.pipeline.training.detection_stream import (
    DetectionBatches,
    DetectionSource,
    DetectionStream,
    load,
    readable,
)
from tests.datasets import write_dataset
from tests.pipeline.evaluation.datasets import LABELS, make_dataset


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("scenes"), num_images=4)


def source(truth, images):
    return DetectionSource(open_ground_truth(truth), ImageIndex(images))


def objects(found):
    return sorted(
        (instance.label, instance.mask.window, instance.mask.area) for instance in found.objects
    )


def test_cityscapes_and_coco_give_the_same_objects_without_groups(scenes):
    cityscapes, coco = (source(truth, scenes.images) for truth in (scenes.gt_fine, scenes.coco))
    for key in coco.keys():  # noqa: SIM118
        first, second = cityscapes.read(key), coco.read(key)
        assert objects(first) == objects(second) != []
        np.testing.assert_array_equal(first.pixels, second.pixels)
        values = np.array(Image.open(next(scenes.gt_fine.rglob(f"{key}_gtFine*"))))
        expected = [v for v in np.unique(values).tolist() if v >= 1000 and v // 1000 in LABELS]
        assert [label for label, _, _ in objects(first)] == [value // 1000 for value in expected]


def test_cityscapes_categories_are_those_of_the_benchmark_in_its_order(scenes):
    assert source(scenes.gt_fine, scenes.images).categories() == {
        **{24: "person", 25: "rider", 26: "car", 27: "truck"},
        **{28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"},
    }


def test_a_sample_is_its_image_and_half_of_them_are_mirrored(scenes):
    read = source(scenes.coco, scenes.images)
    numbers = {label: k for k, label in enumerate(LABELS, start=1)}
    stream = DetectionStream(read, DetectionBatches(batch_size=4))
    originals = [read.read(key) for key in read.keys()]  # noqa: SIM118
    num_mirrored = 0
    for number in range(8):
        images, targets = stream.batch(number)
        assert len(images) == len(targets) == 4, "one round of four images"
        unseen = list(originals)
        for image, target in zip(images, targets, strict=True):
            assert image.dtype == torch.uint8
            pixels = image.numpy().transpose(1, 2, 0)
            for original in unseen:
                straight = np.array_equal(pixels, original.pixels)
                if straight or np.array_equal(pixels[:, ::-1], original.pixels):
                    break
            else:
                pytest.fail("an image of another round")
            unseen.remove(original)
            num_mirrored += not straight
            assert target["labels"].tolist() == [numbers[o.label] for o in original.objects]
            for mask, box, instance in zip(
                target["masks"], target["boxes"], original.objects, strict=True
            ):
                array = mask.numpy() if straight else mask.numpy()[:, ::-1]
                np.testing.assert_array_equal(array, instance.mask.to_array())
                ys, xs = np.nonzero(mask.numpy())
                assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert 8 <= num_mirrored <= 24


def test_objects_of_a_coco_json_keep_their_polygons(tmp_path):
    """Boxes are those of the polygons, inside the image; mirrored with everything else."""
    write_dataset(tmp_path, 1)
    left, right = [10, 20, 30.5, 20, 30.5, 60, 10, 60], [40, 30, 140, 30, 90, 70.25]
    line = [1, 1, 5, 1]  # COCO has some; detectron2 leaves them out
    whole = {"size": [96, 128], "counts": [0, 96 * 128]}
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 7, "segmentation": [line, left, right]},
        {"id": 2, "image_id": 1, "category_id": 7, "segmentation": whole},
    ]
    image = {"id": 1, "file_name": "image_00.png", "height": 96, "width": 128}
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 7}]}
    (tmp_path / "gt.json").write_text(json.dumps(content))
    stream = DetectionStream(source(tmp_path / "gt.json", tmp_path / "images"), DetectionBatches(1))
    seen = set()
    for number in range(8):
        _, (target,) = stream.batch(number)
        box, of_image = target["boxes"].tolist()
        parts, none = target["polygons"]
        assert of_image == [0, 0, 128, 96]
        assert len(none) == 0
        drawn = rle.decode([part.tolist() for part in parts], (96, 128)).to_array()
        assert (drawn != target["masks"][0].numpy()).mean() < 0.01
        is_mirrored = box == [0, 20, 118, 70.25]
        assert is_mirrored or box == [10, 20, 128, 70.25]
        assert parts[1].tolist()[:2] == ([88, 30] if is_mirrored else [40, 30])
        seen.add(is_mirrored)
    assert seen == {False, True}


def test_batches_depend_on_their_number_alone(scenes):
    read = source(scenes.coco, scenes.images)
    whole = list(islice(DetectionStream(read, DetectionBatches(3, seed=5)), 6))
    later = DetectionStream(read, DetectionBatches(3, seed=5), start=2)
    by_two = load(later, 2)
    second_of_two = DetectionStream(read, DetectionBatches(3, seed=5), start=1, stride=2)
    others = DetectionStream(read, DetectionBatches(3, seed=6))
    assert all(map(same, whole[2:], islice(readable(by_two), 4)))
    assert all(map(same, whole[1::2], islice(second_of_two, 3)))
    assert not all(map(same, whole, islice(others, 6)))


def same(first, second):
    return (
        all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))
        and all(
            torch.equal(a[name], b[name])
            for a, b in zip(first[1], second[1], strict=True)
            for name in ("boxes", "labels", "masks")
        )
        and polygons(first) == polygons(second)
    )


def polygons(batch):
    return [
        [[part.tolist() for part in parts] for parts in target["polygons"]] for target in batch[1]
    ]


def test_crowds_of_polygons_come_through_a_loader(tmp_path):
    """More parts than the files that a process may open."""
    write_dataset(tmp_path, 1)
    part = [10, 20, 30, 20, 30, 60]
    annotations = [
        {"id": number, "image_id": 1, "category_id": 7, "segmentation": [part] * 30}
        for number in range(20)
    ]
    image = {"id": 1, "file_name": "image_00.png", "height": 96, "width": 128}
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 7}]}
    (tmp_path / "gt.json").write_text(json.dumps(content))
    stream = DetectionStream(source(tmp_path / "gt.json", tmp_path / "images"), DetectionBatches(2))
    resource = pytest.importorskip("resource", reason="needs limits of POSIX")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        batches = list(islice(readable(load(stream, 1)), 2))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert all(map(same, batches, stream))


def test_images_without_objects_are_replaced(tmp_path):
    write_dataset(tmp_path, 4)
    for name in ("image_00", "image_02"):
        Image.new("L", (128, 96)).save(tmp_path / f"gt/{name}.png")
    read = source(tmp_path / "gt", tmp_path / "images")
    assert read.categories() == {0: "object"}
    images, targets = DetectionStream(read, DetectionBatches(8)).batch(0)
    assert len(images) == 8
    assert all(len(target["boxes"]) for target in targets)
    for path in (tmp_path / "gt").glob("*.png"):
        Image.new("L", (128, 96)).save(path)
    with pytest.raises(ValueError, match="expected images with objects, found none"):
        DetectionStream(read, DetectionBatches(1)).batch(0)


def test_what_cannot_be_read_is_a_sentence_even_from_another_process(tmp_path):
    write_dataset(tmp_path, 2)
    Image.new("L", (90, 80), 1).save(tmp_path / "gt/image_01.png")
    stream = DetectionStream(source(tmp_path / "gt", tmp_path / "images"), DetectionBatches(2))
    with pytest.raises(ValueError, match=r"image_01\.png: expected an image of the size of") as it:
        list(readable(load(stream, 1)))
    assert "Traceback" not in str(it.value)


def test_a_category_that_is_not_listed_is_a_sentence(scenes, tmp_path):
    truth = json.loads(scenes.coco.read_text())
    for annotation in truth["annotations"]:
        annotation["category_id"] = 99
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    read = source(tmp_path / "truth.json", scenes.images)
    with pytest.raises(ValueError, match="expected labels of its categories, got 99"):
        read.read(read.keys()[0])


def test_keypoints_are_mirrored_with_left_and_right(tmp_path):
    write_dataset(tmp_path, 1)
    square = [10, 20, 30, 20, 30, 60, 10, 60]
    person = {"id": 5, "image_id": 1, "category_id": 7, "segmentation": [square]}
    points = [12, 25, 2, 28, 25, 1, 0, 0, 0]
    content = {
        "images": [{"id": 1, "file_name": "image_00.png", "height": 96, "width": 128}],
        "annotations": [{**person, "keypoints": points}, {**person, "id": 6}],
        "categories": [{"id": 7, "name": "person", "keypoints": ["left_eye", "right_eye", "nose"]}],
    }
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(content))
    read = replace(source(path, tmp_path / "images"), keypoints=read_keypoints(path, 3))
    stream = DetectionStream(read, DetectionBatches(1))
    seen = set()
    for number in range(8):
        _, (target,) = stream.batch(number)
        known, none = target["keypoints"].tolist()
        assert not np.any(none)
        is_mirrored = target["boxes"][0].tolist() != [10, 20, 30, 60]
        expected = [[100, 25, 1], [116, 25, 2], [0, 0, 0]] if is_mirrored else None
        assert known == (expected or [[12, 25, 2], [28, 25, 1], [0, 0, 0]])
        seen.add(is_mirrored)
    assert seen == {False, True}
    with pytest.raises(ValueError, match="expected a category with 17 keypoints, found none"):
        read_keypoints(path, 17)
    person["keypoints"] = [1, 2]
    path.write_text(json.dumps({**content, "annotations": [person]}))
    with pytest.raises(ValueError, match="entry 0: expected 3 keypoints of x, y and visibility"):
        read_keypoints(path, 3)


def test_repeated_images_come_more_often_in_a_round(scenes):
    read = source(scenes.coco, scenes.images)
    first, *others = read.keys()
    stream = DetectionStream(read, DetectionBatches(1), repeats={first: 3})
    assert len(stream) == 3 + len(others)
    pixels = torch.from_numpy(read.read(first).pixels.transpose(2, 0, 1).copy())
    rounds = [stream.batch(number)[0][0] for number in range(len(stream))]
    same_image = [torch.equal(p, pixels) or torch.equal(p.flip(-1), pixels) for p in rounds]
    assert sum(same_image) == 3
