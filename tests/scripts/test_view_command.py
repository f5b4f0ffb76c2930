"""`bpr view` as a user runs it, and its page in a browser."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.evaluation.view import pair_instances
from bpr.pipeline.instance import Instance, Mask, Prediction
from bpr.scripts.main import main
from tests.pipeline.evaluation.datasets import make_dataset

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("view"), num_images=2, seed=5)


def table(page):
    found = re.search(r'id="object-data">(.*?)</script>', page.read_text(encoding="utf-8"))
    return json.loads(found[1])


def test_two_folders_are_compared_the_largest_change_first(dataset, tmp_path, capsys):
    out = tmp_path / "page"
    arguments = [dataset.before, dataset.after, "--images", dataset.images, "--out", out]
    assert main(["view", *map(str, arguments)]) == 0
    assert str(out / "index.html") in capsys.readouterr().out
    content = table(out / "index.html")
    lines = sum(len(txt.read_text().splitlines()) for txt in dataset.before.glob("*_pred.txt"))
    assert len(content["rows"]) == lines
    assert {row[4] for row in content["rows"]} == {"changed", "same"}
    for row in content["rows"]:
        assert (row[5] == 0) == (row[4] == "same")
        assert (row[7] == 1) >= (row[4] == "same")
    # empty masks have no picture
    assert 0 < len(content["views"]) < lines
    assert all(view["src"].startswith("data:image/webp") for view in content["views"].values())


def test_without_out_the_page_is_opened(dataset, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    arguments = [dataset.before, dataset.after, "--images", dataset.images]
    assert main(["view", *map(str, arguments)]) == 0
    assert opened[0].startswith("file://")
    assert opened[0].removeprefix("file://") in capsys.readouterr().out


def test_coco_results_are_compared_too(dataset, tmp_path):
    out = tmp_path / "page"
    arguments = [
        dataset.before_json, dataset.after_json, "--images", dataset.images,
        "--images-json", dataset.coco, "--out", out,
    ]  # fmt: skip
    assert main(["view", *map(str, arguments)]) == 0
    assert table(out / "index.html")["rows"]


def test_an_image_that_one_side_lacks_is_named(dataset, tmp_path, capsys):
    part = tmp_path / "part"
    shutil.copytree(dataset.after, part)
    sorted(part.glob("*_pred.txt"))[0].unlink()
    arguments = [dataset.before, part, "--images", dataset.images, "--out", tmp_path / "page"]
    assert main(["view", *map(str, arguments)]) == 1
    assert "in one source only, not compared: town_000000_000019" in capsys.readouterr().err


def test_sources_without_a_common_image_are_refused(dataset, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(other / "m.png")
    (other / "z_pred.txt").write_text("m.png 1 0.5\n")
    assert main(["view", *map(str, [dataset.before, other, "--images", dataset.images])]) == 2
    assert "A and B: expected images of the same names" in capsys.readouterr().err


def instance(x, label=0, score=1.0):
    array = np.zeros((20, 60), np.bool_)
    array[:, x : x + 10] = True
    return Instance(mask=Mask.from_array(array), label=label, score=score)


def test_instances_of_other_order_are_paired_by_their_masks():
    first = Prediction((20, 60), (instance(0), instance(30), instance(50)))
    second = Prediction((20, 60), (instance(31, 5, 0.5), instance(1, 5, 0.4), instance(15)))
    pairs = pair_instances(first, second)
    a, b = first.instances, second.instances
    assert pairs == [(a[0], b[1]), (a[1], b[0]), (a[2], None), (None, b[2])]


def test_refined_instances_are_paired_by_their_order():
    first = Prediction((20, 60), (instance(0, 1, 0.9), instance(5, 2, 0.8)))
    second = Prediction((20, 60), (instance(5, 1, 0.9), instance(0, 2, 0.8)))
    assert pair_instances(first, second) == [*zip(first.instances, second.instances, strict=True)]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
def test_the_divider_moves_in_a_browser(dataset, tmp_path):
    from playwright.sync_api import sync_playwright

    arguments = [dataset.before, dataset.after, "--images", dataset.images, "--out", tmp_path]
    assert main(["view", *map(str, arguments)]) == 0
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 420, "height": 900})
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((tmp_path / "index.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
        page.locator("#objects .thumb").first.click()
        box = page.locator("#large .stage").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20)
        page.mouse.up()
        assert float(page.locator("[data-divider]").input_value()) < 45
        browser.close()
    assert said == []
