"""KServe's protocol, asked by hand and by Triton's own client.

pip install 'tritonclient[http]' && pytest tests/service/test_kserve.py
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.networks import INPUT_SIZE
from tests.service.services import running, until
from tests.service.test_protection import problem

SIDE = INPUT_SIZE


@pytest.fixture
def patches():
    rng = np.random.default_rng(3)
    made = rng.integers(0, 256, (40, SIDE, SIDE, 4), np.uint8)
    made[..., 3] %= 2
    return made


def tensor(patches, **changes):
    described = {"name": "patches", "datatype": "UINT8", "shape": list(patches.shape)}
    return {**described, "data": patches.tolist(), **changes}


def ask(service, body, name="random", **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return service.client.post(f"/v2/models/{name}/infer", content=content, headers=headers)


def version(predictor):
    return predictor.weights_sha256[:12]


def test_metadata_says_what_the_network_takes(service, predictor):
    get = service.client.get
    assert get("/v2").json()["extensions"] == ["binary_tensor_data"]
    own = f"/v2/models/random/versions/{version(predictor)}"
    for path in ("/v2/models/random", own):
        assert get(path).json() == {
            "name": "random",
            "versions": [version(predictor)],
            "platform": "bpr_torch",
            "inputs": [{"name": "patches", "datatype": "UINT8", "shape": [-1, SIDE, SIDE, 4]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, SIDE, SIDE]}],
        }
        assert get(f"{path}/ready").json() == {"status": "ok"}
    for path in ("/v2/models/other", "/v2/models/random/versions/1"):
        answer = get(path)
        assert "expected the model random" in problem(answer, 404)
        assert answer.json()["error"] == answer.json()["detail"]


def test_json_and_binary_tensors_give_the_networks_logits(service, predictor, patches):
    want = predictor(patches)
    answer = ask(service, {"id": "a", "inputs": [tensor(patches)]}).json()
    assert (answer["model_name"], answer["model_version"]) == ("random", version(predictor))
    assert answer["id"] == "a"
    (output,) = answer["outputs"]
    found = np.array(output["data"], np.float32).reshape(output["shape"])
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
    flat = ask(service, {"inputs": [tensor(patches, data=patches.ravel().tolist())]}).json()
    assert flat["outputs"] == answer["outputs"]

    raw = patches.tobytes()
    described = tensor(patches, parameters={"binary_data_size": len(raw)})
    del described["data"]
    head = json.dumps(
        {
            "inputs": [described],
            "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
        }
    ).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    binary = ask(service, head + raw, **length)
    json_bytes = int(binary.headers["inference-header-content-length"])
    (described,) = json.loads(binary.content[:json_bytes])["outputs"]
    assert described["parameters"]["binary_data_size"] == len(binary.content) - json_bytes
    logits = np.frombuffer(binary.content[json_bytes:], "<f4").reshape(described["shape"])
    np.testing.assert_array_equal(logits, found)


EMPTY = {"name": "patches", "datatype": "UINT8", "shape": [0, SIDE, SIDE, 4], "data": []}
WRONG = [
    ({}, 400, "inputs: expected a list"),
    ([], 400, "json object with inputs"),
    ({"inputs": [1]}, 400, "inputs: expected a list"),
    ({"inputs": [{**EMPTY, "name": "x"}]}, 422, "the tensor patches of UINT8"),
    ({"inputs": [{**EMPTY, "datatype": "FP32"}]}, 422, "got 'patches' of 'FP32'"),
    ({"inputs": [{**EMPTY, "shape": [1, 2]}]}, 422, "[N, 32, 32, 4], got [1, 2]"),
    ({"inputs": [{**EMPTY, "shape": [-1, SIDE, SIDE, 4]}]}, 422, "expected the shape"),
    ({"inputs": [{**EMPTY, "shape": [True, SIDE, SIDE, 4]}]}, 422, "expected the shape"),
    ({"inputs": [{**EMPTY, "shape": [10**9, SIDE, SIDE, 4]}]}, 413, "at most 10000"),
    ({"inputs": [{**EMPTY, "shape": [1, SIDE, SIDE, 4]}]}, 422, "4096 whole numbers"),
    ({"inputs": [{**EMPTY, "shape": [1, SIDE, SIDE, 4], "data": [0.5] * 4096}]}, 422, "whole"),
    ({"inputs": [{**EMPTY, "shape": [1, SIDE, SIDE, 4], "data": [300] * 4096}]}, 422, "0..255"),
    ({"inputs": [{**EMPTY, "shape": [1, SIDE, SIDE, 4], "data": [[1], 2]}]}, 422, "whole"),
    ({"inputs": [{**EMPTY, "shape": [1, SIDE, SIDE, 4], "data": [2] * 4096}]}, 422, "as 0 or 1"),
    ({"inputs": [{**EMPTY, "parameters": {"binary_data_size": 7}}]}, 400, "0 bytes behind"),
    ({"inputs": [EMPTY], "outputs": [{"name": "x"}]}, 422, "the one tensor logits"),
    ({"inputs": [EMPTY], "id": 5}, 400, "id: expected text"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "words"), WRONG)
def test_what_is_no_such_tensor_is_said(service, body, status, words):
    answer = ask(service, body)
    assert words in problem(answer, status)
    assert answer.json()["error"] == answer.json()["detail"]


@pytest.mark.parametrize("length", ["-1", "x", "99", "9" * 50])
def test_a_length_that_is_false_is_said(service, length):
    headers = {"Inference-Header-Content-Length": length}
    assert "expected the number of bytes" in problem(ask(service, b"{}", **headers), 400)


def test_no_patches_give_no_logits(service):
    (output,) = ask(service, {"inputs": [EMPTY]}).json()["outputs"]
    assert (output["shape"], output["data"]) == ([0, SIDE, SIDE], [])


def test_limits_and_keys_apply(predictor, patches):
    with running(predictor, api_keys="sesame", max_patches=30, max_body_bytes=10**6) as service:
        problem(ask(service, {"inputs": [EMPTY]}), 401)
        key = {"X-API-Key": "sesame"}
        assert ask(service, {"inputs": [EMPTY]}, **key).status_code == 200
        assert "at most 30" in problem(ask(service, {"inputs": [tensor(patches)]}, **key), 413)
        assert "1000000 bytes" in problem(ask(service, b"a" * 10**6 + b"a", **key), 413)
        refused = 'bpr_requests_total{route="/v2/models/{name}/infer",status="401"}'
        until(lambda: service.metric(refused) == 1)  # counted once the answer is sent


def test_every_answer_names_the_model(service, scene, predictor):
    answers = [
        *(service.refine(scene.mask_parts, accept=accept)
          for accept in ("application/json", "application/zip", "image/png")),
        *(service.client.get(path) for path in ("/healthz", "/", "/v2/models/random", "/nothing")),
        service.refine([scene.image_part]),
    ]  # fmt: skip
    for answer in answers:
        assert answer.headers["x-model-name"] == "random"
        assert answer.headers["x-model-version"] == version(predictor)
    assert answers[0].json()["model"]["version"] == version(predictor)


def test_tritons_client_works(service, predictor, patches):
    triton = pytest.importorskip("tritonclient.http")
    with triton.InferenceServerClient(service.url.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("random")
        assert client.get_server_metadata()["name"] == "bpr"
        described = client.get_model_metadata("random", version(predictor))
        (own,) = described["inputs"]
        for is_binary in (False, True):
            given = triton.InferInput(own["name"], list(patches.shape), own["datatype"])
            given.set_data_from_numpy(patches, binary_data=is_binary)
            wanted = triton.InferRequestedOutput("logits", binary_data=is_binary)
            for outputs in ([wanted], None):
                found = client.infer("random", [given], outputs=outputs, request_id="7")
                assert found.get_response()["id"] == "7"
                np.testing.assert_allclose(
                    found.as_numpy("logits"), predictor(patches), rtol=1e-4, atol=1e-4
                )
        with pytest.raises(triton.InferenceServerException, match="expected the model random"):
            client.get_model_metadata("other")
