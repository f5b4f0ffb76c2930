"""The OpenAPI document: true, complete, and what the service keeps to."""

from __future__ import annotations

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from pydantic import TypeAdapter
from schemathesis.specs.openapi.checks import positive_data_acceptance

from bpr.pipeline.formats import rle
from bpr.service.schemas import ProblemDetails, RefineAnswer
from tests.service.services import running

PROBLEM = "application/problem+json"
KSERVE = [
    f"/v2/models/{{name}}{version}{end}"
    for version in ("", "/versions/{version}")
    for end in ("", "/ready", "/infer")
]


@pytest.fixture(scope="module")
def document(service):
    return service.client.get("/openapi.json").json()


def test_every_reference_leads_somewhere(document):
    def references(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "$ref":
                    yield inner
                else:
                    yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    for reference in references(document):
        found = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_all_routes_are_there_and_all_errors_are_problems(document):
    assert set(document["paths"]) == {
        "/refine", "/progress/{request_id}", "/healthz", "/readyz", "/metrics",
        "/v2", "/v2/health/live", "/v2/health/ready", *KSERVE,
    }  # fmt: skip
    answers = document["paths"]["/refine"]["post"]["responses"]
    assert set(answers) == {
        "200", "400", "401", "406", "408", "413", "415", "422", "429", "503",
    }  # fmt: skip
    assert set(answers["200"]["content"]) == {"application/json", "application/zip", "image/png"}
    for path in document["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert set(answer["content"]) == {PROBLEM}


def test_examples_are_true(document):
    schemas = document["components"]["schemas"]
    (example,) = schemas["RefineAnswer"]["examples"]
    answer = TypeAdapter(RefineAnswer).validate_python(example)
    size = (answer.image.height, answer.image.width)
    (instance,) = example["instances"]
    mask = rle.decode(instance["segmentation"], size)
    x0, y0, x1, y1 = mask.window
    assert instance["bbox"] == [x0, y0, x1 - x0, y1 - y0]
    assert instance["area"] == mask.area
    (problem,) = schemas["ProblemDetails"]["examples"]
    TypeAdapter(ProblemDetails).validate_python(problem)


def test_answers_are_as_the_types_say(service, scene):
    answer = service.refine(scene.coco_parts, params={"details": "true"})
    parsed = TypeAdapter(RefineAnswer).validate_json(answer.content)
    assert parsed.model_dump(exclude_unset=True, mode="json") == answer.json()


def test_a_detector_adds_a_route(predictor, detector, document):
    with running(predictor, detector=detector, api_keys="k") as service:
        more = service.client.get("/openapi.json").json()
    assert set(more["paths"]) == {*document["paths"], "/segment"}
    segment, refine = (more["paths"][path]["post"] for path in ("/segment", "/refine"))
    assert segment["responses"] == refine["responses"]
    assert segment["security"] == refine["security"]


def test_a_folder_for_jobs_adds_their_routes(predictor, document, tmp_path):
    with running(predictor, jobs_folder=tmp_path) as service:
        more = service.client.get("/openapi.json").json()
    added = {"/jobs", "/jobs/{job_id}", "/jobs/{job_id}/result"}
    assert set(more["paths"]) == {*document["paths"], *added}
    assert set(more["paths"]["/jobs"]["post"]["responses"]) == {
        "202", "400", "401", "408", "413", "415", "429", "503",
    }  # fmt: skip
    for path in added:
        for operation in more["paths"][path].values():
            for status, answer in operation["responses"].items():
                assert int(status) < 400 or set(answer["content"]) == {PROBLEM}


def test_keys_are_declared_where_they_are_wanted(predictor, document):
    assert "securitySchemes" not in document["components"]
    with running(predictor, api_keys="k") as locked:
        document = locked.client.get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"key", "bearer"}
    assert "security" in document["paths"]["/refine"]["post"]
    assert "security" not in document["paths"]["/healthz"]["get"]


def test_schemathesis_finds_no_answer_that_was_not_promised(service, scene, document):
    """Generated requests to every route: documented statuses, types and schemas, no 5xx."""
    pictures = [scene.image_part[1][1], *(part[1][1] for part in scene.map_parts[1:])]
    masks = [part[1][1] for part in scene.mask_parts[1:]]
    schemathesis.openapi.media_type("image/png", st.sampled_from([*pictures, *masks, b"none"]))
    schema = schemathesis.openapi.from_dict(document)
    tried = set()

    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=150 if operation.path == "/refine" else 5,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def check(case):
            answer = case.call(base_url=service.url)
            # a schema cannot say which files fit each other
            case.validate_response(answer, excluded_checks=[positive_data_acceptance])
            assert answer.status_code < 500
            tried.add((case.operation.path, answer.status_code))

        check()
    assert {path for path, _ in tried} == set(document["paths"])
    assert {("/refine", 200), ("/refine", 400), ("/refine", 422)} <= tried
