"""The page in a real browser: upload, refine, look, download, and what goes wrong."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from bpr.pipeline.formats import rle
from bpr.pipeline.formats.images import encode_mask, encode_png
from tests.service.services import running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, service):
    """The page, which must load nothing from elsewhere and break no policy."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda message: (
            wrong.append(message.text)
            if "Content Security" in message.text or message.type == "warning"
            else None
        ),
    )
    page.on(
        "request",
        lambda request: (
            wrong.append(request.url)
            if not request.url.startswith((service.url, "blob:", "data:"))
            else None
        ),
    )
    page.goto(service.url)
    yield page
    assert wrong == []
    context.close()


@pytest.fixture
def files(scene, tmp_path):
    """The scene as files: image, masks, map, json."""
    (tmp_path / "it's.png").write_bytes(encode_png(scene.image))
    for index, mask in enumerate(scene.masks):
        (tmp_path / f"m{index}.png").write_bytes(encode_mask(mask))
    (tmp_path / "map.png").write_bytes(encode_png(scene.map_values))
    (tmp_path / "results.json").write_text(json.dumps(scene.records))
    return tmp_path


def give(page, files, *masks, kind=None):
    page.set_input_files("#image", files / "it's.png")
    page.set_input_files("#masks", [files / name for name in masks])
    if kind:
        page.select_option("#kind", kind)


def refine(page):
    page.click("#refine")
    expect(page.locator("#status")).to_contain_text("Done", timeout=30_000)


def pixels(page):
    """The canvas as it is on the screen, (H, W, 3)."""
    shot = page.locator("#canvas").screenshot()
    return np.array(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def near(picture, colour):
    """Which pixels have a colour."""
    return np.abs(picture - np.array(colour)).max(axis=-1) < 30


RED, GREEN = (255, 91, 79), (47, 209, 124)


def answer_of(service, scene):
    return service.refine(scene.mask_parts, params={"details": "true"}).json()


class TestRefining:
    @pytest.mark.parametrize(
        ("masks", "kind"),
        [
            (("m0.png", "m1.png", "m2.png"), "masks"),
            (("map.png",), "instance_map"),
            (("results.json",), "instances"),
        ],
    )
    def test_each_kind_of_masks(self, page, files, service, scene, masks, kind):
        expect(page.locator("#refine")).to_be_disabled()
        give(page, files, *masks, kind="instance_map" if kind == "instance_map" else None)
        assert page.input_value("#kind") == kind
        refine(page)
        parts = {"masks": scene.mask_parts, "instance_map": scene.map_parts,
                 "instances": scene.coco_parts}[kind]  # fmt: skip
        answer = service.refine(parts).json()
        changed = f"{answer['changed_pixels']:,} pixels of 3 instances changed"
        expect(page.locator("#status")).to_contain_text(changed)
        sizes = [item["changed_pixels"] for item in answer["instances"]]
        rows = page.locator("#instances .figures").all_text_contents()
        assert [int(re.search(r"([\d,]+) px", row)[1].replace(",", "")) for row in rows] == sorted(
            sizes, reverse=True
        )
        expect(page.locator("#timings")).to_contain_text(f"{answer['patches']} patches")

    def test_without_a_detector_masks_are_needed(self, page):
        page.wait_for_load_state("networkidle")
        assert page.locator("#segment").get_attribute("disabled") is not None

    def test_a_detector_finds_the_objects(self, browser, predictor, detector, scene, files):
        with running(predictor, detector=detector) as service:
            page = browser.new_page()
            page.goto(service.url)
            page.set_input_files("#image", files / "it's.png")
            expect(page.locator("#refine")).to_be_disabled()
            expect(page.locator("#segment")).to_be_enabled()
            page.select_option("#kind", "segment")
            expect(page.locator("#drop-masks")).to_be_hidden()
            refine(page)
            answer = service.client.post("/segment", files=[scene.image_part]).json()
            names = page.locator("#instances .name").all_text_contents()
            assert sorted(names) == sorted(
                f"{item['category']} {number}"
                for number, item in enumerate(answer["instances"], start=1)
            )
            changed = f"{answer['changed_pixels']:,} pixels of {len(names)} instance"
            expect(page.locator("#status")).to_contain_text(changed)
            expect(page.locator("#timings")).to_contain_text("detect")
            assert page.text_content("#curl").endswith(f"{service.url}/segment")
            page.close()

    def test_the_example_is_one_click(self, page):
        page.click("#example")
        expect(page.locator("#status")).to_contain_text("3 instances changed", timeout=60_000)
        names = page.locator("#instances .name").all_text_contents()
        assert sorted(names) == ["cup", "saucer", "spoon"]

    def test_of_a_coco_data_set_the_images_own_annotations_are_sent(self, page, files, scene):
        images = [{"id": 5, "file_name": "it's.png"}, {"id": 6, "file_name": "other.png"}]
        others = [{**record, "image_id": 6} for record in scene.records]
        content = {"images": images, "annotations": [*others, *scene.records[:2]]}
        (files / "dataset.json").write_text(json.dumps(content))
        give(page, files, "dataset.json")
        refine(page)
        expect(page.locator("#status")).to_contain_text("2 instances changed")

    def test_files_may_be_dropped(self, page, scene):
        for zone, name, kind, content in (
            ("#drop-image", "scene.png", "image/png", encode_png(scene.image)),
            ("#drop-masks", "m.png", "image/png", encode_mask(scene.masks[0])),
        ):
            transfer = page.evaluate_handle(
                """([name, type, bytes]) => {
                  const transfer = new DataTransfer();
                  transfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
                  return transfer;
                }""",
                [name, kind, list(content)],
            )
            page.dispatch_event(zone, "drop", {"dataTransfer": transfer})
        refine(page)
        expect(page.locator("#status")).to_contain_text("1 instance changed")


class TestLooking:
    @pytest.fixture(autouse=True)
    def refined(self, page, files):
        give(page, files, "m0.png", "m1.png", "m2.png")
        refine(page)

    @staticmethod
    def view(page, name):
        page.click(f"label[for=view-{name}]")

    def test_the_difference_shows_every_changed_pixel(self, page, service, scene):
        self.view(page, "difference")
        picture = pixels(page)
        scale = float(page.locator("#scale").text_content().rstrip(" %")) / 100
        answer = answer_of(service, scene)
        union = np.zeros(scene.image.shape[:2], np.bool_)
        for item, before in zip(answer["instances"], scene.arrays, strict=True):
            union |= before ^ rle.decode(item["segmentation"], union.shape).to_array()
        shown = (near(picture, RED) | near(picture, GREEN)).sum() / scale**2
        assert shown == pytest.approx(union.sum(), rel=0.03)
        expect(page.locator("#legend")).to_contain_text("added")

    def test_the_divider_moves_between_before_and_after(self, page):
        def with_divider(value):
            page.locator("#divider").fill(str(value))
            return pixels(page)[:, 40:-40]

        after, before = with_divider(0), with_divider(100)
        assert (after != before).any(axis=-1).mean() > 0.05
        half = with_divider(50)
        width = half.shape[1]
        left, right = slice(0, width // 2 - 120), slice(width // 2 + 120, width)
        np.testing.assert_array_equal(half[:, left], before[:, left])
        np.testing.assert_array_equal(half[:, right], after[:, right])

    def test_the_divider_can_be_dragged_in_the_picture(self, page):
        box = page.locator("#canvas").bounding_box()
        y = box["y"] + 30
        page.mouse.move(box["x"] + box["width"] / 2, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 4, y, steps=5)
        page.mouse.up()
        assert float(page.input_value("#divider")) == pytest.approx(25, abs=1)

    def test_contours_show_both(self, page):
        self.view(page, "contour")
        picture = pixels(page)
        assert near(picture, RED).sum() > 200
        assert near(picture, GREEN).sum() > 200
        expect(page.locator("#divider-row")).to_be_hidden()

    def test_patch_boxes_can_be_shown(self, page):
        self.view(page, "contour")
        without = pixels(page)
        page.check("#boxes")
        assert (pixels(page) != without).any(axis=-1).sum() > 500

    def test_zoom_goes_to_the_change_in_whole_enlarged_pixels(self, page):
        self.view(page, "difference")
        page.locator("#instances button").first.click()
        scale = int(page.locator("#scale").text_content().rstrip(" %")) / 100
        assert scale == int(scale) >= 8
        picture = pixels(page)[12:-12, 12:-12]  # the corners are rounded
        assert (near(picture, RED) | near(picture, GREEN)).mean() > 0.02
        # nearest neighbour: inside of an image pixel the picture has one colour
        changes = (np.abs(np.diff(picture, axis=1)).max(axis=-1) > 8).any(axis=0)
        columns = np.flatnonzero(changes)
        assert len(set(columns % int(scale))) == 1
        expect(page.locator("#instances button").first).to_have_attribute("aria-pressed", "true")
        page.click("#all")
        expect(page.locator("#instances button").first).to_have_attribute("aria-pressed", "false")

    def test_everything_works_from_the_keyboard(self, page):
        page.focus("#view-overlay")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#view-contour")).to_be_checked()
        page.focus("#canvas")
        before = page.locator("#scale").text_content()
        page.keyboard.press("+")
        assert page.locator("#scale").text_content() != before
        picture = pixels(page)
        page.keyboard.press("ArrowLeft")
        assert (pixels(page) != picture).any()
        page.keyboard.press("0")
        assert page.locator("#scale").text_content() == before
        page.focus("#view-contour")
        page.keyboard.press("ArrowLeft")
        page.focus("#divider")
        page.keyboard.press("ArrowLeft")
        assert float(page.input_value("#divider")) == 49.5

    def test_what_a_screen_reader_needs_is_there(self, page):
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('button, input, select, canvas, pre')].filter(
              (e) => !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label')
                       || e.getAttribute('aria-labelledby'))).map((e) => e.outerHTML)"""
        )
        assert unnamed == []
        label = page.get_attribute("#canvas", "aria-label")
        assert "pixels of 3 instances changed" in label
        assert page.get_attribute("#status", "aria-live") == "polite"
        assert page.get_attribute("#error", "role") == "alert"
        assert page.get_attribute("html", "lang") == "en"


class TestTakingItAlong:
    @pytest.fixture(autouse=True)
    def refined(self, page, files):
        give(page, files, "m0.png", "m1.png", "m2.png")
        refine(page)

    @staticmethod
    def download(page, button):
        with page.expect_download() as started:
            page.click(button)
        return started.value.suggested_filename, started.value.path().read_bytes()

    def test_png_rle_and_zip(self, page, service, scene):
        name, content = self.download(page, "#download-png")
        assert name == "it's_refined.png"
        assert content == service.refine(scene.mask_parts, "image/png").content
        name, content = self.download(page, "#download-rle")
        assert name == "it's_refined.json"
        assert json.loads(content) == service.refine(scene.mask_parts).json()["instances"]
        name, content = self.download(page, "#download-zip")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.namelist()[-1] == "it_s_pred.txt"

    @pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
    def test_the_curl_line_does_the_same(self, page, service, scene, files):
        line = page.locator("#curl").text_content()
        command = shlex.split(line.replace("\\\n", " "))
        done = subprocess.run([*command, "-s"], cwd=files, capture_output=True, check=True)
        got, want = json.loads(done.stdout), service.refine(scene.mask_parts).json()
        assert got["instances"] == want["instances"]
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.click("#copy")
        expect(page.locator("#copy")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == line


class TestWhatGoesWrong:
    def test_the_services_words_are_shown_and_the_next_try_clears_them(self, page, files):
        (files / "small.png").write_bytes(encode_png(np.ones((20, 30), np.uint8)))
        give(page, files, "small.png")
        page.click("#refine")
        error = page.locator("#error")
        expect(error).to_contain_text("expected a mask of the size of its image", timeout=20_000)
        expect(page.locator("#result")).to_be_hidden()
        page.set_input_files("#masks", [files / "m0.png"])
        refine(page)
        expect(error).to_be_hidden()

    def test_a_service_that_is_gone_is_said_too(self, page, files):
        give(page, files, "m0.png")
        page.route("**/refine*", lambda route: route.abort())
        page.click("#refine")
        expect(page.locator("#error")).not_to_be_empty(timeout=20_000)
        expect(page.locator("#status")).to_be_empty()

    def test_where_a_key_is_wanted_the_page_asks_for_it(self, browser, predictor, files):
        with running(predictor, api_keys="sesame") as locked:
            page = browser.new_page()
            page.goto(locked.url)
            give(page, files, "m0.png")
            page.click("#refine")
            expect(page.locator("#error")).to_contain_text("API key", timeout=20_000)
            page.fill("#key", "sesame")
            refine(page)
            curl = page.locator("#curl").text_content()
            assert "X-API-Key: $KEY" in curl
            assert "sesame" not in curl
            page.close()


def test_the_api_can_be_read_without_the_internet(page, service):
    page.goto(service.url + "/docs")
    expect(page.locator(".opblock-summary-path").first).to_be_visible(timeout=20_000)
    text = page.locator("#swagger-ui").inner_text()
    assert "/refine" in text
    page.locator("#operations-refine-refine_refine_post").click()
    expect(page.locator("#swagger-ui")).to_contain_text("curl -F image=@photo.jpg")


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_sticks_out(page, files, width):
    page.set_viewport_size({"width": width, "height": 900})
    give(page, files, "m0.png", "m1.png", "m2.png")
    refine(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
