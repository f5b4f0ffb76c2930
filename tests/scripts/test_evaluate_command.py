"""`bpr evaluate` as a user runs it: files in, files out, exit codes and messages."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from bpr.scripts.main import main
from tests.networks import save_random_network
from tests.pipeline.evaluation.datasets import make_dataset


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("clean"), num_images=3, seed=5)


@pytest.fixture
def dataset(tmp_path):
    """A data set to break."""
    return make_dataset(tmp_path / "data", num_images=3, seed=5)


@pytest.fixture
def evaluate(capsys, tmp_path):
    def run(*arguments):
        code = main(["evaluate", *map(str, arguments), "--out", str(tmp_path / "out")])
        said = capsys.readouterr()
        path = tmp_path / "out" / "report.json"
        return code, said.out, said.err, json.loads(path.read_text()) if path.exists() else None

    return run


def test_cityscapes_before_and_after(clean, evaluate, tmp_path):
    code, out, _, report = evaluate(
        clean.after, "--before", clean.before, "--ground-truth", clean.gt_fine,
        "--images", clean.images, "--method", "guided-filter", "--method", "grabcut",
    )  # fmt: skip
    assert code == 0
    names = [run["name"] for run in report["runs"]]
    assert names == ["before", "after", "guided-filter", "grabcut", "ceiling"]
    assert report["ground_truth"]["kind"] == "Cityscapes gtFine"
    assert report["settings"]["boundary_ratio"] == 0.005
    assert set(report["runs"][0]["average_precision"]) >= {"AP", "AP50", "boundary AP"}
    assert report["runs"][2]["seconds_per_instance"] > 0
    for title in ("Average precision", "By category", "By size", "Made worse"):
        assert title in out
    assert (tmp_path / "out/index.html").stat().st_size > 10_000


def test_coco_jsons(clean, evaluate):
    code, out, _, report = evaluate(
        clean.after_json, "--before", clean.before_json, "--ground-truth", clean.coco
    )
    assert code == 0
    assert report["ground_truth"]["kind"] == "COCO json"
    assert {"AP", "AP75", "AP_small", "AR_100", "boundary AP"} <= set(
        report["runs"][0]["average_precision"]
    )
    assert "car" in out


def test_coco_results_against_instance_maps(clean, evaluate):
    code, _, _, report = evaluate(
        clean.after_json, "--ground-truth", clean.maps, "--images-json", clean.coco
    )
    assert code == 0
    assert report["settings"]["class_agnostic"]
    assert report["runs"][0]["objects_found"] > 0


def test_mask_files_of_one_image(clean, evaluate):
    stem = "town_000000_000019"
    image = next(clean.images.rglob(f"{stem}*"))
    masks = [sorted(folder.glob(f"{stem}*_0.png")) for folder in (clean.after, clean.before)]
    code, _, _, report = evaluate(
        image, "--masks", *masks[0], "--before-masks", *masks[1],
        "--ground-truth", clean.maps / f"{stem}.png", "--images", image.parent,
    )  # fmt: skip
    assert code == 0
    assert report["ground_truth"]["images"] == 1
    assert [run["name"] for run in report["runs"]] == ["before", "after", "ceiling"]


def test_a_network_is_one_more_method(clean, evaluate, tmp_path):
    weights = save_random_network(tmp_path / "tiny.safetensors")
    code, _, _, report = evaluate(
        clean.before, "--ground-truth", clean.gt_fine, "--images", clean.images,
        "--method", weights, "--backend", "torch", "--no-average-precision",
    )  # fmt: skip
    assert code == 0
    assert [run["name"] for run in report["runs"]] == ["prediction", "tiny", "ceiling"]
    assert report["about"]["methods"]["tiny"]["weights_sha256"]


def test_nothing_is_written_besides_the_report(clean, evaluate, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    evaluate(clean.after, "--ground-truth", clean.gt_fine)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "index.html", "objects.csv", "report.json",
    ]  # fmt: skip


class TestWhatIsIncomplete:
    """Exit code 1: the rest is evaluated, and what is not is said."""

    def test_an_image_without_prediction_counts_as_missed(self, dataset, evaluate):
        lost = sorted(dataset.after.glob("*_pred.txt"))[0]
        whole = evaluate(dataset.after, "--ground-truth", dataset.gt_fine)[3]
        lost.unlink()
        code, _, err, report = evaluate(dataset.after, "--ground-truth", dataset.gt_fine)
        assert code == 1
        assert "no prediction, objects count as missed: town_000000_000019" in err
        assert report["problems"]["images_without_prediction"] == ["town_000000_000019"]
        assert report["ground_truth"]["objects"] == whole["ground_truth"]["objects"]
        assert report["runs"][0]["objects_missed"] > whole["runs"][0]["objects_missed"]

    def test_it_can_be_left_out(self, dataset, evaluate):
        sorted(dataset.after.glob("*_pred.txt"))[0].unlink()
        code, _, _, report = evaluate(
            dataset.after, "--ground-truth", dataset.gt_fine, "--only-predicted"
        )
        assert code == 0
        assert report["ground_truth"]["images"] == 2

    def test_a_coco_results_json_need_not_name_every_image(self, dataset, evaluate):
        records = json.loads(dataset.after_json.read_text())
        kept = [record for record in records if record["image_id"] != 3]
        dataset.after_json.write_text(json.dumps(kept))
        code, _, _, report = evaluate(dataset.after_json, "--ground-truth", dataset.coco)
        assert code == 0
        assert report["ground_truth"]["images"] == 3

    def test_predictions_without_ground_truth_are_named(self, dataset, evaluate):
        sorted(dataset.gt_fine.rglob("*_instanceIds.png"))[0].unlink()
        code, _, err, report = evaluate(dataset.after, "--ground-truth", dataset.gt_fine)
        assert code == 1
        assert "prediction without ground truth, not scored: town_000000_000019" in err
        assert report["ground_truth"]["images"] == 2

    def test_an_unknown_image_id_is_named(self, dataset, evaluate):
        records = json.loads(dataset.after_json.read_text())
        records[0]["image_id"] = 999
        dataset.after_json.write_text(json.dumps(records))
        code, _, err, _ = evaluate(dataset.after_json, "--ground-truth", dataset.coco)
        assert code == 1
        assert "prediction without ground truth, not scored: image id 999" in err

    def test_a_mask_of_another_size_leaves_its_image_out(self, dataset, evaluate):
        mask = sorted(dataset.after.glob("*_000001_*.png"))[0]
        Image.fromarray(np.zeros((10, 12), np.uint8)).save(mask)
        code, _, err, report = evaluate(dataset.after, "--ground-truth", dataset.gt_fine)
        assert code == 1
        assert f"{mask}: expected a mask of the size of its ground truth, 140 x 96 pixels" in err
        assert report["ground_truth"]["images"] == 2
        assert report["problems"]["failures"][0]["image"] == "town_000001_000019"

    def test_an_image_that_fails_is_left_out_of_both_sides(self, dataset, evaluate):
        sorted(dataset.before.glob("*_000001_*.png"))[0].write_bytes(b"no image")
        code, _, err, report = evaluate(
            dataset.after, "--before", dataset.before, "--ground-truth", dataset.gt_fine
        )
        assert code == 1
        assert "left out, failed: town_000001_000019" in err
        images = {item["image"] for item in report["instances"]}
        assert images == {"town_000000_000019", "town_000002_000019"}

    def test_a_missing_image_fails_only_where_it_is_needed(self, dataset, evaluate):
        sorted(dataset.images.rglob("*.png"))[0].unlink()
        common = (dataset.after, "--ground-truth", dataset.gt_fine, "--images", dataset.images)
        assert evaluate(*common)[0] == 0
        code, _, err, _ = evaluate(*common, "--method", "guided-filter")
        assert code == 1
        assert "expected an image town_000000_000019.*" in err

    def test_broken_ground_truth_is_named(self, dataset, evaluate):
        path = sorted(dataset.gt_fine.rglob("*_instanceIds.png"))[0]
        path.write_bytes(path.read_bytes()[:200])
        code, _, err, _ = evaluate(dataset.after, "--ground-truth", dataset.gt_fine)
        assert code == 1
        assert str(path) in err

    def test_values_that_are_no_cityscapes_ids_are_named(self, dataset, evaluate):
        path = sorted(dataset.gt_fine.rglob("*_instanceIds.png"))[0]
        values = np.array(Image.open(path))
        values[0, 0] = 60_000
        Image.fromarray(values).save(path)
        code, _, err, _ = evaluate(dataset.after, "--ground-truth", dataset.gt_fine)
        assert code == 1
        assert f"{path}: expected Cityscapes ids, got the value 60000" in err


class TestWhatIsWrong:
    """Exit code 2: nothing can be evaluated."""

    @pytest.fixture
    def refused(self, evaluate):
        def run(*arguments):
            code, out, err, report = evaluate(*arguments)
            assert (code, out, report) == (2, "", None)
            return err

        return run

    def test_names_that_do_not_meet(self, dataset, refused):
        for path in dataset.after.glob("*_pred.txt"):
            path.rename(path.with_name("other_" + path.name))
        said = refused(dataset.after, "--ground-truth", dataset.gt_fine)
        assert "found none in common: town_000000_000019" in said
        assert "other_town_000000_000019" in said

    def test_an_empty_folder_of_predictions(self, dataset, refused, tmp_path):
        (tmp_path / "empty").mkdir()
        said = refused(tmp_path / "empty", "--ground-truth", dataset.gt_fine)
        assert "expected masks or label files (cityscapes, coco" in said

    def test_an_empty_folder_of_ground_truth(self, dataset, refused, tmp_path):
        (tmp_path / "empty").mkdir()
        said = refused(dataset.after, "--ground-truth", tmp_path / "empty")
        assert "expected instance maps (*.png), found none" in said

    def test_paths_that_do_not_exist(self, dataset, refused, tmp_path):
        nowhere = tmp_path / "nowhere"
        assert "expected predictions, found no" in refused(nowhere, "--ground-truth", dataset.maps)
        said = refused(dataset.after, "--ground-truth", nowhere)
        assert "expected ground truth, found no file or folder" in said

    def test_labels_of_another_data_set(self, dataset, refused):
        for path in dataset.after.glob("*_pred.txt"):
            lines = [line.split() for line in path.read_text().splitlines()]
            path.write_text("".join(f"{file} 1 {score}\n" for file, _, score in lines))
        said = refused(dataset.after, "--ground-truth", dataset.gt_fine)
        assert "predictions: expected category ids of the ground truth [24, 25, 26" in said
        assert "--class-agnostic" in said

    def test_a_results_json_as_ground_truth(self, dataset, refused):
        said = refused(dataset.after_json, "--ground-truth", dataset.after_json)
        assert "expected a COCO json (an object)" in said

    @pytest.mark.parametrize("name", ["images", "annotations", "categories"])
    def test_ground_truth_that_lacks_a_list(self, dataset, refused, name):
        content = json.loads(dataset.coco.read_text())
        del content[name]
        dataset.coco.write_text(json.dumps(content))
        said = refused(dataset.after_json, "--ground-truth", dataset.coco)
        assert f"expected a COCO json with a list '{name}'" in said

    def test_an_annotation_of_an_unlisted_image(self, dataset, refused):
        content = json.loads(dataset.coco.read_text())
        content["annotations"][0]["image_id"] = 77
        dataset.coco.write_text(json.dumps(content))
        said = refused(dataset.after_json, "--ground-truth", dataset.coco)
        assert "expected annotations of the images that it lists, got image_id 77" in said

    def test_two_predictions_for_one_image(self, dataset, refused):
        first = sorted(dataset.after.glob("*_pred.txt"))[0]
        shutil.copy(first, first.with_name(first.name.replace("_leftImg8bit", "")))
        said = refused(dataset.after, "--ground-truth", dataset.gt_fine)
        assert "expected one file for each image" in said

    def test_methods_without_images(self, dataset, refused):
        said = refused(dataset.after, "--ground-truth", dataset.gt_fine, "--method", "grabcut")
        assert "--images: expected the folder of the images" in said

    def test_a_method_nobody_knows(self, dataset, refused):
        said = refused(
            dataset.after, "--ground-truth", dataset.gt_fine, "--images", dataset.images,
            "--method", "magic",
        )  # fmt: skip
        assert "magic" in said

    def test_a_method_twice(self, dataset, refused):
        common = (dataset.after, "--ground-truth", dataset.gt_fine, "--images", dataset.images)
        said = refused(*common, "--method", "grabcut", "--method", "grabcut")
        assert "--method: expected different methods, got grabcut twice" in said

    @pytest.mark.parametrize(
        ("option", "value", "said"),
        [
            ("--boundary-ratio", "0", "boundary_ratio: expected a number > 0"),
            ("--threshold", "1", "threshold: expected a number in [0, 1)"),
            ("--positive-iou", "0", "positive_iou: expected a number in (0, 1]"),
            ("--pictures", "-1", "num_pictures: expected an int >= 0"),
            ("--nms-iou", "0", "nms_iou: expected a number in (0, 1]"),
        ],
    )
    def test_definitions_out_of_range(self, dataset, refused, option, value, said):
        assert said in refused(dataset.after, "--ground-truth", dataset.gt_fine, option, value)


def test_every_image_failing_is_said_once(dataset, evaluate):
    for path in dataset.after.glob("*_pred.txt"):
        path.write_text("missing.png 26 0.5\n")
    code, _, err, report = evaluate(dataset.after, "--ground-truth", dataset.gt_fine)
    assert (code, report) == (2, None)
    assert "expected at least one image that can be read, all 3 failed" in err


class TestNothingToSay:
    """Not wrong, but it should be noticed."""

    def test_ground_truth_without_objects(self, dataset, evaluate):
        for path in dataset.maps.glob("*.png"):
            Image.fromarray(np.zeros((96, 140), np.uint8)).save(path)
        code, _, err, report = evaluate(
            dataset.after, "--before", dataset.before, "--ground-truth", dataset.maps
        )
        assert code == 0
        assert "the ground truth of these images has no objects" in err
        assert report["runs"][0]["groups"]["overall"]["this"]["boundary_iou"] is None

    def test_predictions_that_meet_no_object(self, dataset, evaluate):
        for path in dataset.after.glob("*_pred.txt"):
            path.write_text("")
        code, _, err, report = evaluate(dataset.after, "--ground-truth", dataset.maps)
        assert code == 0
        assert "no object has a prediction that overlaps it enough (IoU 0.5" in err
        assert report["runs"][0]["objects_found"] == 0


def test_a_report_takes_no_place_of_others(dataset, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for out, words in ((dataset.after, "that of inputs"), (tmp_path / "file", "got a file")):
        given = [dataset.after, "--ground-truth", dataset.gt_fine, "--out", out]
        assert main(["evaluate", *map(str, given)]) == 2
        assert words in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
    assert not (dataset.after / "report.json").exists()


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--help"])
    assert stop.value.code == 0
    assert "bpr evaluate refined --before predictions" in capsys.readouterr().out


def test_a_missing_library_is_named_before_any_work(clean, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert main(["evaluate", str(clean.after), "--ground-truth", "nowhere"]) == 2
    said = capsys.readouterr().err
    assert "expected faster_coco_eval to be installed" in said
    assert "pip install 'bpr-refine[evaluate]'" in said
