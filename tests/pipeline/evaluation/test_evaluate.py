"""The evaluation as a whole: every figure again, from whole images and plain loops."""

import json

import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.datasets.ground_truth import image_key
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.open_ground_truth import open_ground_truth
from bpr.pipeline.datasets.predictions import open_predictions
from bpr.pipeline.evaluation.ceiling import perfect_patches
from bpr.pipeline.evaluation.comparison import compare, histogram, share_of_possible
from bpr.pipeline.evaluation.evaluate import evaluate
from bpr.pipeline.evaluation.inputs import EvaluationInputs, EvaluationSettings
from bpr.pipeline.evaluation.matching import MatchSettings
from bpr.pipeline.evaluation.report import build_report
from bpr.pipeline.evaluation.rivals import GuidedFilter
from bpr.pipeline.evaluation.scores import size_class
from bpr.pipeline.geometry import select_patches
from bpr.pipeline.instance import Mask
from bpr.pipeline.settings import PatchSettings
from tests import oracles

PATCHES = PatchSettings(patch_size=16)


def run(dataset, truth, prediction, before=None, methods=None, agnostic=False, **settings):
    truth = open_ground_truth(truth)
    names = truth.key_of_ids() if truth.image_id(truth.keys()[0]) is not None else None
    inputs = EvaluationInputs(
        truth=truth,
        prediction=open_predictions(prediction, None, names),
        before=open_predictions(before, None, names) if before else None,
        methods=methods or {},
        images=ImageIndex(dataset.images),
    )
    matching = MatchSettings(class_agnostic=agnostic or truth.categories is None)
    return evaluate(
        inputs,
        EvaluationSettings(
            matching=matching, boundary_ratio=truth.boundary_ratio, patches=PATCHES, **settings
        ),
    )


def masks_of(dataset, folder, stem):
    """What a prediction folder says, without the formats' code."""
    found = []
    for line in (folder / f"{stem}_leftImg8bit_pred.txt").read_text().splitlines():
        file, label, score = line.split()
        found.append((np.array(Image.open(folder / file)) != 0, int(label), float(score)))
    return found


def expected_scores(dataset, folder, held=None):
    """{(image, value): (index, five scores)} by Cityscapes ground truth, from whole images."""
    found = {}
    for path in sorted(dataset.gt_fine.rglob("*_instanceIds.png")):
        stem = path.name.replace("_gtFine_instanceIds.png", "")
        values = np.array(Image.open(path))
        ignore = values == 4
        for value in [v for v in np.unique(values).tolist() if v >= 1000]:
            gt = values == value
            best = (0.0, 0.0, None)
            for index, (mask, label, score) in enumerate(masks_of(dataset, folder, stem)):
                union = ((mask | gt) & ~ignore).sum()
                iou = (mask & gt & ~ignore).sum() / union if union else 0.0
                if held is not None:
                    if (stem, value) in held and held[stem, value][0] == index:
                        best = (iou, score, index)
                elif label == value // 1000 and iou >= 0.5 and (iou, score) > best[:2]:
                    best = (iou, score, index)
            if best[2] is not None:
                mask = masks_of(dataset, folder, stem)[best[2]][0]
                boundary = oracles.boundary_iou(mask, gt, 0.005, ignore)
                f = [oracles.boundary_f(mask, gt, t, ignore) for t in (1, 2, 3)]
                found[stem, value] = (best[2], (best[0], boundary, *f))
    return found


def test_every_object_has_the_scores_of_plain_loops(dataset):
    found = run(dataset, dataset.gt_fine, dataset.after, before=dataset.before)
    before = expected_scores(dataset, dataset.before)
    after = expected_scores(dataset, dataset.after, held=before)
    assert len(before) > 8
    for index, item in enumerate(found.objects):
        for name, expected in (("before", before), ("after", after)):
            scores = found.run(name).scores[index]
            if (item.image, item.annotation) in expected:
                wanted = expected[item.image, item.annotation][1]
                np.testing.assert_allclose(scores, wanted, atol=1e-12)
            else:
                assert np.isnan(scores).all()
    own = expected_scores(dataset, dataset.after)
    for index, item in enumerate(found.objects):
        scores = found.run("after").own_scores[index]
        if (item.image, item.annotation) in own:
            wanted = own[item.image, item.annotation][1]
            np.testing.assert_allclose(scores, wanted, atol=1e-12)
        else:
            assert np.isnan(scores).all()


def test_the_same_scenes_give_the_same_figures_in_every_format(dataset):
    fine = run(dataset, dataset.gt_fine, dataset.after)
    by_json = run(dataset, dataset.coco, dataset.after_json)
    by_files = run(dataset, dataset.coco, dataset.after)
    np.testing.assert_array_equal(by_json.base.scores, by_files.base.scores)
    assert [item.area for item in fine.objects] == [item.area for item in by_json.objects]
    assert by_json.num_crowds == fine.num_crowds > 0
    # only Cityscapes knows void pixels, and takes a narrower boundary
    assert not np.array_equal(fine.base.scores, by_json.base.scores)


def test_instance_maps_are_matched_whatever_the_labels(dataset):
    maps = run(dataset, dataset.maps, dataset.after)
    fine = run(dataset, dataset.gt_fine, dataset.after, agnostic=True)
    found = [~np.isnan(item.base.scores[:, 0]) for item in (maps, fine)]
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(
        *(item.base.scores[found[0]][:, [0, 2, 3, 4]] for item in (maps, fine))
    )
    assert maps.categories is None
    assert maps.num_ignored_images == len(maps.images)
    assert "AP" in maps.base.averages.values
    assert maps.base.averages.by_label == {}


class TestComparison:
    def test_differences_are_those_of_the_means(self, dataset):
        report = build_report(run(dataset, dataset.gt_fine, dataset.after, dataset.before), {})
        before, after, _ = report["runs"]
        for group in ("category", "size"):
            rows = after["groups"][group].values()
            assert sum(row["objects"] for row in rows) == report["ground_truth"]["objects"]
            paired = sum(row["paired"] for row in rows)
            assert paired == after["groups"]["overall"]["paired"]
        overall = after["groups"]["overall"]
        scores = [
            (item["scores"]["before"], item["scores"]["after"])
            for item in report["instances"]
            if item["scores"]["before"]
        ]
        for name in ("boundary_iou", "f_1px"):
            mean = np.mean([b[name] - a[name] for a, b in scores])
            assert overall["difference"][name] == pytest.approx(mean)
        assert overall["base"] == before["groups"]["overall"]["this"]

    def test_the_worst_are_listed_from_the_largest_loss(self, dataset):
        evaluation = run(dataset, dataset.gt_fine, dataset.after, dataset.before)
        report = build_report(evaluation, {})
        changes = [item["change"] for item in report["worst"]]
        assert changes == sorted(changes)
        assert all(change < -0.01 for change in changes)
        assert len(changes) == report["runs"][1]["change"]["worse"] > 0
        first = report["worst"][0]
        assert evaluation.losses[0].image == first["image"]
        assert evaluation.losses[0].change == pytest.approx(first["change"])

    def test_pictures_are_of_the_largest_changes(self, dataset):
        few = run(dataset, dataset.gt_fine, dataset.after, dataset.before, num_pictures=2)
        many = run(dataset, dataset.gt_fine, dataset.after, dataset.before, num_pictures=99)
        assert [p.object_index for p in few.gains] == [p.object_index for p in many.gains[:2]]
        changes = [picture.change for picture in many.gains]
        assert changes == sorted(changes, reverse=True)
        assert min(changes) > 0 > max(picture.change for picture in many.losses)

    def test_counts_cover_found_lost_and_gained(self):
        nan = [np.nan] * 5
        before = np.array([[0.5] * 5, [0.5] * 5, [0.5] * 5, [0.5] * 5, nan, nan])
        after = np.array([[0.6] * 5, [0.505] * 5, [0.4] * 5, nan, [0.9] * 5, nan])
        change = compare(before, after, 0.01)
        assert (change.improved, change.unchanged, change.worse) == (1, 1, 1)
        assert (change.lost, change.gained, change.total) == (1, 1, 5)

    def test_a_change_of_exactly_the_threshold_is_none(self):
        before, after = np.full((1, 5), 0.25), np.full((1, 5), 0.5)
        assert compare(before, after, 0.25).unchanged == 1

    def test_the_histogram_counts_every_object_once(self):
        edges = np.array([-0.2, -0.1, 0, 0.1, 0.2])
        before = np.full((6, 5), 0.5)
        after = before + np.array([-0.5, -0.15, 0, 0.05, 0.2, 0.4])[:, None]
        assert histogram(before, after, edges) == [2, 0, 2, 2]

    def test_the_share_of_the_possible(self):
        assert share_of_possible(0.6, 0.7, 0.8) == pytest.approx(0.5)
        assert share_of_possible(0.6, 0.5, 0.8) == pytest.approx(-0.5)
        assert np.isnan(share_of_possible(0.8, 0.8, 0.8))

    def test_other_instances_after_are_matched_by_themselves(self, dataset, tmp_path):
        for path in dataset.after.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        for path in tmp_path.glob("*_pred.txt"):
            path.write_text("\n".join(reversed(path.read_text().splitlines())))
        same = run(dataset, dataset.gt_fine, dataset.after, dataset.before)
        other = run(dataset, dataset.gt_fine, tmp_path, dataset.before)
        assert (same.unlike_images, other.unlike_images) == (0, len(other.images))
        own = same.run("after").own_scores
        np.testing.assert_array_equal(other.run("after").scores, own)

    @pytest.mark.parametrize(
        ("area", "name"),
        [(0, "small"), (1023, "small"), (1024, "medium"), (9215, "medium"), (9216, "large")],
    )
    def test_sizes_have_the_borders_of_coco(self, area, name):
        assert size_class(area) == name


class TestCeiling:
    def test_it_is_the_ground_truth_inside_the_patches_and_the_mask_outside(self):
        rng = np.random.default_rng(0)
        mask = np.zeros((80, 90), np.bool_)
        mask[20:60, 20:70] = True
        gt = rng.random((80, 90)) < 0.5
        boxes = select_patches(Mask.from_array(mask), PATCHES)
        expected = mask.copy()
        for x0, y0, x1, y1 in boxes:
            expected[y0:y1, x0:x1] = gt[y0:y1, x0:x1]
        found = perfect_patches(Mask.from_array(mask), Mask.from_array(gt), PATCHES)
        np.testing.assert_array_equal(found.to_array(), expected)

    def test_it_is_above_every_run(self, dataset):
        found = run(dataset, dataset.gt_fine, dataset.after, dataset.before)
        report = build_report(found, {})
        best = report["runs"][-1]
        assert best["name"] == "ceiling"
        for other in report["runs"][:-1]:
            ours = other["groups"]["overall"]["this"]["boundary_iou"]
            assert best["groups"]["overall"]["this"]["boundary_iou"] > ours
        assert best["change"]["share_of_possible"]["boundary_iou"] == 1
        assert best["change"]["worse"] == 0


class TestMethods:
    def test_they_refine_what_was_there_before(self, dataset):
        methods = {"filter": GuidedFilter(), "nothing": lambda _, prediction: prediction}
        found = run(dataset, dataset.gt_fine, dataset.after, dataset.before, methods)
        assert [item.name for item in found.runs] == [
            "before", "after", "filter", "nothing", "ceiling",
        ]  # fmt: skip
        np.testing.assert_array_equal(found.run("nothing").scores, found.base.scores)
        assert found.run("nothing").averages.values == found.base.averages.values
        assert found.run("filter").seconds > 0
        assert found.focus == "after"

    def test_the_last_one_is_shown_where_nothing_was_refined_before(self, dataset):
        found = run(dataset, dataset.gt_fine, dataset.before, methods={"filter": GuidedFilter()})
        assert (found.base.name, found.focus) == ("prediction", "filter")

    def test_they_need_images(self, dataset):
        truth = open_ground_truth(dataset.gt_fine)
        prediction = open_predictions(dataset.before, None, None)
        with pytest.raises(ValueError, match="--images: expected the folder"):
            EvaluationInputs(
                truth=truth,
                prediction=prediction,
                before=None,
                methods={"filter": GuidedFilter()},
                images=None,
            )

    def test_their_names_are_their_own(self, dataset):
        truth = open_ground_truth(dataset.gt_fine)
        prediction = open_predictions(dataset.before, None, None)
        images = ImageIndex(dataset.images)
        with pytest.raises(ValueError, match="method: expected another name than 'ceiling'"):
            EvaluationInputs(
                truth=truth,
                prediction=prediction,
                before=None,
                methods={"ceiling": GuidedFilter()},
                images=images,
            )


def test_the_report_is_json_without_nan(dataset):
    report = build_report(run(dataset, dataset.gt_fine, dataset.after), {"pred": "x"})
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again == report
    assert report["schema"] == "bpr.evaluate/1"


def test_the_fields_of_the_report_are_those_of_its_version(dataset):
    """Whoever removes or renames one must name a new version, and say so in docs/evaluation.md."""
    report = build_report(run(dataset, dataset.gt_fine, dataset.after, dataset.before), {})
    assert set(report) == {
        "schema", "about", "settings", "definitions", "ground_truth", "problems", "base", "focus",
        "runs", "worst", "instances", "false_instances", "duplicates",
    }  # fmt: skip
    assert set(report["runs"][1]) == {
        "name", "instances", "instances_of_no_object", "objects_found", "objects_missed",
        "means_of_own_best", "seconds_per_instance", "average_precision",
        "average_precision_by_category", "overlap", "groups", "change", "errors", "pixel_accuracy",
    }  # fmt: skip
    assert set(report["runs"][1]["change"]) == {
        "improved", "unchanged", "worse", "gained", "lost", "objects", "share_of_possible",
        "histogram",
    }  # fmt: skip
    row = report["runs"][1]["groups"]["overall"]
    assert set(row) == {"objects", "paired", "base", "this", "difference", "intervals"}
    assert set(row["this"]) == {"mask_iou", "boundary_iou", "f_1px", "f_2px", "f_3px"}
    assert set(report["instances"][0]) == {
        "image", "annotation", "category", "area", "size", "error", "scores",
    }  # fmt: skip
    assert {"before", "after", "change"} <= set(report["worst"][0])


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a/b/town_1_2_leftImg8bit.png", "town_1_2"),
        ("town_1_2_gtFine_instanceIds.png", "town_1_2"),
        ("000000000139.jpg", "000000000139"),
        ("with.dots.jpeg", "with.dots"),
        ("http://images.cocodataset.org/val2017/000000000139.jpg", "000000000139"),
    ],
)
def test_files_of_one_image_have_one_key(name, key):
    assert image_key(name) == key
