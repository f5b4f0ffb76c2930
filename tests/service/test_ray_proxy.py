"""What a proxy of Ray says itself, in words. The apps answer as Ray's proxy and our replicas do."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse

from bpr.service.problems import draining, problem_response
from bpr.service.ray_proxy import InWords, middlewares


def ask(app):
    async def get():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            return await client.get("/refine")

    return asyncio.run(get())


@pytest.mark.parametrize("status", [500, 503])
def test_rays_own_errors_say_to_try_again(status):
    answer = ask(InWords(PlainTextResponse("ray.exceptions.ActorDiedError: ...", status)))
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert "Try again" in answer.json()["detail"]
    assert "ActorDied" not in answer.text


def test_answers_of_replicas_pass():
    refusal = draining()
    ours = problem_response(503, refusal.detail, {}, refusal.headers)
    for app in (ours, JSONResponse({"status": "ok"}), PlainTextResponse("bpr_requests 1")):
        answer = ask(InWords(app))
        assert answer.content == app.body
        assert answer.status_code == app.status_code


def test_ray_is_given_the_middleware():
    assert [middleware.cls for middleware in middlewares()] == [InWords]
