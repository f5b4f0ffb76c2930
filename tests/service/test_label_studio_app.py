"""The ML backend with Label Studio itself, in a browser; the pictures of docs/label-studio.md.

uv tool install label-studio && pytest -m slow tests/service/test_label_studio_app.py

Its screenshots lie in pytest's temporary folder; those in docs/screenshots are copies of them.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import httpx
import pytest
from playwright.sync_api import sync_playwright

from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.formats import brush
from bpr.pipeline.formats.images import encode_png
from bpr.pipeline.metrics import mask_iou
from tests.service.services import bpr_serve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
APP = shutil.which("label-studio")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(APP is None, reason="needs label-studio: uv tool install label-studio"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)"),
]
USER, PASSWORD = "annotator@example.org", "a-long-password"
CONFIG = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="tag" toName="image" smart="true">
    <Label value="Cup"/>
    <Label value="Spoon"/>
  </BrushLabels>
</View>"""


@contextmanager
def label_studio(folder):
    """Label Studio with one user, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_USERNAME": USER,
        "LABEL_STUDIO_PASSWORD": PASSWORD,
        "LABEL_STUDIO_ML_BLOCK_LOCAL_IP": "false",  # as the page says
        "LABEL_STUDIO_SSRF_PROTECTION_ENABLED": "false",
        "COLLECT_ANALYTICS": "0",
        "LATEST_VERSION_CHECK": "0",
    }
    command = [APP, "start", "--no-browser", "--internal-host", "127.0.0.1", "-p", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 240
        while True:
            try:
                if httpx.get(f"{url}/user/login/").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end
            time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def signed_in(url: str):
    """A client with the cookies of a browser that signed in."""
    with httpx.Client(base_url=url, timeout=60, headers={"Referer": url}) as client:
        client.get("/user/login/")
        client.headers["X-CSRFToken"] = client.cookies["csrftoken"]
        form = {"email": USER, "password": PASSWORD}
        assert client.post("/user/login/", data=form).status_code == 302
        client.headers["X-CSRFToken"] = client.cookies["csrftoken"]
        yield client


def region(name, mask, label):
    height, width = mask.size
    return {
        "id": name, "type": "brushlabels", "from_name": "tag", "to_name": "image",
        "original_width": width, "original_height": height, "image_rotation": 0,
        "value": {"format": "rle", "rle": brush.encode(mask), "brushlabels": [label]},
    }  # fmt: skip


def take_pictures(client, project, folder):
    """What a user sees: the model, the menu, the annotation, and the prediction."""
    cookies = [
        {"name": name, "value": value, "url": str(client.base_url)}
        for name, value in client.cookies.items()
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1200, "height": 640})
        context.add_cookies(cookies)
        page = context.new_page()
        page.goto(f"{client.base_url}/projects/{project}/settings/ml")
        page.get_by_text("Connected", exact=True).wait_for()
        page.screenshot(path=folder / "label-studio-model.png")
        page.goto(f"{client.base_url}/projects/{project}/data")
        page.get_by_text("Completed").first.wait_for()
        page.locator("input[type=checkbox]").first.check(force=True)
        page.get_by_text("1 Task", exact=True).first.click()
        page.get_by_text("Retrieve Predictions").wait_for()
        page.screenshot(path=folder / "label-studio-menu.png")
        page.get_by_text("Retrieve Predictions").click()
        page.get_by_text("OK", exact=True).click()
        page.wait_for_timeout(5000)
        (task,) = client.get("/api/tasks", params={"project": project}).json()["tasks"]
        page.goto(f"{client.base_url}/projects/{project}/data?task={task['id']}")
        page.get_by_text("unet-lite0").first.wait_for()
        page.wait_for_timeout(3000)  # masks are drawn after the page
        page.screenshot(path=folder / "label-studio-before.png")
        page.get_by_text("unet-lite0").first.click()
        page.mouse.move(600, 620)  # away from what pops up under it
        page.wait_for_timeout(3000)
        page.screenshot(path=folder / "label-studio-after.png")
        browser.close()


def test_label_studio_retrieves_refined_masks(tmp_path):
    (scene,) = (scene for scene in load_demo_scenes() if scene.name == "coffee")
    coarse = scene.coarse[:2]
    with label_studio(tmp_path) as url, signed_in(url) as client:
        # a personal access token, which new versions make by default
        token = client.post("/api/token/").raise_for_status().json()["token"]
        project = client.post("/api/projects", json={"title": "coffee", "label_config": CONFIG})
        project = project.raise_for_status().json()["id"]
        file = ("coffee.png", encode_png(scene.image), "image/png")
        client.post(f"/api/projects/{project}/import", files={"file": file}).raise_for_status()
        (task,) = client.get("/api/tasks", params={"project": project}).json()["tasks"]
        regions = [
            region(f"r{k}", mask, label)
            for k, (mask, label) in enumerate(zip(coarse, ("Cup", "Spoon"), strict=True))
        ]
        client.post(f"/api/tasks/{task['id']}/annotations", json={"result": regions})
        options = ["--label-studio-url", url]
        with bpr_serve(*options, BPR_LABEL_STUDIO_API_KEY=token) as service:
            model = {"url": f"{service.url}/label-studio", "project": project, "title": "bpr"}
            connected = client.post("/api/ml", json=model).raise_for_status().json()
            assert connected["readable_state"] == "Connected"
            take_pictures(client, project, tmp_path)
        (prediction,) = client.get("/api/predictions", params={"task": task["id"]}).json()
    labels = [one["value"]["brushlabels"] for one in prediction["result"]]
    assert labels == [["Cup"], ["Spoon"]]
    for one, before in zip(prediction["result"], coarse, strict=True):
        after = brush.decode(one["value"]["rle"], before.size)
        assert 0.7 < mask_iou(before, after) < 1
