"""`bpr cvat` with the real SDK, against a server that keeps a task as CVAT's API does."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from bpr import load_refiner
from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.formats import polygons, rle
from bpr.pipeline.formats.images import encode_mask, encode_png, read_mask
from bpr.pipeline.instance import Mask
from bpr.pipeline.metrics import mask_iou
from bpr.scripts.main import main
from tests.networks import save_random_network

sdk = pytest.importorskip("cvat_sdk", reason="needs pip install 'bpr-refine[cvat]'")
masks = pytest.importorskip("cvat_sdk.masks")

TOKEN = "pat-1"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_random_network(tmp_path_factory.mktemp("weights") / "random.safetensors")


class Cvat(ThreadingHTTPServer):
    """One task with three frames: frame 1 cannot be had, frame 2 has nothing to refine."""

    def __init__(self, image, annotations):
        super().__init__(("127.0.0.1", 0), Handler)
        self.images, self.annotations, self.pushes = {0: image}, annotations, 0
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path, query = self.parse()
        if path == "/api/server/about":
            self.answer({"name": "CVAT", "description": "", "version": "2.80.0", "logo_url": "",
                         "subtitle": ""})  # fmt: skip
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"detail": "no"}, 401)
        elif path == "/api/tasks/42":
            self.answer(
                {
                    "id": 42,
                    "name": "t",
                    "jobs": {"url": "", "count": 1, "completed": 0, "validation": 0},
                    "labels": {"url": ""},
                }
            )
        elif path == "/api/tasks/42/annotations":
            self.answer(self.server.annotations)
        elif path == "/api/tasks/42/data":
            assert query["quality"] == ["original"]
            self.answer(self.server.images.get(int(query["number"][0]), b"no image"))
        elif path == "/api/users/self":
            self.answer({"id": 1, "username": "u"})
        else:
            self.answer({"detail": "not found"}, 404)

    def do_PATCH(self):
        path, query = self.parse()
        assert (path, query["action"]) == ("/api/tasks/42/annotations", ["update"])
        body = self.body()
        for kind in ("shapes", "tracks"):
            ids = [one["id"] for one in body[kind]]
            old = self.server.annotations[kind]
            assert set(ids) <= {one["id"] for one in old}
            kept = [one for one in old if one["id"] not in ids]
            new = [{**one, "id": 1000 + one["id"]} for one in body[kind]]
            self.server.annotations = {**self.server.annotations, kind: kept + new}
        self.server.pushes += 1
        self.answer(self.server.annotations)

    def do_PUT(self):
        assert self.parse()[0] == "/api/tasks/42/annotations"
        self.server.annotations = self.body()
        self.answer(self.server.annotations)

    def parse(self):
        parts = urlsplit(self.path)
        return parts.path.rstrip("/"), parse_qs(parts.query)

    def body(self):
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, content, status=200):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "image/png" if isinstance(content, bytes) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def shape(identity, kind, points, frame=0, **fields):
    return {
        "id": identity, "type": kind, "frame": frame, "points": points, "label_id": 7, "group": 3,
        "source": "manual", "occluded": True, "outside": False, "z_order": 2, "rotation": 0.0,
        "attributes": [{"spec_id": 5, "value": "red"}], "elements": [], **fields,
    }  # fmt: skip


@pytest.fixture
def scene():
    (scene,) = (scene for scene in load_demo_scenes() if scene.name == "coffee")
    image = np.ascontiguousarray(scene.image[100:300, 150:400])
    arrays = [mask.to_array()[100:300, 150:400] for mask in scene.coarse[:2]]
    ring = polygons.trace_edges(Mask.from_array(arrays[1]), 1).parts[0].ravel().tolist()
    return image, arrays[0], ring


@pytest.fixture
def cvat(scene):
    image, mask, ring = scene
    shapes = [
        shape(1, "mask", masks.encode_mask(mask)),
        shape(2, "rectangle", [1.0, 2.0, 30.0, 40.0]),
        shape(3, "polygon", ring),
        shape(4, "polygon", ring, frame=1),
        shape(5, "points", [1.0, 2.0], frame=2),
    ]
    tag = {"id": 9, "frame": 0, "label_id": 7, "group": 0, "source": "manual", "attributes": []}
    server = Cvat(encode_png(image), {"version": 1, "tags": [tag], "shapes": shapes, "tracks": []})
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def bpr(cvat, weights, tmp_path, capsys):
    (tmp_path / "token").write_text(f"{TOKEN}\n")

    def run(*options, code=0, host=None, backup="before.json"):
        command = [
            "cvat", "42", "--host", host or cvat.url, "--token-file", tmp_path / "token",
            "--backup", tmp_path / backup, "--weights", weights, "--backend", "torch",
            "--device", "cpu", *options,
        ]  # fmt: skip
        assert main(list(map(str, command))) == code
        return capsys.readouterr()

    return run


def refined(scene, weights, tmp_path):
    """The masks that `bpr refine` gives."""
    image, mask, ring = scene
    (tmp_path / "photo.png").write_bytes(encode_png(image))
    names = [tmp_path / "m0.png", tmp_path / "m1.png"]
    coarse = [Mask.from_array(mask), rle.decode([ring], image.shape[:2])]
    for name, one in zip(names, coarse, strict=True):
        name.write_bytes(encode_mask(one))
    command = ["refine", tmp_path / "photo.png", "--masks", *names, "--out", tmp_path / "out"]
    options = ["--weights", weights, "--backend", "torch", "--device", "cpu"]
    assert main(list(map(str, [*command, *options]))) == 0
    return [read_mask(tmp_path / "out" / name.name) for name in names]


def refine_one(image, coarse, weights, tmp_path):
    refiner = load_refiner(weights, "cpu", "torch")
    return Mask.from_array(refiner(image, coarse.to_array()[None])[0])


def test_masks_and_polygons_are_refined_in_place(bpr, cvat, scene, weights, tmp_path):
    before = cvat.annotations
    said = bpr(code=1)
    assert "2 of 3 shapes in 2 frames changed" in said.out
    assert "failed: frame 1: frame 1: expected an image" in said.err
    assert cvat.pushes == 1
    shapes = {one["id"]: one for one in cvat.annotations["shapes"]}
    assert shapes.keys() == {2, 4, 5, 1001, 1003}
    for old in before["shapes"]:
        new = shapes.get(old["id"]) or shapes[1000 + old["id"]]
        for name in ("frame", "label_id", "group", "occluded", "z_order", "attributes", "source"):
            assert new[name] == old[name]
        if old["id"] in (2, 4, 5):
            assert new == old
    assert cvat.annotations["tags"] == before["tags"]
    height, width = scene[0].shape[:2]
    for identity, want in zip((1001, 1003), refined(scene, weights, tmp_path), strict=True):
        assert shapes[identity]["type"] == "mask"
        points = shapes[identity]["points"]
        got = masks.decode_mask(points, image_width=width, image_height=height)
        np.testing.assert_array_equal(got, want)
    assert json.loads((tmp_path / "before.json").read_text()) == before


def test_a_backup_is_put_back(bpr, cvat):
    before = json.loads(json.dumps(cvat.annotations))
    bpr("--frames", "0")
    assert cvat.annotations != before
    said = bpr("--restore")
    assert "are back" in said.out
    assert cvat.annotations == before


def test_polygons_stay_polygons_where_that_is_asked_for(bpr, cvat, scene):
    bpr("--frames", "0", "--polygon-tolerance", "0.5")
    (new,) = (one for one in cvat.annotations["shapes"] if one["id"] == 1003)
    assert new["type"] == "polygon"
    assert new["points"] != scene[2]


@pytest.fixture
def video(cvat, scene):
    """The cup drawn in frames 0 and 6 and gone from frame 9 on; a box and a spoiled track too."""
    (whole,) = (scene for scene in load_demo_scenes() if scene.name == "coffee")
    cut = (slice(90, 290), slice(140, 390))
    cvat.images[6] = encode_png(np.ascontiguousarray(whole.image[cut]))
    cups = [Mask.from_array(scene[1]), Mask.from_array(whole.coarse[0].to_array()[cut])]
    rings = [polygons.trace_edges(cup, 1).parts[0].ravel().tolist() for cup in cups]
    frames = {0: rings[0], 6: rings[1], 9: rings[1]}

    def keyframe(frame, points, kind="polygon"):
        fields = {"type": kind, "points": points, "outside": frame == 9, "z_order": 1}
        return {
            "id": 50 + frame, "frame": frame, "occluded": frame == 6, "rotation": 0.0,
            "attributes": [{"spec_id": 4, "value": str(frame)}], **fields,
        }  # fmt: skip

    def track(identity, shapes):
        return {
            "id": identity, "frame": 0, "label_id": 7, "group": 2, "source": "manual",
            "attributes": [], "elements": [], "shapes": shapes,
        }  # fmt: skip

    cvat.annotations = {
        **cvat.annotations,
        "shapes": [],
        "tracks": [
            track(11, [keyframe(0, [1.0, 2, 30, 40], "rectangle")]),
            track(12, [keyframe(frame, points) for frame, points in frames.items()]),
            track(13, [keyframe(6, [1.0, 2.0, 3.0])]),
        ],
    }
    return cups, [scene[0], np.ascontiguousarray(whole.image[cut])]


def test_a_track_is_refined_in_each_frame_that_somebody_drew(bpr, cvat, video, weights, tmp_path):
    cups, images = video
    before = json.loads(json.dumps(cvat.annotations))
    said = bpr("--polygon-tolerance", "0", code=1)
    assert "2 of 3 shapes in 2 frames changed" in said.out
    assert "left as it is: frame 6, track 3, frame 6 of an image of 250 x 200" in said.err
    assert cvat.pushes == 1
    tracks = {one["id"]: one for one in cvat.annotations["tracks"]}
    assert tracks.keys() == {11, 1012, 13}
    assert [tracks[11], tracks[13]] == [before["tracks"][0], before["tracks"][2]]
    old, new = before["tracks"][1], tracks[1012]
    assert {**new, "id": 12, "shapes": None} == {**old, "shapes": None}
    for was, now in zip(old["shapes"], new["shapes"], strict=True):
        assert {**now, "points": None} == {**was, "points": None}
    assert new["shapes"][2] == old["shapes"][2]
    for image, cup, keyframe in zip(images, cups, new["shapes"], strict=False):
        coarse = rle.decode([polygons.trace_edges(cup, 1).parts[0].ravel().tolist()], cup.size)
        want = refine_one(image, coarse, weights, tmp_path)
        got = rle.decode([keyframe["points"]], cup.size)
        want = polygons.fill(polygons.trace_pixels(want, 0).parts[0], cup.size)  # the largest part
        assert mask_iou(got, want) > 0.99
        assert mask_iou(got, coarse) < 0.99


def test_tracks_are_put_back(bpr, cvat, video):
    before = json.loads(json.dumps(cvat.annotations))
    bpr("--frames", "0")
    changed = next(one for one in cvat.annotations["tracks"] if one["id"] == 1012)
    assert changed["shapes"][0] != before["tracks"][1]["shapes"][0]
    assert changed["shapes"][1:] == before["tracks"][1]["shapes"][1:]
    bpr("--restore")
    assert cvat.annotations == before


def test_a_dry_run_uploads_nothing(bpr, cvat):
    said = bpr("--dry-run", "--frames", "0,2-5")
    assert "2 of 2 shapes in 1 frames changed" in said.out
    assert "nothing uploaded" in said.out
    assert cvat.pushes == 0


def test_what_is_wrong_with_a_call_is_said(bpr, cvat, tmp_path):
    (tmp_path / "there.json").write_text("{}")
    assert "expected a new file" in bpr(code=2, backup="there.json").err
    assert "got: 'version'" in bpr("--restore", code=2, backup="there.json").err
    assert "expected a backup to restore" in bpr("--restore", code=2).err
    assert "expected pixels in 0..10" in bpr("--polygon-tolerance", "11", code=2).err
    assert "expected CVAT at" in bpr(code=2, host="http://127.0.0.1:9").err
    (tmp_path / "token").write_text("wrong")
    assert "task 42: expected an answer, got status 401" in bpr(code=2).err
    (tmp_path / "token").write_text(" ")
    assert "expected a token in" in bpr(code=2).err
    assert cvat.pushes == 0
    assert not (tmp_path / "before.json").exists()
