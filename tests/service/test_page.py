"""The page in a real browser, at the size of a desk and of a phone."""

from __future__ import annotations

import io
import json
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
from tests.service.services import running, until

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


DESK, PHONE = {"width": 1400, "height": 1000}, {"width": 390, "height": 844}


@pytest.fixture(params=["desk"])
def page(request, browser, service):
    """The page, which must load nothing from elsewhere and break no policy."""
    is_phone = request.param == "phone"
    context = browser.new_context(viewport=PHONE if is_phone else DESK, has_touch=is_phone)
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


both_sizes = pytest.mark.parametrize("page", ["desk", "phone"], indirect=True)


@pytest.fixture
def files(scene, tmp_path):
    """The scene as files: image, masks, map, json."""
    (tmp_path / "it's.png").write_bytes(encode_png(scene.image))
    for index, mask in enumerate(scene.masks):
        (tmp_path / f"m{index}.png").write_bytes(encode_mask(mask))
    (tmp_path / "map.png").write_bytes(encode_png(scene.map_values))
    (tmp_path / "results.json").write_text(json.dumps(scene.records))
    return tmp_path


def give(page, files, *names):
    page.set_input_files("#files", [files / name for name in ("it's.png", *names)])
    expect(page.locator("#given li")).to_have_count(1 + len(names))


def refine(page, button="#refine"):
    page.click(button)
    expect(page.locator("#status")).to_contain_text("Done", timeout=60_000)


def see_sample(page):
    expect(page.locator("#status")).to_contain_text("drag the line", timeout=60_000)


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


class TestArriving:
    @both_sizes
    def test_a_finished_before_and_after_can_be_dragged_at_once(self, page):
        see_sample(page)
        expect(page.locator(".sample")).to_have_count(4)
        before = pixels(page)
        box = page.locator("#canvas").bounding_box()
        divider = float(page.input_value("#divider")) / 100
        target = 0.2 if divider > 0.5 else 0.8
        y = box["y"] + 40
        page.mouse.move(box["x"] + box["width"] * divider, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * target, y, steps=4)
        page.mouse.up()
        assert float(page.input_value("#divider")) == pytest.approx(100 * target, abs=2)
        assert (pixels(page) != before).any()

    def test_masks_are_never_paired_with_the_photo_of_an_example(self, page, files):
        see_sample(page)
        expect(page.locator("#given li")).to_have_count(0)
        page.set_input_files("#files", [files / "m0.png"])
        expect(page.locator("#status")).to_contain_text("Now add the photo")
        expect(page.locator("#refine")).to_be_hidden()
        page.set_input_files("#files", [files / "it's.png", files / "m0.png"])
        refine(page)

    def test_samples_cost_the_service_one_run_each(self, page, service):
        see_sample(page)
        before = service.metric("bpr_patches_total")
        page.reload()
        see_sample(page)
        assert service.metric("bpr_patches_total") == before
        page.click(".sample[data-name=rocket]")
        expect(page.locator("#result-title")).to_have_text("rocket.png", timeout=60_000)

    @both_sizes
    def test_nothing_sticks_out(self, page, files):
        see_sample(page)
        give(page, files, "m0.png", "m1.png", "m2.png")
        refine(page)
        page.click("#details summary")
        width = page.viewport_size["width"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    def test_on_a_phone_the_result_is_right_under_the_drop_zone(self, browser, service):
        page = browser.new_page(viewport=PHONE)
        page.goto(service.url)
        see_sample(page)
        form, result = (page.locator(name).bounding_box() for name in ("#form", "#result"))
        assert 0 < result["y"] - (form["y"] + form["height"]) < 40
        assert page.locator("#canvas").bounding_box()["y"] < PHONE["height"]
        page.close()


class TestRefining:
    @pytest.mark.parametrize(
        ("masks", "kind"),
        [
            (("m0.png", "m1.png", "m2.png"), "masks"),
            (("map.png",), "instance_map"),
            (("results.json",), "instances"),
        ],
    )
    def test_each_kind_of_masks_is_told_by_its_content(
        self, page, files, service, scene, masks, kind
    ):
        see_sample(page)
        give(page, files, *masks)
        refine(page)
        parts = {"masks": scene.mask_parts, "instance_map": scene.map_parts,
                 "instances": scene.coco_parts}[kind]  # fmt: skip
        answer = service.refine(parts).json()
        changed = f"{answer['changed_pixels']:,} pixels of 3 objects changed"
        expect(page.locator("#status")).to_contain_text(changed)
        assert f"-F '{kind}=@" in page.text_content("#curl")
        expect(page.locator("#timings")).to_contain_text(f"{answer['patches']} patches")

    def test_a_detector_finds_objects_that_can_be_clicked(
        self, browser, predictor, detector, scene, files
    ):
        with running(predictor, detector=detector) as service:
            page = browser.new_page()
            page.goto(service.url)
            see_sample(page)
            give(page, files)
            refine(page, "#find")
            answer = service.client.post("/segment", files=[scene.image_part]).json()
            expect(page.locator("#instances button")).to_have_count(len(answer["instances"]))
            expect(page.locator("#timings")).to_contain_text("detect")
            assert page.text_content("#curl").endswith(f"{service.url}/segment")
            size = (answer["image"]["height"], answer["image"]["width"])
            mask = rle.decode(answer["instances"][0]["segmentation"], size).to_array()
            row, column = np.argwhere(mask)[len(np.argwhere(mask)) // 3]
            click_pixel(page, column, row, size)
            expect(page.locator("#all")).to_have_attribute("aria-pressed", "false")
            page.close()

    @both_sizes
    def test_without_masks_a_rough_outline_snaps_to_the_object(self, page, files):
        see_sample(page)
        give(page, files)
        expect(page.locator("#status")).to_contain_text("Draw a rough outline")
        page.locator("#canvas").scroll_into_view_if_needed()
        box = page.locator("#canvas").bounding_box()
        corners = [(0.2, 0.3), (0.5, 0.3), (0.5, 0.7), (0.2, 0.7), (0.2, 0.35)]
        spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
        page.mouse.move(*spots[0])
        page.mouse.down()
        for spot in spots[1:]:
            page.mouse.move(*spot, steps=6)
        page.mouse.up()
        expect(page.locator("#status")).to_contain_text("Done", timeout=60_000)
        expect(page.locator("#instances button")).to_have_count(1)
        expect(page.locator("#instances")).to_contain_text("outline 1")

    def test_of_a_coco_data_set_the_images_own_annotations_are_sent(self, page, files, scene):
        images = [{"id": 5, "file_name": "it's.png"}, {"id": 6, "file_name": "other.png"}]
        others = [{**record, "image_id": 6} for record in scene.records]
        content = {"images": images, "annotations": [*others, *scene.records[:2]]}
        (files / "dataset.json").write_text(json.dumps(content))
        give(page, files, "dataset.json")
        refine(page)
        expect(page.locator("#status")).to_contain_text("2 objects changed")

    @pytest.mark.parametrize("event", ["drop", "paste"])
    def test_files_may_be_dropped_and_pasted(self, page, scene, event):
        see_sample(page)
        contents = [
            ["scene.png", list(encode_png(scene.image))],
            ["m.png", list(encode_mask(scene.masks[0]))],
        ]
        page.evaluate(
            """([kind, files]) => {
              const transfer = new DataTransfer();
              for (const [name, bytes] of files) {
                transfer.items.add(new File([new Uint8Array(bytes)], name));
              }
              const name = kind === "drop" ? "dataTransfer" : "clipboardData";
              const Kind = kind === "drop" ? DragEvent : ClipboardEvent;
              document.body.dispatchEvent(
                new Kind(kind, { [name]: transfer, bubbles: true, cancelable: true }));
            }""",
            [event, contents],
        )
        expect(page.locator("#given li")).to_have_count(2)
        refine(page)
        expect(page.locator("#status")).to_contain_text("1 object changed")

    def test_a_busy_service_is_asked_again_and_a_request_can_be_cancelled(self, page, files):
        see_sample(page)
        tries = []

        def busy(route):
            tries.append(route.request.headers["x-request-id"])
            if len(tries) == 1:
                headers = {"Retry-After": "1"}
                route.fulfill(status=429, headers=headers, json={"detail": "full"})
            else:
                route.continue_()

        page.route("**/refine?*", busy)
        give(page, files, "m0.png")
        refine(page)
        assert len(tries) == len(set(tries)) == 2
        page.unroute("**/refine?*")
        page.route("**/refine?*", lambda _: None)  # never answered
        page.click("#refine")
        page.click("#cancel")
        expect(page.locator("#status")).to_have_text("Cancelled.")
        expect(page.locator("#progress")).to_be_hidden()


def click_pixel(page, column, row, size):
    """Click a pixel of the image where the whole image is fitted into the canvas."""
    page.locator("#canvas").scroll_into_view_if_needed()
    box = page.locator("#canvas").bounding_box()
    height, width = size
    scale = min(box["width"] / width, box["height"] / height)
    left = box["x"] + (box["width"] - width * scale) / 2
    top = box["y"] + (box["height"] - height * scale) / 2
    page.mouse.click(left + (column + 0.5) * scale, top + (row + 0.5) * scale)


class TestLooking:
    @pytest.fixture(autouse=True)
    def refined(self, page, files):
        see_sample(page)
        give(page, files, "m0.png", "m1.png", "m2.png")
        refine(page)
        page.click("#details summary")

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
        # edges of text are drawn a grey level apart
        np.testing.assert_allclose(half[:, left], before[:, left], atol=2)
        np.testing.assert_allclose(half[:, right], after[:, right], atol=2)

    def test_the_divider_can_be_dragged_in_the_picture(self, page):
        page.locator("#divider").fill("50")
        box = page.locator("#canvas").bounding_box()
        y = box["y"] + 30
        page.mouse.move(box["x"] + box["width"] / 2, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 4, y, steps=5)
        page.mouse.up()
        assert float(page.input_value("#divider")) == pytest.approx(25, abs=1)

    def test_before_is_seen_while_the_button_is_held(self, page):
        page.locator("#divider").fill("0")
        after = pixels(page)
        box = page.locator("#hold").bounding_box()
        page.mouse.move(box["x"] + 10, box["y"] + 10)
        page.mouse.down()
        held = pixels(page)
        page.mouse.up()
        page.mouse.move(5, 5)
        assert (held != after).any(axis=-1).mean() > 0.02
        np.testing.assert_array_equal(pixels(page), after)

    def test_the_fill_has_an_opacity(self, page):
        thin = pixels(page)
        page.locator("#opacity").fill("90")
        assert (pixels(page) != thin).any(axis=-1).mean() > 0.05

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
        page.locator("#divider").fill("50")
        page.focus("#divider")
        page.keyboard.press("ArrowLeft")
        assert float(page.input_value("#divider")) == 49.5

    def test_what_a_screen_reader_needs_is_there(self, page):
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('button, input, select, canvas, pre, progress')]
              .filter(
              (e) => !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label')
                       || e.getAttribute('aria-labelledby'))).map((e) => e.outerHTML)"""
        )
        assert unnamed == []
        label = page.get_attribute("#canvas", "aria-label")
        assert "pixels of 3 objects changed" in label
        assert page.get_attribute("#status", "aria-live") == "polite"
        assert page.get_attribute("#error", "role") == "alert"
        assert page.get_attribute("html", "lang") == "en"


class TestTakingItAlong:
    @pytest.fixture(autouse=True)
    def refined(self, page, files):
        see_sample(page)
        give(page, files, "m0.png", "m1.png", "m2.png")
        refine(page)

    @staticmethod
    def download(page, button):
        with page.expect_download() as started:
            page.click(button)
        return started.value.suggested_filename, started.value.path().read_bytes()

    def test_downloads_are_the_answer_that_is_shown(self, page, service, scene):
        runs = service.metric('bpr_requests_total{route="/refine",status="200"}')
        name, content = self.download(page, "#download-png")
        assert name == "it's_refined.png"
        theirs = Image.open(io.BytesIO(service.refine(scene.mask_parts, "image/png").content))
        ours = Image.open(io.BytesIO(content))
        assert (ours.mode, ours.size) == (theirs.mode, theirs.size)
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))
        answer = service.refine(scene.mask_parts).json()["instances"]
        name, content = self.download(page, "#download-rle")
        assert name == "it's_refined.json"
        assert json.loads(content) == answer
        masks = [
            rle.decode(item["segmentation"], scene.image.shape[:2]).to_array() for item in answer
        ]
        name, content = self.download(page, "#download-zip")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.testzip() is None
            assert archive.namelist() == [*(f"it_s_{k}.png" for k in range(3)), "it_s_pred.txt"]
            assert archive.read("it_s_pred.txt").splitlines()[0] == b"it_s_0.png 0 1.0"
            for k, mask in enumerate(masks):
                values = np.array(Image.open(io.BytesIO(archive.read(f"it_s_{k}.png"))))
                np.testing.assert_array_equal(values > 0, mask)
        name, content = self.download(page, "#download-cutout")
        assert name == "it's_cutout.png"
        cut = np.array(Image.open(io.BytesIO(content)))
        union = np.logical_or.reduce(masks)
        np.testing.assert_array_equal(cut[..., 3], np.where(union, 255, 0))
        np.testing.assert_array_equal(cut[union][:, :3], scene.image[union])
        # the page has asked for nothing: these two are from here
        counted = 'bpr_requests_total{route="/refine",status="200"}'
        until(lambda: service.metric(counted) >= runs + 2)
        assert service.metric(counted) == runs + 2

    def test_other_files_clear_the_result(self, page, files):
        """Else the masks of one photo could be saved under the name of another."""
        expect(page.locator("#result")).to_be_visible()
        page.set_input_files("#files", [files / "m0.png"])
        expect(page.locator("#result")).to_be_hidden()
        expect(page.locator("#status")).to_be_empty()

    @pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
    def test_the_curl_line_does_the_same(self, page, service, scene, files):
        page.click("#details summary")
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
    def test_the_services_words_are_shown_and_other_files_clear_them(self, page, files):
        see_sample(page)
        small = np.ones((20, 30), np.uint8)
        small[0] = 0
        (files / "small.png").write_bytes(encode_png(small))
        give(page, files, "small.png")
        page.click("#refine")
        error = page.locator("#error")
        expect(error).to_contain_text("expected a mask of the size of its image", timeout=60_000)
        expect(page.locator("#result")).to_be_hidden()
        page.set_input_files("#files", [files / "m0.png"])
        expect(error).to_be_hidden()
        refine(page)

    def test_what_cannot_be_taken_is_told_before_the_click(self, page, files):
        see_sample(page)
        (files / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 64)
        (files / "notes.txt").write_text("hello")
        error = page.locator("#error")
        page.set_input_files("#files", [files / "photo.heic"])
        expect(error).to_contain_text("photo.heic is HEIC")
        page.set_input_files("#files", [files / "notes.txt"])
        expect(error).to_contain_text("notes.txt: expected a PNG, JPEG or WebP image, or a COCO")
        expect(page.locator("#refine")).to_be_hidden()

    def test_a_service_that_is_gone_is_said_too(self, page, files):
        see_sample(page)
        give(page, files, "m0.png")
        page.route("**/refine?*", lambda route: route.abort())
        page.click("#refine")
        expect(page.locator("#error")).not_to_be_empty(timeout=60_000)
        expect(page.locator("#status")).to_be_empty()

    def test_where_a_key_is_wanted_the_page_asks_for_it(self, browser, predictor, files):
        with running(predictor, api_keys="sesame") as locked:
            page = browser.new_page()
            page.goto(locked.url)
            see_sample(page)
            expect(page.locator("#key")).to_be_hidden()
            give(page, files, "m0.png")
            page.click("#refine")
            expect(page.locator("#error")).to_contain_text("API key", timeout=60_000)
            page.fill("#key", "sesame")
            refine(page)
            curl = page.locator("#curl").text_content()
            assert "X-API-Key: $KEY" in curl
            assert "sesame" not in curl
            page.close()


def test_dark_mode_is_dark_throughout(browser, service):
    page = browser.new_page(color_scheme="dark")
    page.goto(service.url)
    see_sample(page)
    light = page.evaluate(
        """() => [...document.querySelectorAll('body, form, #result, header, .drop, button')]
          .map((e) => [e.id || e.className || e.tagName, getComputedStyle(e).backgroundColor])
          .filter(([, c]) => { const n = c.match(/[0-9.]+/g).map(Number);
            return n[3] !== 0 && n[0] + n[1] + n[2] > 500; })"""
    )
    assert light == []
    page.close()


def test_the_api_can_be_read_without_the_internet(page, service):
    page.goto(service.url + "/docs")
    expect(page.locator(".opblock-summary-path").first).to_be_visible(timeout=20_000)
    text = page.locator("#swagger-ui").inner_text()
    assert "/refine" in text
    page.locator("#operations-refine-refine_refine_post").click()
    expect(page.locator("#swagger-ui")).to_contain_text("curl -F image=@photo.jpg")
