"""POST /segment: the masks of `bpr detect --refine`, where a detector is configured."""

from __future__ import annotations

import io
import zipfile
from copy import copy

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from bpr.detector.detections import Detections
from bpr.pipeline.formats import rle
from bpr.pipeline.formats.images import encode_png
from bpr.pipeline.host import HostRunner
from bpr.pipeline.refine import refine
from bpr.pipeline.settings import PatchSettings
from bpr.scripts.main import main
from bpr.service.schemas import RefineAnswer
from tests.networks import INPUT_SIZE, save_random_detector
from tests.service.services import bpr_serve, running, until


@pytest.fixture(scope="module")
def found(detector, scene):
    """What the library finds."""
    prediction = detector(scene.image)
    assert len(prediction.instances) > 1
    return prediction


@pytest.fixture(scope="module")
def refined(found, predictor, scene):
    return refine(scene.image, found, HostRunner(predictor), PatchSettings(patch_size=INPUT_SIZE))


@pytest.fixture(scope="module")
def service(predictor, detector):
    with running(predictor, detector=detector) as service:
        yield service


def segment(service, *parts, accept="application/json", **options):
    headers = {"Accept": accept}
    return service.client.post("/segment", files=[*parts], headers=headers, **options)


def masks(records, name="segmentation"):
    return [record[name] for record in records]


def codes(prediction):
    return [rle.encode(instance.mask) for instance in prediction.instances]


def test_instances_are_those_of_the_detector_refined(service, scene, found, refined, detector):
    answer = segment(service, scene.image_part, params={"details": "true"})
    assert answer.status_code == 200
    content = answer.json()
    TypeAdapter(RefineAnswer).validate_python(content)
    assert masks(content["instances"]) == codes(refined) != codes(found)
    assert masks(content["instances"], "coarse") == codes(found)
    for record, instance in zip(content["instances"], found.instances, strict=True):
        assert record["category_id"] == instance.label
        assert record["category"] == detector.categories[instance.label]
        assert record["score"] == pytest.approx(instance.score)
    assert content["model"]["detector"] == {
        "name": "detector",
        "weights_sha256": detector.weights_sha256,
    }
    assert content["timings"]["detect"] > 0
    assert "detect;dur=" in answer.headers["server-timing"]


def test_answers_are_files_too(service, scene, refined):
    answer = segment(service, scene.image_part, accept="application/zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        lines = archive.read("scene_pred.txt").decode().splitlines()
    assert [int(line.split()[1]) for line in lines] == [one.label for one in refined.instances]
    answer = segment(service, scene.image_part, accept="image/png")
    with Image.open(io.BytesIO(answer.content)) as image:
        union = np.array(image) > 0
    assert (union == np.any([one.mask.to_array() for one in refined.instances], axis=0)).all()


@pytest.mark.parametrize(
    ("parts", "status", "words"),
    [
        ([("masks", ("a.png", b"x"))], 400, "expected the part image alone, got 'masks' too"),
        ([("image", ("b.png", b"x"))], 400, "image: expected one file, got 2"),
    ],
)
def test_it_takes_one_image_alone(service, scene, parts, status, words):
    answer = segment(service, scene.image_part, *parts)
    assert answer.status_code == status
    assert words in answer.json()["detail"]


def test_what_is_no_image_is_said(service):
    answer = segment(service, ("image", ("cat.png", b"not a picture")))
    assert answer.status_code == 415
    assert "image (cat.png): expected a PNG or JPEG or WebP file" in answer.json()["detail"]


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1)])
def test_images_of_odd_sizes_are_looked_at(service, size):
    image = encode_png(np.zeros((*size, 3), np.uint8))
    answer = segment(service, ("image", ("odd.png", image)))
    assert answer.status_code == 200
    assert answer.json()["image"] == {"height": size[0], "width": size[1]}


def test_a_client_that_leaves_leaves_nothing_behind(service, scene):
    with pytest.raises(httpx.ReadTimeout):
        segment(service, scene.image_part, timeout=0.01)
    until(lambda: service.metric("bpr_requests_in_process") == 0)
    assert segment(service, scene.image_part).status_code == 200


@pytest.mark.parametrize("drawing", [False, True])
def test_a_detector_without_memory_is_a_503_that_tells_nothing_of_the_inside(
    drawing, predictor, detector, scene, monkeypatch
):
    poor = copy(detector)

    def fail(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: /dev/secret")

    with running(predictor, detector=poor) as service:
        if drawing:
            monkeypatch.setattr(Detections, "windows", fail)
        else:
            poor._model = fail
        answer = segment(service, scene.image_part)
        assert answer.status_code == 503
        assert "secret" not in answer.text
        assert "Try again, or a smaller one" in answer.json()["detail"]
        monkeypatch.undo()
        poor._model = detector._model
        assert segment(service, scene.image_part).status_code == 200


def test_limits_hold_for_what_is_found(predictor, detector, scene, found):
    with running(predictor, detector=detector, max_instances=1) as service:
        answer = segment(service, scene.image_part, params={"details": "true"})
        assert masks(answer.json()["instances"], "coarse") == codes(found)[:1]
    with running(predictor, detector=detector, max_mask_pixels=9) as service:
        answer = segment(service, scene.image_part)
        assert answer.status_code == 413
        assert "at most 9 pixels" in answer.json()["detail"]


def test_without_a_detector_there_is_no_such_address(predictor, scene):
    with running(predictor) as service:
        assert segment(service, scene.image_part).status_code == 404
        assert "detector" not in service.refine(scene.mask_parts).json()["model"]


def test_bpr_serve_takes_a_detector(weights, scene, tmp_path):
    path = save_random_detector(tmp_path / "d.safetensors")
    options = ("--weights", str(weights), "--backend", "torch", "--device", "cpu")
    with bpr_serve(*options, "--detector", str(path), "--detector-score", "0") as service:
        answer = segment(service, scene.image_part)
        assert answer.status_code == 200
        assert len(answer.json()["instances"]) > 4


def test_a_detector_that_is_none_is_said_before_anything_is_served(weights, tmp_path, capsys):
    (tmp_path / "d.safetensors").write_bytes(b"no weights")
    words = ["serve", "--port", "0", "--weights", weights, "--detector"]
    assert main([*map(str, words), str(tmp_path / "d.safetensors")]) == 2
    assert "detector: " in capsys.readouterr().err
    assert main([*map(str, words), str(tmp_path / "missing.safetensors")]) == 2
    assert "missing.safetensors" in capsys.readouterr().err
