"""The page: one file that shows the right crops, also to a browser without a network."""

import base64
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.open_ground_truth import open_ground_truth
from bpr.pipeline.datasets.predictions import open_predictions
from bpr.pipeline.evaluation.evaluate import evaluate
from bpr.pipeline.evaluation.inputs import EvaluationInputs, EvaluationSettings
from bpr.pipeline.evaluation.matching import MatchSettings
from bpr.pipeline.evaluation.page import render_page
from bpr.pipeline.evaluation.report import build_report
from bpr.pipeline.evaluation.result import Picture
from bpr.pipeline.evaluation.strips import closeup_box, draw_strip, outlined
from bpr.pipeline.evaluation.tables import all_tables, percent, points, render
from bpr.pipeline.instance import Mask

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

GREEN, RED, BLUE = (30, 140, 60), (200, 40, 40), (40, 60, 200)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A red object that gains and a blue one that loses, far apart, on green."""
    folder = tmp_path_factory.mktemp("scene")
    for name in ("images", "maps", "before", "after"):
        (folder / name).mkdir()
    values = np.zeros((300, 400), np.uint8)
    values[40:140, 40:140] = 1
    values[180:260, 250:350] = 2
    pixels = np.array([GREEN, RED, BLUE], np.uint8)[values]
    Image.fromarray(pixels).save(folder / "images/s.png")
    Image.fromarray(values).save(folder / "maps/s.png")
    shifts = {"before": (6, 1), "after": (1, 5)}
    for stage, both in shifts.items():
        for k, shift in enumerate(both, start=1):
            mask = np.roll(values == k, shift, axis=1)
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / stage / f"s_{k}.png")
        (folder / stage / "s_pred.txt").write_text("s_1.png 26 0.9\ns_2.png 26 0.8\n")
    return folder


@pytest.fixture(scope="module")
def results(scene):
    truth = open_ground_truth(scene / "maps")
    prediction, before = (
        open_predictions(scene / name, None, None) for name in ("after", "before")
    )
    images = ImageIndex(scene / "images")
    settings = EvaluationSettings(matching=MatchSettings(class_agnostic=True), boundary_ratio=0.02)
    evaluation = evaluate(
        EvaluationInputs(
            truth=truth, prediction=prediction, before=before, methods={}, images=images
        ),
        settings,
    )
    report = build_report(evaluation, {})
    return report, evaluation, render_page(report, evaluation, images).html


class Elements(HTMLParser):
    """Every start tag of a page, and what is inside of tags that show something."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def picture(uri):
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(data)) as file:
        return np.array(file.convert("RGB"))


class TestPage:
    def test_it_needs_nothing_but_itself(self, results):
        elements = Elements(results[2])
        loading = {"src", "href", "srcset", "data", "action", "poster", "style"}
        for tag, attributes in elements.tags:
            for name in loading & attributes.keys():
                value = attributes[name]
                assert value.startswith(("data:", "#")) or name == "style", (tag, value[:80])
        # the name of SVG is an address that nothing loads
        text = results[2].replace("http://www.w3.org/2000/svg", "").replace("url(#", "")
        assert not re.search(r"https?:|@import|url\(|<script src|<link|<iframe", text)
        policy = next(a["content"] for a in elements.all("meta") if "http-equiv" in a)
        assert "default-src 'none'" in policy
        script = re.findall(r"<script>(.*?)</script>", results[2], re.DOTALL)
        assert len(script) == 1
        digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in policy

    def test_the_first_gain_and_the_first_loss_show_their_objects(self, results):
        images = Elements(results[2]).all("img")
        assert len(images) == 10  # two strips of five
        for strip, colour in ((images[:5], RED), (images[5:], BLUE)):
            plain = picture(strip[1]["src"])
            found = {tuple(pixel) for pixel in plain.reshape(-1, 3).tolist()}
            assert found == {colour, GREEN}
            assert all(image["alt"] for image in strip)

    def test_pictures_have_the_size_that_the_page_reserves(self, results):
        for image in Elements(results[2]).all("img"):
            height, width, _ = picture(image["src"]).shape
            assert (int(image["width"]), int(image["height"])) == (width, height)

    def test_links_lead_somewhere(self, results):
        elements = Elements(results[2])
        ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        for link in elements.all("a"):
            assert link["href"].removeprefix("#") in ids

    def test_names_from_files_cannot_break_it(self, results):
        report, evaluation, _ = results
        bad = "<img src=x onerror=alert(1)></script>"
        renamed = json.loads(json.dumps(report))
        renamed["problems"]["failures"] = [{"image": bad, "reason": bad}]
        first = replace(evaluation.objects[0], image=bad)
        objects = replace(evaluation, images=(bad,), objects=(first, *evaluation.objects[1:]))
        page = render_page(renamed, objects, None).html
        assert bad not in page
        assert html.escape(bad) in page

    def test_the_figures_are_those_of_the_report(self, results):
        report, _, page = results
        row = report["runs"][1]["groups"]["overall"]
        assert points(row["difference"]["boundary_iou"]) in page
        assert "1 of 2 objects improved, 1 got worse" in page
        for table in all_tables(report):
            for cells in table.rows:
                for cell in cells:
                    assert html.escape(cell) in page

    def test_without_images_outlines_are_drawn_on_grey(self, results):
        report, evaluation, _ = results
        page = render_page(report, evaluation, None).html
        plain = picture(Elements(page).all("img")[1]["src"])
        assert len(np.unique(plain.reshape(-1, 3), axis=0)) == 1
        assert "drawn on grey" in page


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
class TestInABrowser:
    @staticmethod
    def browse(page, tmp_path, *arguments):
        path = tmp_path / "page.html"
        path.write_text(page)
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--hide-scrollbars", "--force-device-scale-factor=1", "--window-size=1400,5000",
            # whatever the page would load leads nowhere
            "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=<-loopback>",
            f"--user-data-dir={tmp_path / 'profile'}", *arguments, path.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_it_shows_every_picture_where_it_says(self, results, tmp_path):
        # a copy without its policy runs a second script, which says where pictures are
        probe = """<script>addEventListener('load', () => {
          document.body.dataset.pictures = JSON.stringify([...document.images].map(i => {
            const r = i.getBoundingClientRect();
            return [r.x, r.y, r.width, r.height, i.complete, i.naturalWidth]; }));
          document.body.dataset.wide = document.documentElement.scrollWidth; });</script></body>"""
        copy = re.sub(r"<meta http-equiv[^>]*>", "", results[2]).replace("</body>", probe)
        shown = self.browse(copy, tmp_path, "--virtual-time-budget=3000", "--dump-dom")
        places = json.loads(html.unescape(re.search(r'data-pictures="([^"]*)"', shown)[1]))
        assert int(re.search(r'data-wide="(\d+)"', shown)[1]) <= 1400  # nothing sticks out
        screenshot = tmp_path / "page.png"
        self.browse(results[2], tmp_path, f"--screenshot={screenshot}")
        with Image.open(screenshot) as file:
            screen = np.array(file.convert("RGB"))
        embedded = [picture(image["src"]) for image in Elements(results[2]).all("img")]
        assert len(places) == len(embedded) == 10
        for (x, y, width, height, complete, natural), expected in zip(
            places, embedded, strict=True
        ):
            assert complete
            assert natural == expected.shape[1]
            assert (round(width), round(height)) == (expected.shape[1], expected.shape[0])
            left, top = round(x), round(y)
            seen = screen[top : top + expected.shape[0], left : left + expected.shape[1]]
            # corners are rounded, and a fraction of a pixel may shift it
            same = np.abs(seen.astype(int) - expected).max(axis=-1) <= 2
            assert same.mean() > 0.9


class TestStrips:
    def test_the_closeup_is_where_most_was_won(self):
        def square(shift):
            array = np.zeros((400, 500), np.bool_)
            array[100:300, 100:300] = True
            array[150:170, 300 : 300 + shift] = True
            return Mask.from_array(array)

        box = closeup_box(
            Picture(
                object_index=0,
                image="a",
                change=0.1,
                before=square(12),
                after=square(1),
                gt=square(0),
            )
        )
        x0, y0, x1, y1 = box
        assert (x1 - x0, y1 - y0) == (80, 80)
        assert x0 <= 300 <= 312 <= x1
        assert y0 <= 150 <= 170 <= y1

    def test_a_loss_shows_what_got_wrong_not_what_got_right(self):
        gt = np.zeros((300, 400), np.bool_)
        gt[100:200, 100:300] = True
        before, after = gt.copy(), gt.copy()
        before[100:130, 90:100] = True  # mended
        after[100:140, 300:315] = True  # broken
        masks = {"before": before, "after": after, "gt": gt}
        masks = {name: Mask.from_array(array) for name, array in masks.items()}
        x0, _, x1, _ = closeup_box(Picture(object_index=0, image="a", change=-0.1, **masks))
        assert x0 <= 300 < 315 <= x1

    def test_panels_are_the_images_pixels_enlarged(self):
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (60, 70, 3), np.uint8)
        array = np.zeros((60, 70), np.bool_)
        array[20:40, 20:50] = True
        mask = Mask.from_array(array)
        strip = draw_strip(
            image, Picture(object_index=0, image="a", change=0.1, before=mask, after=mask, gt=mask)
        )
        x0, y0, x1, y1 = strip.box
        scale = strip.crop.shape[0] // (y1 - y0)
        np.testing.assert_array_equal(strip.crop[::scale, ::scale], image[y0:y1, x0:x1])

    def test_the_outline_runs_along_the_pixels_that_belong_to_the_mask(self):
        mask = np.zeros((8, 8), np.bool_)
        mask[2:5, 3:7] = True
        panel = np.full((64, 64, 3), 100, np.uint8)
        drawn = outlined(panel, mask, 8, (1, 2, 3))
        coloured = (drawn == (1, 2, 3)).all(axis=-1)
        rows, columns = np.nonzero(coloured)
        assert (rows.min(), rows.max()) == (16, 39)
        assert (columns.min(), columns.max()) == (24, 55)
        assert not coloured[18:38, 26:54].any()

    def test_an_object_at_the_edge_of_a_small_image_can_be_drawn(self):
        array = np.zeros((5, 7), np.bool_)
        array[0, 0] = True
        mask, nothing = Mask.from_array(array), Mask.from_array(np.zeros((5, 7), np.bool_))
        strip = draw_strip(
            None,
            Picture(object_index=0, image="a", change=-1.0, before=mask, after=nothing, gt=mask),
        )
        assert strip.box == (0, 0, 7, 5)


class TestTables:
    def test_figures_that_do_not_exist_are_a_dash(self):
        assert (percent(None), points(None)) == ("–", "–")

    def test_a_difference_that_rounds_to_nothing_has_no_sign(self):
        assert [points(value) for value in (-0.0001, 0.0001, 0.01, -0.01)] == [
            "0.0", "0.0", "+1.0", "-1.0",
        ]  # fmt: skip

    def test_columns_of_text_are_aligned(self, results):
        for table in all_tables(results[0]):
            lines = render(table).splitlines()[1:]
            assert len({len(line) for line in lines}) <= 2  # short last cells are not padded
