"""`bpr refine` on the labels of annotation tools and data sets: LabelMe, YOLO, COCO."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.batch.label_files_job import LabelFilesJob
from bpr.pipeline.batch.label_formats import LabelMe, Yolo
from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.formats import labelme, polygons, rle, yolo
from bpr.pipeline.formats.images import encode_mask, read_mask
from bpr.pipeline.instance import Mask
from bpr.scripts.main import main
from tests.networks import save_random_network


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_random_network(tmp_path_factory.mktemp("weights") / "random.safetensors")


@pytest.fixture
def bpr(weights, capsys):
    def run(*arguments, code=0):
        options = ["--weights", str(weights), "--backend", "torch", "--device", "cpu"]
        assert main(["refine", *map(str, arguments), *options]) == code
        return capsys.readouterr()

    return run


class Scene:
    """A part of a photograph of the demo, with two coarse masks as every kind of label."""

    def __init__(self, folder):
        (scene,) = (scene for scene in load_demo_scenes() if scene.name == "coffee")
        self.image = np.ascontiguousarray(scene.image[100:300, 150:400])
        self.size = self.image.shape[:2]
        arrays = [mask.to_array()[100:300, 150:400] for mask in scene.coarse[:2]]
        outlines = [polygons.trace_pixels(Mask.from_array(array), 1).parts[0] for array in arrays]
        self.polygons = [points.tolist() for points in outlines]
        self.images = folder / "images"
        (self.images / "train").mkdir(parents=True)
        Image.fromarray(self.image).save(self.images / "train/coffee.png")
        Image.fromarray(self.image[:, ::-1]).save(self.images / "other.png")
        self.folder = folder

    def refined(self, bpr, coarse):
        """The masks that `bpr refine PHOTO --masks` gives."""
        names = [self.folder / f"mask{index}.png" for index in range(2)]
        for name, mask in zip(names, coarse, strict=True):
            name.write_bytes(encode_mask(Mask.from_array(mask)))
        image = self.images / "train/coffee.png"
        bpr(image, "--masks", *names, "--out", self.folder / "by-masks")
        masks = [read_mask(self.folder / "by-masks" / name.name) for name in names]
        assert all(np.count_nonzero(a != b) > 50 for a, b in zip(masks, coarse, strict=True))
        return masks


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def arrays(label_format, path, size):
    """The masks of a label file, (H, W) bool each."""
    instances, _ = label_format.read_instances(label_format.parse(path), size)
    return [instance.mask.to_array() for instance in instances.values()]


def outer(mask):
    """A mask as a polygon keeps it: without holes, its parts joined."""
    parts = polygons.trace_pixels(Mask.from_array(mask), 0).parts
    return polygons.fill(polygons.join(parts), mask.shape).to_array()


def test_yolo_labels(scene, bpr):
    labels = scene.folder / "labels"
    (labels / "train").mkdir(parents=True)
    height, width = scene.size
    shares = [(np.array(p) + 0.5) / (width, height) for p in scene.polygons]
    rows = [
        " ".join([f"{label}", *(f"{value:.6f}" for value in share.ravel()), score])
        for label, share, score in zip((7, 2), shares, ("0.50", "0.1"), strict=True)
    ]
    (labels / "train/coffee.txt").write_text("\n".join(rows))
    (labels / "other.txt").write_text("")
    (labels / "classes.txt").write_text("cup\n")
    out = scene.folder / "refined"
    said = bpr(labels, "--images", scene.images, "--out", out, "--polygon-tolerance", 0)
    assert "within 0 px of the outlines" in said.err
    assert "they have no holes" in said.err
    refined = scene.refined(bpr, arrays(yolo, labels / "train/coffee.txt", scene.size))
    file = yolo.parse(out / "train/coffee.txt")
    assert [(line.label, line.tail) for line in file.lines] == [("7", ("0.50",)), ("2", ("0.1",))]
    got = arrays(yolo, out / "train/coffee.txt", scene.size)
    for mask, want in zip(got, refined, strict=True):
        np.testing.assert_array_equal(mask, outer(want))
    assert (out / "other.txt").read_text() == ""
    assert not (out / "classes.txt").exists()
    notes = [note["note"] for note in json.loads((out / "report.json").read_text())["notes"]]
    assert any("hole(s) filled" in note for note in notes)  # random weights leave many
    again = bpr(labels, "--images", scene.images, "--out", out, "--polygon-tolerance", 0)
    assert "2 already done" in again.out
    other = bpr(labels, "--images", scene.images, "--out", out)  # another tolerance
    assert "2 of 2 images refined" in other.out
    assert (out / "train/coffee.txt").stat().st_size < len(file.content)


def labelme_json(scene, name):
    shapes = [
        {"label": "cup", "points": points, "group_id": None, "shape_type": "polygon", "flags": {}}
        for points in scene.polygons
    ]
    shapes.insert(1, {"label": "x", "points": [[1, 2]], "shape_type": "point"})
    height, width = scene.size
    return {
        "shapes": shapes, "imagePath": name, "imageData": None,
        "imageHeight": height, "imageWidth": width,
    }  # fmt: skip


def test_labelme_jsons_beside_their_images(scene, bpr):
    path = scene.images / "train/coffee.json"
    path.write_text(json.dumps(labelme_json(scene, "..\\train\\coffee.png")))
    out = scene.folder / "refined"
    bpr(scene.images, "--out", out, "--polygon-tolerance", 0)
    file = labelme.parse(out / "train/coffee.json")
    labels = [shape["label"] for shape in file.content["shapes"]]
    assert labels[0] == labels[-1] == "cup"
    assert labels.count("x") == 1
    refined = scene.refined(bpr, arrays(labelme, path, scene.size))
    got = arrays(labelme, out / "train/coffee.json", scene.size)
    for mask, want in zip(got, refined, strict=True):
        assert mask[want].all()
        assert not (mask & ~outer(want)).any()


def test_what_is_wrong_with_a_label_file_fails_its_image_alone(scene, bpr):
    labels = scene.folder / "labels"
    labels.mkdir()
    (labels / "coffee.json").write_text(json.dumps(labelme_json(scene, "coffee.png")))
    (labels / "gone.json").write_text(json.dumps(labelme_json(scene, "gone.png")))
    (labels / "torn.json").write_text('{"shapes": [')
    said = bpr(labels, "--images", scene.images, "--out", scene.folder / "refined", code=1)
    assert "1 of 3 images refined" in said.out
    assert "gone.json: " in said.err
    assert "expected one image 'gone.png', found none" in said.err
    assert "torn.json: expected json" in said.err
    assert not (scene.folder / "refined/gone.json").exists()


def coco_labels(scene):
    height, width = scene.size
    flat = [np.array(points, float).ravel().tolist() for points in scene.polygons]
    crowd = rle.encode(Mask.from_array(np.eye(*scene.size)))
    return {
        "info": {"year": 2026},
        "images": [
            {"id": 5, "file_name": "train/coffee.png", "height": height, "width": width, "l": 1},
            {"id": 6, "file_name": "gone.png", "height": height, "width": width},
            {"id": 7, "file_name": "other.png", "height": height, "width": width},
        ],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 3, "segmentation": crowd, "iscrowd": 1},
            {"id": 2, "image_id": 5, "category_id": 3, "segmentation": [flat[0]], "iscrowd": 0,
             "area": 1.0, "bbox": [0, 0, 1, 1], "attributes": {"a": 1}},
            {"id": 3, "image_id": 6, "category_id": 1, "segmentation": [flat[0]], "iscrowd": 0},
            {"id": 4, "image_id": 5, "category_id": 2, "keypoints": [1, 2, 2]},
            {"id": 9, "image_id": 5, "category_id": 1, "segmentation": [flat[1]], "iscrowd": 0},
        ],
        "categories": [{"id": 1, "name": "spoon"}, {"id": 3, "name": "cup"}],
    }  # fmt: skip


@pytest.mark.parametrize("tolerance", [None, 0, 1])
def test_the_labels_of_a_coco_data_set(scene, bpr, tolerance):
    path, out = scene.folder / "labels.json", scene.folder / "refined.json"
    before = coco_labels(scene)
    path.write_text(json.dumps(before))
    options = [] if tolerance is None else ["--polygon-tolerance", tolerance]
    said = bpr(path, "--images", scene.images, "--out", out, *options, code=1)
    assert "1 of 2 images refined" in said.out
    assert "failed: 6: " in said.err
    after = json.loads(out.read_text())
    assert {**after, "annotations": before["annotations"]} == before
    assert [item["id"] for item in after["annotations"]] == [1, 2, 3, 4, 9]
    for index in (0, 2, 3):  # a crowd, an image that failed, keypoints
        assert after["annotations"][index] == before["annotations"][index]
    cup, spoon = after["annotations"][1], after["annotations"][4]
    assert (cup["attributes"], cup["category_id"], cup["iscrowd"]) == ({"a": 1}, 3, 0)
    assert cup["area"] != 1.0
    masks = [rle.decode(item["segmentation"], scene.size).to_array() for item in (cup, spoon)]
    flat = [item["segmentation"] for item in (before["annotations"][1], before["annotations"][4])]
    coarse = [rle.decode(polygon, scene.size).to_array() for polygon in flat]
    for mask, want, item in zip(masks, scene.refined(bpr, coarse), (cup, spoon), strict=True):
        if tolerance is None:
            np.testing.assert_array_equal(mask, want)
            assert isinstance(item["segmentation"], dict)
        else:
            assert isinstance(item["segmentation"][0], list)
            assert mask[want].all() or tolerance
            inside = outer(want)
            assert np.count_nonzero(mask & ~inside) <= (0.02 * mask.size if tolerance else 0)


def test_a_json_that_is_neither_results_nor_labels_is_refused(scene, bpr):
    path = scene.folder / "a.json"
    path.write_text('{"annotations": []}')
    said = bpr(path, "--images", scene.images, "--out", scene.folder / "b.json", code=2)
    assert "expected COCO results (a json list of instances), or a data set's labels" in said.err


def test_nonsense_is_refused(scene, bpr):
    labels = scene.folder / "labels"
    labels.mkdir()
    (labels / "coffee.txt").write_text("0 0.1 0.1 0.2 0.2 0.1 0.2")
    said = bpr(labels, "--images", scene.images, "--out", labels, code=2)
    assert "expected another folder than the input" in said.err
    said = bpr(labels, "--out", scene.folder / "o", code=2)
    assert "--images: expected the folder of the images" in said.err
    for value in ("-1", "11", "nan"):
        said = bpr(
            labels, "--images", scene.images, "--out", scene.folder / "o",
            f"--polygon-tolerance={value}", code=2,
        )  # fmt: skip
        assert "--polygon-tolerance: expected pixels in 0..10" in said.err
    assert not (scene.folder / "o").exists()


@pytest.mark.parametrize("label_format", [LabelMe(), Yolo()])
def test_a_part_of_a_job_can_be_sent_and_does_one_image(scene, label_format):
    labels = scene.folder / "labels"
    (labels / "train").mkdir(parents=True)
    Image.fromarray(scene.image).save(scene.images / "coffee.png")  # a second one of that stem
    text = "0 0.1 0.1 0.2 0.2 0.1 0.2"
    if isinstance(label_format, LabelMe):
        text = json.dumps(labelme_json(scene, "coffee.png"))
    for key in ("coffee", "train/coffee"):
        (labels / f"{key}{label_format.suffix}").write_text(text)
    job = LabelFilesJob(labels, scene.images, scene.folder / "out", label_format)
    for key in job.keys():  # noqa: SIM118
        part = pickle.loads(pickle.dumps(job.part(key)))
        assert part.keys() == [key]
        assert part.stamp(key) == job.stamp(key)
        np.testing.assert_array_equal(part.read(key).image, scene.image)
