"""The examples run: the notebook in a kernel, the app in a browser.

pip install gradio nbclient ipykernel matplotlib && pytest -m slow tests/examples
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.demo.inputs import input_files
from bpr.pipeline.demo.scenes import load_demo_scenes
from tests.docs.pages import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.slow


def test_the_notebook_runs():
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient, ipykernel, matplotlib")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("matplotlib")
    notebook = nbformat.read(ROOT / "examples/refine.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=250, resources={"metadata": {"path": ROOT}}).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "cup: Boundary IoU" in printed


def test_the_app_is_short():
    assert len((ROOT / "examples/app.py").read_text(encoding="utf-8").splitlines()) < 60


@pytest.fixture
def address(tmp_path):
    pytest.importorskip("gradio", reason="needs gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    with (tmp_path / "log").open("w") as log:
        app = subprocess.Popen(
            [sys.executable, ROOT / "examples/app.py"],
            env={**os.environ, **settings, "GRADIO_TEMP_DIR": str(tmp_path / "gradio")},
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + 200
            while True:
                try:
                    urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                    break
                except (URLError, TimeoutError):
                    assert app.poll() is None, (tmp_path / "log").read_text()
                    assert time.monotonic() < deadline
                    time.sleep(1)
            yield f"http://127.0.0.1:{port}/"
        finally:
            app.terminate()
            app.wait(30)


@pytest.fixture
def page(address):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1100})
        page.goto(address)
        yield page
        browser.close()


@pytest.fixture
def inputs(tmp_path):
    for name, content in input_files(load_demo_scenes()).items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def outlined(page, folder):
    """What the slider shows, before and after, as bool: where an outline is drawn."""
    slider = page.locator("[data-testid=slider] img, .slider-wrap img, .slider img")
    slider.first.wait_for(timeout=120_000)
    page.screenshot(path=folder / "app.png")
    assert slider.count() == 2
    shown = []
    for image in slider.all():
        with urlopen(image.get_attribute("src")) as answer:
            pixels = np.asarray(Image.open(answer).convert("RGB")).astype(int)
        red, green, blue = np.moveaxis(pixels, 2, 0)
        shown.append(green - np.maximum(red, blue) > 50)
    return shown


needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)"
)


@needs_chromium
def test_the_app_refines_mask_files(page, inputs):
    page.locator("input[type=file]").first.set_input_files(inputs / "photos/coffee.png")
    page.locator("input[type=file]").last.set_input_files(inputs / "masks/coffee_cup.png")
    page.wait_for_timeout(2000)
    page.get_by_role("button", name="Refine").click()
    before, after = outlined(page, inputs)
    assert 0 < before.sum() != after.sum() > 0


@needs_chromium
def test_a_click_on_an_object_refines_it(page, inputs):
    page.locator("input[type=file]").first.set_input_files(inputs / "photos/coffee.png")
    photograph = page.locator(".image-container img, .image-frame img").first
    photograph.wait_for()
    photograph.click()  # in its middle is the cup
    before, after = outlined(page, inputs)
    assert 0 < before.sum() != after.sum() > 0
