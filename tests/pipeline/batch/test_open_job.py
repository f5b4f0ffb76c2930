"""Whatever masks a folder holds: what it is taken for, and what comes back under which name."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.batch.chosen_images import ChosenImages
from bpr.pipeline.batch.open_job import (
    CITYSCAPES,
    COCO,
    LABEL_MAPS,
    LABELME,
    MASKS,
    YOLO,
    JobRequest,
    open_job,
)
from bpr.pipeline.formats import rle
from bpr.pipeline.instance import Mask

SIZE = (40, 60)


def disc(x=20, y=20, radius=12, value=255):
    canvas = np.zeros(SIZE, np.uint8)
    cv2.circle(canvas, (x, y), radius, value, -1)
    return canvas


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path):
    for name in ("a", "b", "a_b", "sub/c"):
        save(tmp_path / f"images/{name}.png", np.zeros((*SIZE, 3), np.uint8))
    return tmp_path


def opened(root, pred="masks", **more):
    return open_job(JobRequest(pred=root / pred, out=root / "out", images=root / "images", **more))


def rewrite(job):
    """Read and write every image; returns what was said of those that cannot be read."""
    reasons = {}
    job.work.mkdir(parents=True)
    for key in job.keys():  # noqa: SIM118
        try:
            loaded = job.read(key)
        except ValueError as error:
            reasons[key] = str(error)
            continue
        job.write(key, loaded.source, loaded.prediction)
    return reasons


def written(root):
    return {
        path.relative_to(root / "out").as_posix(): np.asarray(Image.open(path))
        for path in (root / "out").rglob("*.png")
    }


def test_mask_files_are_found_by_name_by_number_and_by_folder(root):
    files = {
        "a.png": disc(), "b_0.png": disc(15), "b_1.png": disc(30), "a_b_cup.png": disc(25),
        "c/one.png": disc(20), "c/two.png": disc(40),
    }  # fmt: skip
    for name, pixels in files.items():
        save(root / "masks" / name, pixels)
    save(root / "masks/stray.png", disc())
    found = opened(root)
    assert found.format == MASKS
    assert list(found.job.keys()) == ["a.png", "a_b.png", "b.png", "sub/c.png", "stray.png"]
    assert [len(found.job.read(key).prediction.instances) for key in ("a.png", "b.png")] == [1, 2]
    reasons = rewrite(found.job)
    assert list(reasons) == ["stray.png"]
    assert "stray.png: " in reasons["stray.png"]
    again = written(root)
    assert again.keys() == files.keys()
    for name, pixels in files.items():
        np.testing.assert_array_equal(again[name], pixels)


def test_an_instance_map_stays_one(root):
    pixels = disc(15, value=3) + disc(45, value=9)
    save(root / "masks/a.png", pixels)
    job = opened(root).job
    assert len(job.read("a.png").prediction.instances) == 2
    assert rewrite(job) == {}
    np.testing.assert_array_equal(written(root)["a.png"], pixels)


def test_a_label_map_has_its_regions_and_no_holes(root):
    pixels = np.full(SIZE, 7, np.uint8)
    pixels[:, 30:] = 8
    pixels[5:15, 5:15] = 8
    pixels[:3] = 255
    save(root / "masks/a.png", pixels)
    job = opened(root, format=LABEL_MAPS).job
    loaded = job.read("a.png")
    assert [instance.label for instance in loaded.prediction.instances] == [7, 8, 8]
    assert rewrite(job) == {}
    np.testing.assert_array_equal(written(root)["a.png"], pixels)


def test_what_is_there_tells_what_it_is(root):
    save(root / "city/a_0.png", disc())
    (root / "city/a_pred.txt").write_text("a_0.png 26 0.9\n")
    (root / "yolo").mkdir()
    (root / "yolo/a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (root / "labelme").mkdir()
    (root / "labelme/a.json").write_text(json.dumps({"shapes": [], "imagePath": "a.png"}))
    for pred, wanted in (("city", CITYSCAPES), ("yolo", YOLO), ("labelme", LABELME)):
        assert opened(root, pred).format == wanted


def coco_json(root, path):
    labels = {
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "segmentation": rle.encode(Mask.from_array(disc())),
            }
        ],
        "categories": [{"id": 1, "name": "cup"}],
    }
    path.write_text(json.dumps(labels))


def test_photographs_with_their_json_are_found_by_their_folder(root):
    coco_json(root, root / "images/_annotations.coco.json")
    request = JobRequest(pred=root / "images", out=root / "out.json")
    found = open_job(request)
    assert found.format == COCO
    assert found.job.source == root / "images/_annotations.coco.json"
    assert len(found.job.read("1").prediction.instances) == 1


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"imgHeight": 4, "imgWidth": 5, "objects": []}, "polygons of Cityscapes: name the folder"),
        ({"height": 4, "width": 5, "objects": []}, "polygons of Mapillary Vistas.*datum convert"),
        ([{"data_row": {}, "projects": {}}], "an export of Labelbox: export it"),
        ([{"data": {}, "annotations": []}], "an export of Label Studio: export it"),
        ("<annotation><object></object></annotation>", "a Pascal VOC annotation.*datum convert"),
        ("ImageID,LabelName", "a csv of Open Images.*datum convert"),
    ],
)
def test_a_known_format_that_is_not_read_is_named(root, content, name):
    (root / "masks").mkdir()
    if isinstance(content, str):
        ending = "xml" if content[0] == "<" else "csv"
        (root / f"masks/a.{ending}").write_text(content)
    else:
        (root / "masks/a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"this is {name}"):
        opened(root)


def test_a_mask_of_an_image_may_be_named_by_folder_or_pattern(root):
    for number in range(2):
        save(root / f"m/a_{number}.png", disc(20 + number))
    for masks in ([root / "m"], [root / "m/a_*.png"]):
        request = JobRequest(pred=root / "images/a.png", out=root / "out", masks=masks)
        job = open_job(request).job
        assert len(job.read("a.png").prediction.instances) == 2
    with pytest.raises(ValueError, match="expected mask files, found none"):
        open_job(JobRequest(pred=root / "images/a.png", out=root / "o", masks=[root / "m/b_*.png"]))


def test_some_of_the_images_are_chosen_by_pattern_and_number(root):
    for name in ("a", "b", "c"):
        save(root / f"masks/{name}.png", disc())
    job = opened(root).job
    assert list(ChosenImages(job, "sub/*", None).keys()) == ["sub/c.png"]
    assert list(ChosenImages(job, None, 2).keys()) == ["a.png", "b.png"]
    with pytest.raises(ValueError, match=r"--include 'x\*': expected some of a\.png"):
        ChosenImages(job, "x*", None)
    with pytest.raises(ValueError, match="--limit: expected an int > 0"):
        ChosenImages(job, None, 0)


def test_masks_among_their_photographs_are_refused(root):
    save(root / "images/d.png", disc())
    with pytest.raises(ValueError, match="expected another folder than that of the masks"):
        open_job(JobRequest(pred=root / "images", out=root / "o", images=root / "images"))


@pytest.mark.parametrize("name", ["labels.json", "o.report.json"])
def test_an_input_is_never_overwritten(root, name):
    coco_json(root, root / name)
    out = root / ("labels.json" if name == "labels.json" else "o.json")
    coco_json(root, root / "pred.json")
    with pytest.raises(ValueError, match=rf"{name}: expected another place than that of an input"):
        open_job(
            JobRequest(
                pred=root / "pred.json", out=out, images=root / "images", images_json=root / name
            )
        )


def test_a_geotiff_stays_where_it_lies(root):
    tifffile = pytest.importorskip("tifffile")
    tags = {33550: (0.5, 0.5, 0.0), 33922: (0.0, 0.0, 0.0, 500000.0, 4649776.0, 0.0)}
    keys = (1, 1, 0, 1, 1024, 0, 1, 1)
    extra = [(tag, "d", len(value), value, True) for tag, value in tags.items()]
    extra.append((34735, "H", len(keys), keys, True))
    (root / "masks").mkdir()
    tifffile.imwrite(root / "masks/a_1.tif", disc(), photometric="minisblack", extratags=extra)
    tifffile.imwrite(root / "masks/b.tif", disc(), photometric="minisblack")
    job = opened(root).job
    assert rewrite(job) == {}
    with Image.open(root / "out/a_1.tif") as written_:
        assert {tag: written_.tag_v2[tag] for tag in tags} == tags
        assert written_.tag_v2[34735] == keys
        np.testing.assert_array_equal(np.asarray(written_), disc())
    assert (root / "out/b.png").exists()
