"""The ML backend, asked over HTTP as Label Studio asks, with a Label Studio that has the images.

pip install label-studio-ml && pytest -m slow tests/service/test_label_studio.py
"""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from bpr.pipeline.formats import brush
from bpr.pipeline.formats.images import encode_png
from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Instance, Prediction
from bpr.pipeline.refine import refine
from bpr.pipeline.settings import PatchSettings
from tests.service.services import running

TOKEN = "0123abc"
PAT = "aa.bb.cc"
CONFIG = """<View><Image name="img" value="$photo" zoom="true"/>
<BrushLabels name="tag" toName="img" smart="true"><Label value="Cup"/></BrushLabels></View>"""


ODD_ANSWERS = {
    "/garbage": b"\x00\x01 no http \xff\r\n\r\n",
    "/chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    "/short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
    "/gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "/nowhere": b"HTTP/1.1 302 Found\r\nLocation: http://[::\r\nContent-Length: 0\r\n\r\n",
    "/silent": b"",
}


class LabelStudio(ThreadingHTTPServer):
    """Serves an image to whoever has a token, and remembers what was asked."""

    def __init__(self, image):
        super().__init__(("127.0.0.1", 0), Handler)
        self.image, self.asked = image, []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        key = self.headers.get("Authorization")
        self.server.asked.append((self.path, key))
        if self.path.startswith("/store/"):
            self.answer(200, self.server.image)
        elif key not in (f"Token {TOKEN}", "Bearer short"):
            self.answer(401, b"")
        elif self.path.startswith("/tasks/7/presign/?fileuri="):
            self.send_response(303)
            self.send_header("Location", f"{self.server.url}/store/signed?s=secret")
            self.end_headers()
        elif self.path == "/data/upload/1/a.png":
            self.answer(200, self.server.image)
        elif self.path == "/drip":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"a")
                    time.sleep(0.1)
            except OSError:
                return
        elif self.path in ODD_ANSWERS:
            self.wfile.write(ODD_ANSWERS[self.path])
        elif self.path == "/to-a-private-address":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/store/a")
            self.end_headers()
        elif self.path == "/to-a-file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
        else:
            self.answer(404, b"")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (self.path, body) == ("/api/token/refresh", {"refresh": PAT})
        self.answer(200, b'{"access": "short"}')

    def answer(self, status, content):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def studio(scene):
    server = LabelStudio(encode_png(scene.image))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def service(predictor, studio):
    settings = {"label_studio_url": studio.url + "/", "label_studio_api_key": TOKEN}
    with running(predictor, **settings) as service:
        yield service


@pytest.fixture(scope="module")
def refined(scene, predictor):
    """The masks that the library gives."""
    height, width = scene.image.shape[:2]
    instances = tuple(Instance(mask=mask, label=0, score=1.0) for mask in scene.masks)
    settings = PatchSettings(
        patch_size=predictor.config.patch_size, padding=predictor.config.padding
    )
    after = refine(
        scene.image, Prediction((height, width), instances), HostRunner(predictor), settings
    )
    return [instance.mask.to_array() for instance in after.instances]


def region(mask, identity, **fields):
    height, width = mask.size
    return {
        "id": identity, "type": "brushlabels", "from_name": "tag", "to_name": "img",
        "original_width": width, "original_height": height, "image_rotation": 0,
        "origin": "manual", "meta": {"text": ["é"]},
        "value": {"format": "rle", "rle": brush.encode(mask), "brushlabels": ["Cup"]}, **fields,
    }  # fmt: skip


def task(scene, address="/data/upload/1/a.png", **fields):
    regions = [region(mask, f"r{index}") for index, mask in enumerate(scene.masks)]
    choice = {"id": "c", "type": "choices", "value": {"choices": ["a"]}, "to_name": "img"}
    older = {"result": [region(scene.masks[2], "older")]}
    return {
        "id": 7, "data": {"photo": address, "image": "wrong"},
        "annotations": [older, {"result": [choice, *regions]}], "predictions": [], **fields,
    }  # fmt: skip


def ask(service, *tasks, context=None, headers=None, config=CONFIG):
    body = {
        "tasks": list(tasks), "project": "1.1700000000", "label_config": config,
        "model_version": None, "params": {"login": None, "password": None, "context": context},
    }  # fmt: skip
    return service.client.post("/label-studio/predict", json=body, headers=headers)


def check_masks(regions, scene, refined):
    for item, before, want in zip(regions, scene.masks, refined, strict=True):
        got = brush.decode(item["value"]["rle"], before.size).to_array()
        np.testing.assert_array_equal(got, want)


def test_label_studio_finds_the_backend(service):
    assert service.client.get("/label-studio/health").json()["status"] == "UP"
    body = {"project": "1.1", "schema": CONFIG, "hostname": "http://evil", "access_token": "x"}
    answer = service.client.post("/label-studio/setup", json=body)
    assert answer.json() == {"model_version": "random"}
    assert service.client.post("/label-studio/webhook", json={"action": "x"}).status_code == 200


def test_the_regions_of_the_newest_annotation_come_back_refined(service, scene, refined):
    answer = ask(service, task(scene)).json()
    (result,) = answer["results"]
    assert result["model_version"] == answer["model_version"] == "random"
    check_masks(result["result"], scene, refined)
    for index, item in enumerate(result["result"]):
        before = region(scene.masks[index], f"r{index}")
        assert {**item, "value": None} == {**before, "value": None}
        assert item["value"]["brushlabels"] == ["Cup"]
    overlaps = [
        np.count_nonzero(mask.to_array() & after) / np.count_nonzero(mask.to_array() | after)
        for mask, after in zip(scene.masks, refined, strict=True)
    ]
    assert result["score"] == pytest.approx(np.mean(overlaps))


def test_predictions_are_refined_where_nobody_has_annotated(service, scene, refined):
    predicted = task(scene)["annotations"]
    answer = ask(service, task(scene, annotations=[], predictions=predicted)).json()
    check_masks(answer["results"][0]["result"], scene, refined)


def test_what_was_just_drawn_comes_back_as_another_region(service, scene, refined):
    drawn = [region(scene.masks[0], "drawn")]
    answer = ask(service, task(scene), context={"result": drawn}).json()
    (item,) = answer["results"][0]["result"]
    assert item["id"] != "drawn"
    check_masks([item], Cut(scene), refined[:1])


class Cut:
    """The first mask of a scene."""

    def __init__(self, scene):
        self.masks = scene.masks[:1]


def test_a_task_without_brush_masks_gets_none(service, scene):
    answer = ask(service, task(scene, annotations=[])).json()
    assert answer["results"] == [{"result": [], "score": 0.0, "model_version": "random"}]


def test_images_come_from_where_label_studio_keeps_them(service, scene, studio, refined):
    inline = "data:image/png;base64," + base64.b64encode(studio.image).decode()
    for address in ("upload/1/a.png", f"{studio.url}/data/upload/1/a.png", "s3://b/a.png", inline):
        answer = ask(service, task(scene, address))
        assert answer.status_code == 200, answer.text
        check_masks(answer.json()["results"][0]["result"], scene, refined)
    code = base64.urlsafe_b64encode(b"s3://b/a.png").decode()
    assert studio.asked[-2:] == [
        (f"/tasks/7/presign/?fileuri={code}", f"Token {TOKEN}"),
        ("/store/signed?s=secret", None),  # the token is not for the store
    ]


def test_a_personal_access_token_is_exchanged(predictor, scene, studio):
    with running(predictor, label_studio_url=studio.url, label_studio_api_key=PAT) as service:
        assert ask(service, task(scene)).status_code == 200
    assert studio.asked[-1][1] == "Bearer short"


WRONG = {
    "other origin": ("http://10.0.0.1/a.png", 422, "expected an address of http://127.0.0.1"),
    "file": ("file:///etc/hostname", 422, "expected an address of http or https"),
    "redirected to a file": ("/to-a-file", 422, "expected an address of http or https"),
    "redirected inwards": ("/to-a-private-address", 422, "or a public address, got another"),
    "space": ("/a b.png", 422, "got status 404"),
    "newline": ("/a\nb.png", 422, "cannot be read"),
    "other script": ("/фото.png", 422, "got status 404"),
    "dots": ("/data/../api/token", 422, "without .. in its path"),
    "hidden dots": ("/data/%2e%2e/api/token", 422, "without .. in its path"),
    "no port": ("http://localhost:99999/a.png", 422, "expected an address of http://127.0.0.1"),
    "no name": ("http:///a.png", 422, "expected an address of http or https"),
    "long": ("/" + "a" * 5000, 422, "at most 4096 characters"),
    **{path[1:]: (path, 422, "got ") for path in ODD_ANSWERS},
    "gone": ("/data/upload/1/b.png", 422, "got status 404; check --label-studio-api-key"),
    "data": ("data:image/png,abc", 422, "expected data in base64"),
    "no image": ("data:image/png;base64,AAAA", 415, "expected a PNG or JPEG or WebP file"),
    "none": (None, 422, "expected the address of an image in its data"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_image_that_cannot_be_had_is_a_problem_in_words(service, scene, what):
    address, status, words = WRONG[what]
    answer = ask(service, task(scene, address))
    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "application/problem+json",
    )
    assert words in answer.json()["detail"]


def test_a_drip_is_cut_off_at_its_deadline(predictor, scene, studio):
    settings = {"label_studio_url": studio.url, "label_studio_api_key": TOKEN}
    with running(predictor, request_timeout_s=2, **settings) as service:
        started = time.monotonic()
        assert ask(service, task(scene, "/drip")).status_code in (422, 503)
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("identity", ["../../api/token", "7/..", "", {"a": 1}])
def test_ids_of_tasks_are_no_paths(service, scene, studio, identity):
    before = len(studio.asked)
    answer = ask(service, task(scene, "s3://b/a.png", id=identity))
    assert answer.status_code == 422
    assert len(studio.asked) == before


@pytest.mark.parametrize(
    "config",
    [
        "<Image " + "a" * 60_000 + ">",
        "<Image " + "a=" * 60_000,
        "<View>" * 40_000,
        '<!DOCTYPE a [<!ENTITY b "c">]><View/>',
        "no xml",
    ],
)
def test_a_label_config_that_is_an_attack_is_refused_at_once(service, scene, config):
    started = time.monotonic()
    answer = ask(service, task(scene), config=config)
    assert answer.status_code in (413, 422)
    assert "label_config: expected" in answer.json()["detail"]
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("to_name", [[], {}, None, 3, "other"])
def test_a_region_of_no_image_takes_the_only_one(service, scene, refined, to_name):
    drawn = {"result": [region(scene.masks[0], "r", to_name=to_name)]}
    answer = ask(service, task(scene, annotations=[drawn]))
    check_masks(answer.json()["results"][0]["result"], Cut(scene), refined[:1])


def test_regions_count_against_the_limits_before_they_are_decoded(predictor, scene, studio):
    """64 regions of 4800 pixels are within the limits of one request only up to 50."""
    settings = {"label_studio_url": studio.url, "label_studio_api_key": TOKEN}
    with running(predictor, max_mask_pixels=50 * 4800, **settings) as service:
        many = {"result": [region(scene.masks[0], f"r{k}") for k in range(64)]}
        answer = ask(service, task(scene, annotations=[many]))
        assert answer.status_code == 413
        assert "pixels of all masks together" in answer.json()["detail"]
    with running(predictor, max_instances=50, **settings) as service:
        answer = ask(service, task(scene, annotations=[many]))
        assert answer.status_code == 413
        assert "at most 50 in a request, got 64" in answer.json()["detail"]


def test_a_body_of_brackets_is_refused_before_it_is_parsed(service):
    started = time.monotonic()
    answer = service.client.post("/label-studio/predict", content=b"[" + b"[]," * 2_700_000)
    assert answer.status_code == 413
    assert "objects and lists" in answer.json()["detail"]
    assert time.monotonic() - started < 5


def test_one_bad_task_of_several_gets_no_regions(service, scene, refined):
    answer = ask(service, task(scene, "/gone.png"), task(scene)).json()
    assert [len(result["result"]) for result in answer["results"]] == [0, 3]
    check_masks(answer["results"][1]["result"], scene, refined)
    assert ask(service, task(scene, "/a"), task(scene, "/b")).status_code == 422


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": {"format": "rle", "rle": [1, 2]}}, "region 'r': rle: expected"),
        ({"original_width": 81}, "for each of 81 x 60 pixels"),
        ({"original_width": 10**6, "original_height": 10**6}, "at most 40000000 pixels"),
        ({"original_width": None}, "expected original_height and original_width"),
        ({"image_rotation": 90}, "expected an image that is not rotated"),
    ],
)
def test_a_region_that_cannot_be_used_is_a_problem_in_words(service, scene, change, words):
    bad = {"result": [region(scene.masks[0], "r", **change)]}
    answer = ask(service, task(scene, annotations=[bad]))
    assert answer.status_code in (413, 422)
    assert words in answer.json()["detail"]


@pytest.mark.parametrize("body", ["{", "[]", '{"tasks": 3}', '{"tasks": [3]}', '{"tasks": [{}]}'])
def test_a_body_that_is_none_is_refused(service, body):
    answer = service.client.post("/label-studio/predict", content=body)
    assert answer.status_code == 400


def test_the_key_may_come_as_the_password_of_basic_authentication(predictor, scene, studio):
    with running(predictor, label_studio_url=studio.url, api_keys="geheim") as service:
        assert ask(service, task(scene)).status_code == 401
        for word, status in (("x:wrong", 401), ("user:geheim", 422), ("geheim", 401)):
            basic = base64.b64encode(word.encode()).decode()
            headers = {"Authorization": f"Basic {basic}"}
            assert ask(service, task(scene), headers=headers).status_code == status
        assert ask(service, task(scene), headers={"Authorization": "Basic ?"}).status_code == 401


def test_a_service_without_label_studio_is_no_backend(predictor):
    with running(predictor) as service:
        assert service.client.get("/label-studio/health").status_code == 404
        assert service.client.post("/label-studio/predict", json={}).status_code == 404


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_answers_are_those_of_label_studio_ml(service, scene):
    """The same questions to the real package's server, with a model that gives our results."""
    pytest.importorskip("label_studio_ml", reason="needs pip install label-studio-ml redis rq")
    from label_studio_ml.api import init_app
    from label_studio_ml.model import LabelStudioMLBase

    ours = ask(service, task(scene)).json()

    class Model(LabelStudioMLBase):
        def predict(self, tasks, **_):
            assert len(tasks) == 1
            return ours["results"]

    theirs = init_app(Model, model_dir=".").test_client()
    body = {"tasks": [task(scene)], "project": "1.1", "label_config": CONFIG, "params": {}}
    theirs.post("/setup", json={"project": "1.1", "schema": CONFIG})
    answer = theirs.post("/predict", json=body).get_json()
    assert answer["results"] == ours["results"]
    assert answer.keys() == ours.keys()
    health = theirs.get("/health").get_json()
    assert health["status"] == service.client.get("/label-studio/health").json()["status"]
    setup = theirs.post("/setup", json={"project": "1.1", "schema": CONFIG}).get_json()
    assert setup.keys() == service.client.post("/label-studio/setup", json={}).json().keys()
