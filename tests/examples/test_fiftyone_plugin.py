"""The operator of examples/fiftyone_plugin in FiftyOne itself: its executor and its App.

pip install fiftyone && pytest -m slow tests/examples/test_fiftyone_plugin.py

FiftyOne brings a MongoDB; where that does not start, set FIFTYONE_DATABASE_URI to another.
Screenshots of the App lie in pytest's temporary folder.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import socket

import numpy as np
import pytest

from bpr import load_refiner
from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.formats.images import encode_png
from tests.docs.pages import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPERATOR = "@bpr/refine/refine_masks"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),  # those of FiftyOne's own libraries
]


@pytest.fixture(scope="module")
def fo(tmp_path_factory):
    """FiftyOne with the plugin in its folder."""
    folder = tmp_path_factory.mktemp("plugins")
    shutil.copytree(ROOT / "examples/fiftyone_plugin", folder / "bpr")
    os.environ["FIFTYONE_PLUGINS_DIR"] = str(folder)  # read when FiftyOne is imported
    os.environ["FIFTYONE_DO_NOT_TRACK"] = "1"
    return pytest.importorskip("fiftyone", reason="needs pip install fiftyone")


@pytest.fixture
def dataset(fo, tmp_path):
    """The demo's photographs with coarse masks, and one sample without a file."""
    dataset = fo.Dataset()
    for scene in load_demo_scenes():
        path = tmp_path / f"{scene.name}.png"
        path.write_bytes(encode_png(scene.image))
        height, width = scene.image.shape[:2]
        coarse = []
        for mask in scene.coarse:
            x0, y0, x1, y1 = mask.window
            box = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]
            coarse.append(fo.Detection(bounding_box=box, mask=np.array(mask.bitmap)))
        dataset.add_sample(fo.Sample(filepath=path, coarse=fo.Detections(detections=coarse)))
    dataset.add_sample(fo.Sample(filepath=tmp_path / "gone.png", coarse=fo.Detections()))
    yield dataset
    dataset.delete()


def execute(dataset, **params):
    from fiftyone import operators

    done = operators.execute_operator(OPERATOR, {"dataset": dataset, "params": params})
    if inspect.isawaitable(done):
        done = asyncio.run(done)
    return done


def test_the_operator_writes_a_new_field(dataset, tmp_path):
    done = execute(dataset, field="coarse", refined_field="refined", view_target="DATASET")
    gone = f"{tmp_path / 'gone.png'}: expected an image, found no file"
    assert done.result == {"refined": 4, "failed": 1, "failures": [gone]}
    dataset.reload()
    scene = load_demo_scenes()[0]
    sample = dataset.match({"filepath": {"$regex": scene.name}}).first()
    want = load_refiner()(scene.image, np.stack([mask.to_array() for mask in scene.coarse]))
    for detection, mask in zip(sample["refined"].detections, want, strict=True):
        rows, columns = np.nonzero(mask)
        box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        np.testing.assert_array_equal(detection.mask, mask[box])
    assert len(sample["coarse"].detections) == len(scene.coarse)


def test_a_field_that_is_there_is_never_overwritten(dataset):
    before = [sample["coarse"].detections[0].mask for sample in dataset.limit(4)]
    with pytest.raises(Exception, match="A field of this name is there"):
        execute(dataset, field="coarse", refined_field="coarse").raise_exceptions()
    dataset.reload()
    for sample, mask in zip(dataset.limit(4), before, strict=True):
        np.testing.assert_array_equal(sample["coarse"].detections[0].mask, mask)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
def test_the_app_offers_it_and_shows_what_came_of_it(fo, dataset, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    session = fo.launch_app(dataset, remote=True, port=port)
    try:
        with sync_api.sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1100, "height": 640})
            page.goto(f"http://localhost:{port}/datasets/{dataset.name}")
            page.get_by_text("coarse", exact=True).first.wait_for(timeout=60_000)
            page.keyboard.press("Backquote")
            page.get_by_placeholder("Search operations").fill("Refine masks")
            page.keyboard.press("Enter")
            page.get_by_text("New field").wait_for()
            page.screenshot(path=tmp_path / "fiftyone-form.png")
            page.get_by_role("button", name="Execute").click()
            page.get_by_text("Samples refined").wait_for(timeout=60_000)
            page.screenshot(path=tmp_path / "fiftyone-done.png")
            assert page.get_by_text("gone.png: expected an image").is_visible()
            browser.close()
    finally:
        session.close()
    dataset.reload()
    assert len(dataset.exists("refined")) == 4
