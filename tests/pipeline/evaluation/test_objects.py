"""The table of all objects: rows, intervals, outlines, overlaps, and the page in a browser."""

import csv
import io
import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.open_ground_truth import open_ground_truth
from bpr.pipeline.datasets.predictions import open_predictions
from bpr.pipeline.evaluation import crops
from bpr.pipeline.evaluation.bootstrap import ImageBootstrap
from bpr.pipeline.evaluation.comparison import states
from bpr.pipeline.evaluation.error_types import TITLES
from bpr.pipeline.evaluation.evaluate import evaluate
from bpr.pipeline.evaluation.inputs import EvaluationInputs, EvaluationSettings
from bpr.pipeline.evaluation.matching import MatchSettings
from bpr.pipeline.evaluation.objects import object_rows, objects_csv, shown_runs, table_cells
from bpr.pipeline.evaluation.outlines import UNITS, outline_masks, svg_path
from bpr.pipeline.evaluation.overlaps import overlap
from bpr.pipeline.evaluation.page import render_page
from bpr.pipeline.evaluation.plots import Dot, change_axis, scatter, shares_axis
from bpr.pipeline.evaluation.report import build_report
from bpr.pipeline.instance import Instance, Mask, Prediction
from tests.pipeline.evaluation.datasets import make_dataset

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    dataset = make_dataset(tmp_path_factory.mktemp("data"), num_images=3, seed=5)
    sides = [open_predictions(folder, None, None) for folder in (dataset.after, dataset.before)]
    images = ImageIndex(dataset.images)
    inputs = EvaluationInputs(
        truth=open_ground_truth(dataset.gt_fine),
        prediction=sides[0],
        before=sides[1],
        methods={},
        images=images,
    )
    settings = EvaluationSettings(
        matching=MatchSettings(), boundary_ratio=0.02, average_precision=False
    )
    return evaluate(inputs, settings), images


class TestRows:
    def test_every_object_and_every_false_instance_has_a_row(self, evaluation):
        found, _ = evaluation
        rows = object_rows(found, shown_runs(found))
        states_of = [row.state for row in rows]
        change = build_report(found, {})["runs"][1]["change"]
        for state in ("improved", "unchanged", "worse", "gained", "lost"):
            assert states_of.count(state) == change[state]
        assert states_of.count("false") == found.run("after").num_false > 0
        wrong = states_of.count("false") + states_of.count("duplicate")
        assert len(rows) - wrong == len(found.objects)

    def test_a_change_is_the_difference_of_its_neighbours(self, evaluation):
        found, _ = evaluation
        for row in object_rows(found, shown_runs(found)):
            before, after, change = table_cells(row)[6:9]
            if change is None:
                assert before is None or after is None
            else:
                assert change == pytest.approx(after - before, abs=2e-4)

    def test_the_csv_has_all_rows_and_the_scores_of_all_runs(self, evaluation):
        found, _ = evaluation
        lines = list(csv.reader(io.StringIO(objects_csv(found))))
        assert len(lines) - 1 == len(found.objects) + len(found.wrong)
        assert len(lines[0]) == 7 + 5 * len(found.runs)
        column = lines[0].index("after boundary_iou")
        for line, score in zip(lines[1:], found.run("after").scores[:, 1], strict=False):
            assert line[column] == ("" if np.isnan(score) else f"{score:.5f}")

    def test_a_name_from_a_file_is_no_formula_in_the_csv(self, evaluation):
        found, _ = evaluation
        first = replace(found.objects[0], image="=cmd|' /C calc'!A0")
        text = objects_csv(replace(found, objects=(first, *found.objects[1:])))
        assert text.splitlines()[1].startswith("'=cmd")

    def test_what_happened_has_a_name(self):
        missing = [np.nan] * 5
        before = np.array([[0.5] * 5, [0.5] * 5, [0.5] * 5, missing, [0.5] * 5, missing])
        after = np.array([[0.6] * 5, [0.5] * 5, [0.4] * 5, [0.5] * 5, missing, missing])
        assert states(before, after, 0.01) == [
            "improved", "unchanged", "worse", "gained", "lost", "missed",
        ]  # fmt: skip


class TestIntervals:
    def test_it_is_as_wide_as_theory_says(self):
        rng = np.random.default_rng(3)
        values = rng.normal(0.5, 0.1, (400, 1))
        bootstrap = ImageBootstrap(np.arange(400), 400)
        low, high = bootstrap.interval(values, np.ones(400, np.bool_))[:, 0]
        assert (high - low) / 2 == pytest.approx(1.96 * 0.1 / 20, rel=0.12)
        assert low < values.mean() < high

    def test_equal_objects_of_one_image_count_once(self):
        values = np.repeat(np.random.default_rng(0).normal(size=(50, 1)), 10, axis=0)
        whole = np.ones(500, np.bool_)
        images = np.repeat(np.arange(50), 10)
        narrow = ImageBootstrap(np.arange(500), 500).interval(values, whole)
        wide = ImageBootstrap(images, 50).interval(values, whole)
        assert np.ptp(wide) > 2.5 * np.ptp(narrow)

    def test_one_image_has_no_interval(self):
        bootstrap = ImageBootstrap(np.array([0, 0, 1]), 2)
        found = bootstrap.interval(np.ones((3, 2)), np.array([True, True, False]))
        assert np.isnan(found).all()


class TestOutlines:
    @given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 20), st.integers(0, 20))
    def test_a_rectangle_is_drawn_where_it_is(self, width, height, x, y):
        array = np.zeros((80, 80), np.bool_)
        array[y : y + height, x : x + width] = True
        path = svg_path(Mask.from_array(array), (0, 0, 80, 80))
        corners = _corners(path) / UNITS
        expected = [x + 0.5, y + 0.5, x + width - 0.5, y + height - 0.5]
        assert [*corners.min(axis=0), *corners.max(axis=0)] == expected

    def test_a_large_object_is_drawn_to_half_a_pixel_of_the_drawing(self):
        array = np.zeros((3000, 3000), np.uint8)
        cv2.ellipse(array, (1500, 1500), (1300, 700), 20, 0, 360, 1, -1)
        mask = Mask.from_array(array)
        path = svg_path(mask, (0, 0, 3000, 3000))
        assert len(path) < 1000
        scale = 3000 / 384
        drawn = np.zeros_like(array)
        cv2.fillPoly(drawn, [np.rint(_corners(path) / UNITS * scale).astype(np.int32)], 1)
        wrong = cv2.erode((drawn != array).astype(np.uint8), np.ones((13, 13), np.uint8))
        assert not wrong.any()

    def test_nothing_has_no_outline(self):
        nothing = Mask.from_array(np.zeros((5, 5), np.bool_))
        assert outline_masks([nothing, None], (5, 5)) is None


def _corners(path):
    """Points of the first part of a path."""
    start, _, steps = path.removeprefix("M").partition("z")[0].partition("l")
    first = np.array(start.replace("h1", "").split(), int)
    moves = np.array(steps.split(), int).reshape(-1, 2)
    return np.concatenate([first[None], first + np.cumsum(moves, axis=0)])


def test_overlaps_are_counted_by_pixel():
    def square(x):
        array = np.zeros((10, 40), np.bool_)
        array[:, x : x + 10] = True
        return Instance(mask=Mask.from_array(array), label=0, score=1.0)

    found = overlap(Prediction((10, 40), (square(0), square(5), square(7), square(30))))
    assert (found.covered, found.shared) == (170 + 100, 50 + 30 + 20)


def test_many_dots_are_thinned_and_counted():
    dots = [Dot(k, k / 9000, 0.5, "improved") for k in range(9000)]
    plot = scatter("x", shares_axis("a"), change_axis("b", [0.2]), dots, diagonal=False)
    assert len(json.loads(plot.points)) == 3000
    assert plot.left_out == 6000


class TestPictures:
    def test_they_lie_beside_a_page_that_would_be_too_large(self, evaluation, monkeypatch):
        found, images = evaluation
        report = build_report(found, {})
        inside = render_page(report, found, images)
        assert not inside.files
        assert "data:image/webp" in inside.html
        monkeypatch.setattr(crops, "MOST_BYTES", 1)
        beside = render_page(report, found, images)
        assert "data:image/webp" not in beside.html
        assert all(f'"src":"{name}"' in beside.html for name in beside.files)
        drawn = len(found.objects) + sum(item.outlined is not None for item in found.wrong)
        assert len(beside.files) == drawn

    def test_of_too_many_objects_the_changed_ones_are_drawn(self, evaluation, monkeypatch):
        monkeypatch.setattr("bpr.pipeline.evaluation.page.MOST_VIEWS", 5)
        found, images = evaluation
        page = render_page(build_report(found, {}), found, images).html
        assert page.count("data:image/webp") == 5
        assert "the 5 rows that changed most" in page


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
def test_the_table_in_a_browser(evaluation, tmp_path):
    from playwright.sync_api import sync_playwright

    found, images = evaluation
    path = tmp_path / "index.html"
    path.write_text(render_page(build_report(found, {}), found, images).html, encoding="utf-8")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 420, "height": 900}, color_scheme="dark")
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 420

        def column(at):
            return page.locator(f"#objects tbody td:nth-child({at})").all_text_contents()

        # sorted by the change of Boundary IoU, the largest loss first
        changes = [float(text) for text in column(10) if text != "–"]
        assert changes == sorted(changes)
        page.get_by_role("button", name="pixels").click()
        areas = [int(text) for text in column(5)]
        assert areas == sorted(areas, reverse=True)
        page.locator("select[data-column='4']").select_option("false")
        assert set(column(6)) == {"false"}
        page.locator("select[data-column='4']").select_option("")
        counted = page.locator("#tables table", has_text="poor localisation")
        titles = counted.locator("thead th").all_text_contents()
        after = counted.locator("tbody tr", has_text="after").locator("th, td").all_text_contents()
        kinds = [name for name, n in zip(titles[1:-1], after[1:-1], strict=True) if n != "0"]
        assert {"background", "duplicate"} <= set(kinds)
        for kind in kinds:
            page.locator("select[data-column='5']").select_option(kind)
            shown = page.locator("#objects [data-count]").text_content()
            # objects are listed with the kind of the error that explains them
            explained = sum(TITLES.get(one) == kind != "missed" for one in found.object_errors)
            assert int(shown.split()[0]) == int(after[titles.index(kind)]) + explained
            assert set(column(7)) == {kind}
        page.get_by_placeholder("image, object").fill("no such image")
        assert column(2) == []
        page.get_by_placeholder("image, object").fill("")
        page.locator("select[data-column='5']").select_option("")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        rows = list(csv.reader(io.StringIO(download.value.path().read_text(encoding="utf-8"))))
        assert len(rows) - 1 == len(found.objects) + len(found.wrong)

        page.locator("#objects .thumb").first.click()
        stage = page.locator("#large .stage")
        assert stage.locator("image").count() == 1
        line = stage.locator(".divider")
        assert line.get_attribute("x1") != "0"
        page.locator("[data-divider]").fill("0")
        assert line.get_attribute("x1") == "0"
        title = page.locator("#large h3").text_content()
        page.locator("[data-on]").click()
        assert page.locator("#large h3").text_content() != title
        browser.close()
    assert said == []
