from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from bpr.pipeline.formats import coco, rle
from bpr.pipeline.instance import Mask
from tests.strategies import masks, quick

SIZE = (20, 30)


def write_json(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def a_mask(seed=0):
    return Mask.from_array(np.random.default_rng(seed).integers(0, 2, SIZE))


def a_record(seed=0, image_id=1, **more):
    return {
        "image_id": image_id,
        "category_id": 3,
        "score": 0.5,
        "segmentation": rle.encode(a_mask(seed)),
        **more,
    }


def read(tmp_path, *records, image_id="1"):
    results = coco.load_results(write_json(tmp_path / "a.json", list(records)))
    return coco.read_prediction(results, image_id, SIZE)


# reading


def test_the_references_results_are_read(golden):
    results = coco.load_results(golden / "formats/coarse.json")
    records = json.loads((golden / "formats/coarse.json").read_text())
    assert list(results.records.values()) == records
    assert sorted(results.by_image) == ["1", "2"]
    for image_id, positions in results.by_image.items():
        prediction = coco.read_prediction(results, image_id, (256, 512))
        for index, instance in zip(positions, prediction.instances, strict=True):
            record = records[index]
            assert instance.record == record
            assert (instance.label, instance.score) == (record["category_id"], record["score"])
            x0, y0, x1, y1 = instance.mask.window
            assert [x0, y0, x1 - x0, y1 - y0] == record["bbox"]


def test_instances_keep_the_order_of_the_file_though_images_alternate(tmp_path):
    records = [a_record(seed, image_id=seed % 2, tag=seed) for seed in range(6)]
    results = coco.load_results(write_json(tmp_path / "a.json", records))
    assert dict(results.by_image) == {"0": (0, 2, 4), "1": (1, 3, 5)}
    prediction = coco.read_prediction(results, "1", SIZE)
    assert [instance.record["tag"] for instance in prediction.instances] == [1, 3, 5]
    for instance in prediction.instances:
        expected = a_mask(instance.record["tag"])
        np.testing.assert_array_equal(instance.mask.to_array(), expected.to_array())


def test_compressed_and_plain_rle_and_polygons_are_read(tmp_path):
    box = {"segmentation": [[2, 1, 9, 1, 9, 6, 2, 6]]}
    plain = {"segmentation": {"size": list(SIZE), "counts": [30, 10, 560]}}
    prediction = read(tmp_path, a_record(), a_record(**box), a_record(**plain))
    areas = [instance.mask.area for instance in prediction.instances]
    assert areas == [a_mask().area, 35, 10]


def test_a_record_without_score_and_category_has_defaults_and_stays_without(tmp_path):
    record = {"image_id": 1, "segmentation": []}
    (instance,) = read(tmp_path, record).instances
    assert (instance.label, instance.score) == (0, 1.0)
    assert instance.mask.is_empty
    assert sorted(coco.refined_record(instance.record, instance.mask)) == [
        "image_id",
        "segmentation",
    ]


def test_image_ids_may_be_text(tmp_path):
    assert len(read(tmp_path, a_record(image_id="a"), image_id="a").instances) == 1


def test_no_results_are_results(tmp_path):
    results = coco.load_results(write_json(tmp_path / "a.json", []))
    assert not results.records
    assert results.by_image == {}


# refined records


def test_unknown_fields_and_their_order_stay(tmp_path):
    more = {"anno_file": "ä.png", "nested": {"deep": [1, None, True, 1e-7]}, "id": 2**60}
    record = a_record(**more)
    refined = coco.refined_record(record, a_mask(1))
    assert list(refined) == list(record)
    assert {**refined, "segmentation": 0} == {**record, "segmentation": 0}
    assert refined["segmentation"] == rle.encode(a_mask(1))


@quick
@given(mask=masks(max_side=40))
def test_box_and_area_are_those_of_pycocotools_where_a_record_has_them(mask):
    mask = Mask.from_array(mask.to_array())  # the tight window that refinement gives
    record = a_record(bbox=[0, 0, 1, 1], area=1.5)
    refined = json.loads(json.dumps(coco.refined_record(record, mask)))
    assert refined["bbox"] == coco_mask.toBbox(refined["segmentation"]).tolist()
    assert refined["area"] == coco_mask.area(refined["segmentation"])


def test_box_and_area_do_not_appear_where_a_record_has_none():
    assert "bbox" not in coco.refined_record(a_record(area=2), a_mask(1))
    assert "area" not in coco.refined_record(a_record(bbox=[0, 0, 1, 1]), a_mask(1))


def test_refining_a_record_does_not_change_it():
    record = a_record(bbox=[0, 0, 1, 1], area=1)
    before = json.dumps(record)
    coco.refined_record(record, a_mask(1))
    assert json.dumps(record) == before


# writing


@pytest.mark.parametrize("count", [0, 1, 3])
def test_written_results_are_read_back(tmp_path, count):
    records = [a_record(seed, text='ä "quoted"\n\ud800') for seed in range(count)]
    path = write_json(tmp_path / "a.json", "".join(coco.encode_results(records)))
    assert json.loads(path.read_text()) == records
    assert list(coco.load_results(path).records.values()) == records


def test_pycocotools_loads_what_is_written(tmp_path, capsys):
    images = {
        "info": {},
        "images": [{"id": 1, "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 3, "name": "c"}],
        "annotations": [],
    }
    truth = COCO(str(write_json(tmp_path / "truth.json", images)))
    records = [coco.refined_record(a_record(bbox=[0, 0, 1, 1]), a_mask(seed)) for seed in (1, 2)]
    written = write_json(tmp_path / "a.json", "".join(coco.encode_results(records)))
    loaded = truth.loadRes(str(written))
    assert sorted(loaded.anns) == [1, 2]
    capsys.readouterr()


# input that is wrong


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("", "expected json, got"),
        ("[{", "expected json, got"),
        ("[" * 100_000, "expected json, got"),
        ("[" + "1" * 5000 + "]", "expected json, got"),
        ("{}", "expected COCO results .*, got a json object"),
        ("3", "got a json number"),
        ("null", "got a json null"),
    ],
)
def test_a_file_that_holds_no_results_is_refused_by_name(tmp_path, content, rule):
    with pytest.raises(ValueError, match=rf"(?s)a\.json.*{rule}"):
        coco.load_results(write_json(tmp_path / "a.json", content))


@pytest.mark.parametrize(
    ("stray", "rule"),
    [
        (3, "expected an object with an image_id .*, got number"),
        ({}, "got None"),
        ({"image_id": True}, "got True"),
        ({"image_id": float("nan")}, "got nan"),
        ({"image_id": [1]}, r"got \[1\]"),
    ],
)
def test_an_entry_without_an_image_is_set_apart_with_the_reason(tmp_path, stray, rule):
    results = coco.load_results(write_json(tmp_path / "a.json", [stray, {"image_id": 1}]))
    assert results.by_image == {"1": (1,)}
    assert re.search(rf"a\.json, entry 0: .*{rule}", results.strays[0])


@pytest.mark.parametrize(
    ("value", "name"), [(2, "2"), (2.0, "2"), ("2", "2"), (0, "0"), (-7, "-7"), (1.5, "1.5")]
)
def test_an_id_of_any_type_is_a_name(tmp_path, value, name):
    results = coco.load_results(write_json(tmp_path / "a.json", [{"image_id": value}]))
    assert results.by_image == {name: (0,)}


def test_a_missing_file_other_bytes_and_a_folder_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"a\.json: expected a readable json file"):
        coco.load_results(tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"b\.json: expected json"):
        coco.load_results(tmp_path / "b.json")
    (tmp_path / "c.json").mkdir()
    with pytest.raises(ValueError, match=r"c\.json: expected a readable json file"):
        coco.load_results(tmp_path / "c.json")


def test_what_refining_does_not_use_is_no_reason_to_fail(tmp_path):
    records = [
        a_record(category_id="1", score="0.9"),
        a_record(category_id=None, score=float("nan")),
        a_record(segmentation=[[1, 2]]),
        a_record(category_id="7"),
    ]
    results = coco.load_results(write_json(tmp_path / "a.json", records))
    instances, (left,) = coco.read_instances(results, "1", SIZE)
    assert list(instances) == [0, 1, 3]
    assert [instance.label for instance in instances.values()] == [1, 0, 7]
    assert (left.name, left.is_damaged) == ("entry 2", True)
    written = "".join(coco.encode_results([instances[1].record]))
    assert "NaN" in written


def test_categories_that_are_texts_are_numbered_by_the_ground_truth(tmp_path):
    results = coco.load_results(
        write_json(tmp_path / "a.json", [a_record(category_id="cup"), a_record(category_id=2.0)])
    )
    labels = {"cup": 5, "2": 2}
    prediction = coco.read_prediction(results, "1", SIZE, labels)
    assert [instance.label for instance in prediction.instances] == [5, 2]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_json_is_read_by_its_byte_order_mark(tmp_path, encoding):
    text = json.dumps([a_record(image_id="ä")], ensure_ascii=False)
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    (tmp_path / "a.json").write_bytes(mark + text.encode(encoding))
    assert list(coco.load_results(tmp_path / "a.json").by_image) == ["ä"]


def test_polygons_without_an_area_are_left_out_beside_others(tmp_path):
    box = [2, 1, 9, 1, 9, 6, 2, 6]
    (instance,) = read(tmp_path, a_record(segmentation=[box, [0, 0, 5, 5]])).instances
    assert instance.mask.area == 35


@pytest.mark.parametrize("name", ["score", "category_id"])
@pytest.mark.parametrize(
    "value", ["0.5", None, True, [], float("nan"), float("inf"), 10**400, 10**4000]
)
def test_a_number_that_is_none_is_refused_with_the_place_of_its_entry(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"a\.json, entry 1: {name}: expected a number, got "):
        read(tmp_path, a_record(), {**a_record(), name: value})


@pytest.mark.parametrize(
    "segmentation",
    [None, "text", 1, {"size": [512, 1024], "counts": "0"}, [[1, 2]], {"size": list(SIZE)}],
)
def test_a_wrong_segmentation_is_refused_with_the_place_of_its_entry(tmp_path, segmentation):
    with pytest.raises(ValueError, match=r"a\.json, entry 1: segmentation: expected "):
        read(tmp_path, a_record(), a_record(segmentation=segmentation))


def test_an_entry_without_segmentation_is_refused(tmp_path):
    with pytest.raises(ValueError, match="entry 0: segmentation: expected"):
        read(tmp_path, {"image_id": 1, "score": 1, "bbox": [0, 0, 1, 1]})


# file names of images


def test_file_names_and_sizes_come_from_any_json_with_images(tmp_path):
    content = {
        "images": [
            {"id": 7, "file_name": "a/b.jpg", "height": 3, "width": 4},
            {"id": "x", "file_name": "", "height": 1},
            {"id": 7.0, "file_name": "a/b.jpg", "height": 3.0, "width": "4"},
            {"id": 9, "coco_url": "http://images.cocodataset.org/val2017/000000000139.jpg?x=1"},
            {"id": 0, "flickr_url": "http://farm9.staticflickr.com/8035/8024364858_9c41_z.jpg"},
        ]
    }
    images = coco.load_images(write_json(tmp_path / "a.json", content))
    assert images == {
        "7": coco.ImageEntry(7, "a/b.jpg", (3, 4)),
        "x": coco.ImageEntry("x", None, None),
        "9": coco.ImageEntry(9, "000000000139.jpg", None),
        "0": coco.ImageEntry(0, "8024364858_9c41_z.jpg", None),
    }


@pytest.mark.parametrize("ids", [(1, 1), (1, 1.0), (1, "1"), ("a", "a")])
def test_an_id_with_two_files_is_refused_and_both_are_named(tmp_path, ids):
    images = [{"id": i, "file_name": name} for i, name in zip(ids, ("a.jpg", "b.jpg"), strict=True)]
    path = write_json(tmp_path / "a.json", {"images": images})
    with pytest.raises(ValueError, match=rf"id {ids[0]} belongs to a\.jpg and to b\.jpg"):
        coco.load_images(path)


@pytest.mark.parametrize("content", [[], {}, {"images": {}}, {"images": None}, 3])
def test_a_json_without_images_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"a\.json: expected a COCO json with a list 'images'"):
        coco.load_images(write_json(tmp_path / "a.json", content))


@pytest.mark.parametrize(
    "image", [{}, {"id": True}, {"file_name": "a"}, 3, None, {"id": [1], "file_name": "a"}]
)
def test_an_image_without_an_id_is_refused_with_its_place(tmp_path, image):
    content = {"images": [{"id": 1, "file_name": "a"}, image]}
    with pytest.raises(
        ValueError, match=r"a\.json, images, entry 1: expected an object with an id"
    ):
        coco.load_images(write_json(tmp_path / "a.json", content))
