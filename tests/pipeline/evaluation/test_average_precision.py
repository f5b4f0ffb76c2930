"""Figures by the libraries' own names must be the libraries' own figures."""

import json
import math
import os

import numpy as np
import pytest
from hypothesis import given

from bpr.pipeline.datasets.cityscapes_truth import CityscapesTruth
from bpr.pipeline.datasets.coco_truth import CocoTruth
from bpr.pipeline.datasets.predictions import CityscapesPredictions, CocoPredictions
from bpr.pipeline.evaluation.average_precision import AveragePrecisions
from bpr.pipeline.evaluation.cityscapes_ap import CityscapesAp
from bpr.pipeline.evaluation.coco_ap import FAMILY, boundary_ap, coco_ap, encode, lvis_ap
from bpr.pipeline.evaluation.matching import MatchSettings
from bpr.pipeline.formats import rle
from bpr.pipeline.instance import Mask
from tests.pipeline.evaluation.datasets import make_dataset
from tests.pipeline.evaluation.published import (
    cityscapes_boundary_ap,
    cityscapes_printed,
    coco_boundary_stats,
    coco_stats,
)
from tests.strategies import masks, thorough


@pytest.fixture(scope="module", params=range(4))
def scenes(request, tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp(f"scenes{request.param}"), seed=request.param + 50)


def cityscapes(truth_folder, prediction_folder, boundary_ratio=None):
    truth = CityscapesTruth(truth_folder)
    predictions = CityscapesPredictions(prediction_folder)
    measure = CityscapesAp(truth.categories, boundary_ratio)
    for key in truth.keys():  # noqa: SIM118
        image = truth.read(key)
        measure.add(key, image, predictions.read(key, image.size))
    return measure.result()


def averages(truth, predictions, ratio=0.02, class_agnostic=False):
    collected = AveragePrecisions(truth, class_agnostic, ratio)
    truths = AveragePrecisions.truth_records(truth, MatchSettings(class_agnostic=class_agnostic))
    for key in truth.keys():  # noqa: SIM118
        image = truth.read(key)
        number = truths.add(key, image)
        collected.add(key, number, image, predictions.read(key, image.size))
    return collected.averages(truths)


class TestCityscapes:
    @pytest.mark.parametrize("stage", ["before", "after"])
    def test_ap_is_what_cityscapesscripts_prints(self, scenes, stage, tmp_path):
        folder = scenes.folder / stage
        printed, result = cityscapes_printed(folder, scenes.gt_fine, tmp_path)
        found = cityscapes(scenes.gt_fine, folder)
        averages = result["averages"]
        assert (found.mean.ap, found.mean.ap_50) == (averages["allAp"], averages["allAp50%"])
        assert printed["average"] == (round(found.mean.ap, 3), round(found.mean.ap_50, 3))
        for name, ap in found.by_label.items():
            expected = averages["classes"][name]
            np.testing.assert_equal((ap.ap, ap.ap_50), (expected["ap"], expected["ap50%"]))

    @pytest.mark.parametrize("ratio", [0.005, 0.02])
    def test_boundary_ap_is_the_published_definition(self, scenes, ratio):
        found = cityscapes(scenes.gt_fine, scenes.before, ratio)
        names = CityscapesTruth(scenes.gt_fine).categories
        expected = cityscapes_boundary_ap(scenes.before, scenes.gt_fine, ratio, names)
        for name, values in expected.items():
            assert found.by_label[name].ap == pytest.approx(np.mean(values), nan_ok=True)
            assert found.by_label[name].ap_50 == pytest.approx(values[0], nan_ok=True)
        every = np.array(list(expected.values()))
        assert found.mean.ap == pytest.approx(np.nanmean(every))

    def test_the_scenes_tell_good_from_bad(self, scenes):
        before, after = (cityscapes(scenes.gt_fine, scenes.folder / s) for s in ("before", "after"))
        assert 0.05 < before.mean.ap < after.mean.ap < 1

    def test_without_objects_there_is_no_ap(self):
        assert math.isnan(CityscapesAp({26: "car"}).result().mean.ap)

    def test_nothing_is_written_outside(self, scenes, tmp_path, monkeypatch):
        from cityscapesscripts import evaluation

        monkeypatch.chdir(tmp_path)
        package = next(iter(evaluation.__path__))
        before = sorted(os.listdir(package))
        cityscapes(scenes.gt_fine, scenes.before)
        assert sorted(os.listdir(package)) == before
        assert list(tmp_path.iterdir()) == []


class TestCoco:
    @pytest.mark.parametrize("stage", ["before", "after"])
    def test_the_family_is_that_of_pycocotools_on_the_files(self, scenes, stage):
        truth, path = CocoTruth(scenes.coco), scenes.folder / f"{stage}.json"
        found = averages(truth, CocoPredictions(path, truth.key_of_ids()))
        expected = coco_stats(scenes.coco, path)
        for name, value in zip(FAMILY, expected, strict=True):
            np.testing.assert_equal(found.values[name], value if value > -1 else math.nan)

    @pytest.mark.parametrize("ratio", [0.02, 0.005])
    def test_boundary_ap_is_the_published_definition(self, scenes, ratio):
        truth = CocoTruth(scenes.coco)
        predictions = CocoPredictions(scenes.before_json, truth.key_of_ids())
        found = averages(truth, predictions, ratio)
        expected = coco_boundary_stats(scenes.coco, scenes.before_json, ratio)
        for name, value in zip(FAMILY[:6], expected[:6], strict=True):
            ours = found.values[f"boundary {name}"]
            assert ours == pytest.approx(value if value > -1 else math.nan, nan_ok=True)

    def test_masks_from_png_files_give_the_same_as_from_json(self, scenes, tmp_path):
        truth = CocoTruth(scenes.coco)
        records = json.loads(scenes.before_json.read_text())
        for record in records:  # pycocotools takes the size of an instance from its box
            record.pop("bbox", None)
        results = tmp_path / "results.json"
        results.write_text(json.dumps(records))
        from_json = averages(truth, CocoPredictions(results, truth.key_of_ids()))
        from_files = averages(truth, CityscapesPredictions(scenes.before))
        np.testing.assert_equal(from_files.values, from_json.values)

    def test_a_box_that_only_some_records_have_is_passed_over(self, scenes, tmp_path):
        truth = CocoTruth(scenes.coco)
        records = json.loads(scenes.before_json.read_text())
        found = []
        for boxes in (0, 1):
            for number, record in enumerate(records):
                record.pop("bbox", None)
                if number < boxes:
                    record["bbox"] = [0, 0, 1000, 1000]
            results = tmp_path / "results.json"
            results.write_text(json.dumps(records))
            predictions = CocoPredictions(results, truth.key_of_ids())
            found.append(averages(truth, predictions).values)
        np.testing.assert_equal(*found)

    def test_ids_may_be_text(self, scenes, tmp_path):
        truth = CocoTruth(scenes.coco)
        for item in truth.content["images"]:
            item["id"] = f"no {item['id']:04}"
        for item in truth.content["annotations"]:
            item["image_id"] = f"no {item['image_id']:04}"
        path = tmp_path / "text.json"
        path.write_text(json.dumps(truth.content))
        predictions = CityscapesPredictions(scenes.before)
        with_text = averages(CocoTruth(path), predictions)
        with_numbers = averages(CocoTruth(scenes.coco), predictions)
        np.testing.assert_equal(with_text.values, with_numbers.values)

    @thorough
    @given(mask=masks())
    def test_codes_found_in_the_window_are_those_of_the_whole_image(self, mask):
        assert encode(mask) == rle.encode(mask)

    def test_no_predictions_give_zero_and_no_objects_nothing(self):
        code = encode(Mask.from_array(np.eye(5, dtype=bool)))
        item = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": code, "area": 5}
        truth = {
            "images": [{"id": 1, "height": 5, "width": 5}],
            "annotations": [item | {"bbox": [0, 0, 5, 5], "iscrowd": 0}],
            "categories": [{"id": 1, "name": "object"}],
        }
        record = {"image_id": 1, "category_id": 1, "segmentation": code, "score": 0.5}
        for measure in (coco_ap, lambda *a: boundary_ap(*a, 0.02)):
            assert measure(truth, []).values["AP"] == 0
            assert measure(truth, [record]).values["AP"] == pytest.approx(1)
            assert math.isnan(measure({**truth, "annotations": []}, [record]).values["AP"])


class TestLvis:
    """One category of one image at a time, so that each rule shows."""

    @staticmethod
    def scene(**image):
        def code(x):
            array = np.zeros((40, 120), np.bool_)
            array[5:30, x : x + 25] = True
            return encode(Mask.from_array(array))

        annotation = {
            "id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0,
            "segmentation": code(0), "area": 625, "bbox": [0, 5, 25, 25],
        }  # fmt: skip
        truth = {
            "images": [
                {"id": 1, "height": 40, "width": 120, "neg_category_ids": [],
                 "not_exhaustive_category_ids": [], **image},
                {"id": 2, "height": 40, "width": 120, "neg_category_ids": [],
                 "not_exhaustive_category_ids": []},
            ],
            "annotations": [annotation],
            "categories": [{"id": 1, "name": "a", "frequency": "f"},
                           {"id": 2, "name": "b", "frequency": "f"}],
        }  # fmt: skip
        hit = {"image_id": 1, "category_id": 1, "segmentation": code(0), "score": 0.5}
        extra = {"image_id": 1, "category_id": 1, "segmentation": code(60), "score": 0.9}
        return truth, hit, extra

    @pytest.mark.parametrize("ratio", [None, 0.02])
    def test_a_false_instance_costs_where_the_category_is_exhaustive(self, ratio):
        truth, hit, extra = self.scene()
        assert lvis_ap(truth, [hit], ratio).values["AP"] == pytest.approx(1)
        assert lvis_ap(truth, [hit, extra], ratio).values["AP"] == pytest.approx(0.5)

    def test_it_costs_nothing_where_not_all_are_annotated(self):
        truth, hit, extra = self.scene(not_exhaustive_category_ids=[1])
        assert lvis_ap(truth, [hit, extra], None).values["AP"] == pytest.approx(1)

    def test_instances_of_a_category_nobody_looked_for_are_dropped(self):
        truth, hit, extra = self.scene()
        elsewhere = [hit, extra | {"image_id": 2}]
        assert lvis_ap(truth, elsewhere, None).values["AP"] == pytest.approx(1)
        truth["images"][1]["neg_category_ids"] = [1]
        assert lvis_ap(truth, elsewhere, None).values["AP"] == pytest.approx(0.5)

    def test_up_to_300_instances_of_an_image_count(self):
        truth, hit, extra = self.scene()
        many = [extra | {"score": 0.9}] * 250 + [hit]
        assert lvis_ap(truth, many, None).values["AP"] == pytest.approx(1 / 251, abs=1e-3)
        assert coco_ap(truth, many).values["AP"] == 0  # COCO takes 100

    def test_recalls_of_coco_are_not_claimed(self):
        truth, hit, _ = self.scene()
        assert all(name.startswith("AP") for name in lvis_ap(truth, [hit], None).values)


class TestCocoOnLvis:
    """AP*: COCO's categories against the annotations of LVIS."""

    @staticmethod
    def as_lvis(dataset, tmp_path):
        """The scenes with the vocabulary of LVIS; a category that COCO has not besides."""
        content = json.loads(dataset.coco.read_text())
        synsets = {24: "person.n.01", 25: "rider.n.01", 26: "car.n.01", 33: "bicycle.n.01"}
        for category in content["categories"]:
            category.update(synset=synsets[category["id"]], frequency="f")
        content["annotations"] = [item for item in content["annotations"] if not item["iscrowd"]]
        for item in content["annotations"]:
            del item["iscrowd"]
        for image in content["images"]:
            image["coco_url"] = "http://images.example/val2017/" + image.pop("file_name")
            image["neg_category_ids"] = [24, 25, 26, 33]
            image["not_exhaustive_category_ids"] = []
        path = tmp_path / "lvis.json"
        path.write_text(json.dumps(content))
        return path

    def test_categories_are_found_by_their_synsets(self, scenes, tmp_path):
        truth = CocoTruth(self.as_lvis(scenes, tmp_path), coco_categories=True)
        assert truth.is_lvis
        assert dict(truth.categories) == {1: "person", 3: "car", 2: "bicycle"}
        assert truth.content["images"][0]["neg_category_ids"] == [1, 3, 2]

    def test_where_all_was_looked_for_it_is_the_ap_of_coco(self, scenes, tmp_path):
        truth = CocoTruth(self.as_lvis(scenes, tmp_path), coco_categories=True)
        records = [
            {**item, "category_id": {24: 1, 26: 3, 33: 2}[item["category_id"]]}
            for item in json.loads(scenes.before_json.read_text())
            if item["category_id"] != 25
        ]
        results = tmp_path / "results.json"
        results.write_text(json.dumps(records))
        found = averages(truth, CocoPredictions(results, truth.key_of_ids()))
        plain = tmp_path / "plain.json"
        for item in truth.content["annotations"]:
            item["iscrowd"] = 0
        plain.write_text(json.dumps(truth.content))
        expected = coco_stats(plain, results)
        for name, value in zip(FAMILY[:6], expected[:6], strict=True):
            wanted = value if value > -1 else math.nan
            assert found.values[name] == pytest.approx(wanted, nan_ok=True)

    def test_a_plain_coco_json_has_no_synsets(self, scenes):
        with pytest.raises(ValueError, match="expected an LVIS category with a synset"):
            CocoTruth(scenes.coco, coco_categories=True)


class TestSparseJson:
    def test_ids_and_areas_may_be_missing(self, scenes, tmp_path):
        content = json.loads(scenes.coco.read_text())
        for item in content["annotations"]:
            del item["id"], item["area"], item["bbox"]
            if not item["iscrowd"]:
                del item["iscrowd"]
        path = tmp_path / "sparse.json"
        path.write_text(json.dumps(content))
        predictions = CityscapesPredictions(scenes.before)
        sparse = averages(CocoTruth(path), predictions)
        whole = averages(CocoTruth(scenes.coco), predictions)
        np.testing.assert_equal(sparse.values, whole.values)

    def test_ids_given_twice_change_nothing(self, scenes, tmp_path):
        """Annotations are numbered anew before any library sees them."""
        content = json.loads(scenes.coco.read_text())
        content["annotations"][0]["id"] = content["annotations"][1]["id"]
        path = tmp_path / "twice.json"
        path.write_text(json.dumps(content))
        predictions = CityscapesPredictions(scenes.before)
        twice = averages(CocoTruth(path), predictions)
        np.testing.assert_equal(twice.values, averages(CocoTruth(scenes.coco), predictions).values)
