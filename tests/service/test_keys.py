"""Keys with names and limits, in a file that is read again."""

from __future__ import annotations

import hashlib
import time

import pytest

from bpr.service.keys import read_keys
from tests.service.services import bpr_serve, connected, running, until
from tests.service.test_impatience import SLOW_HEAD
from tests.service.test_protection import problem


def ask(service, scene, key):
    return service.client.post("/refine", files=scene.mask_parts, headers={"X-API-Key": key})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys.toml"
    digest = hashlib.sha256(b"second").hexdigest()
    path.write_text(
        f'[ada]\nkey = "first"\nrequests_per_minute = 3\n[bob-2]\nsha256 = "{digest}"\n'
    )
    return path


def test_a_file_of_keys_is_read_again_when_it_changes(predictor, scene, file):
    with running(predictor, api_keys_file=file) as service:
        assert ask(service, scene, "first").status_code == 200
        assert ask(service, scene, "second").status_code == 200
        assert ask(service, scene, "third").status_code == 401
        file.write_text('[eve]\nkey = "third"\n')
        until(lambda: ask(service, scene, "third").status_code == 200)
        assert ask(service, scene, "first").status_code == 401
        file.write_text("[eve\n")  # half written: the keys of before stay
        time.sleep(1.2)
        assert ask(service, scene, "third").status_code == 200
        line = 'bpr_client_requests_total{key="eve",status="200"}'
        until(lambda: service.metric(line) >= 2)  # counted once the answer is sent


def test_a_key_may_have_a_rate(predictor, scene, file):
    with running(predictor, api_keys_file=file) as service:
        answers = [ask(service, scene, "first") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert "may send 3 requests a minute" in problem(answers[-1], 429)
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
        assert ask(service, scene, "second").status_code == 200


def test_a_key_may_have_fewer_places(predictor, scene, tmp_path):
    file = tmp_path / "keys.toml"
    file.write_text('[ada]\nkey = "first"\nmax_requests = 1\n')
    with running(predictor, api_keys_file=file) as service, connected(service) as slow:
        slow.sendall(SLOW_HEAD.replace(b"Host: a", b"Host: a\r\nX-API-Key: first"))
        until(lambda: service.metric("bpr_uploads") == 1)
        assert "Your key has 1 requests" in problem(ask(service, scene, "first"), 429)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a b]\n", "no TOML"),
        ('["a b"]\nkey = "x"\n', "a name of letters"),
        ("[a]\n", "either key"),
        ('[a]\nkey = "x"\nsha256 = "00"\n', "either key"),
        ('[a]\nsha256 = "00"\n', "either key"),
        ('[a]\nkey = "x"\nmax_requests = 0\n', "max_requests: expected a number > 0"),
        ('[a]\nkey = "x"\nmax = 1\n', "got max"),
    ],
)
def test_a_file_that_is_wrong_is_said_without_its_keys(tmp_path, text, words):
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        read_keys(path)
    assert '"x"' not in str(caught.value)


def test_the_log_names_the_client_and_its_key(weights, scene, file):
    options = ("--weights", str(weights), "--backend", "torch", "--api-keys-file", str(file))
    with bpr_serve(*options) as service:
        assert ask(service, scene, "second").status_code == 200
        until(lambda: any(line["message"] == "request" for line in service.logged()))
        (line,) = (line for line in service.logged() if line["message"] == "request")
    assert (line["client"], line["key"]) == ("127.0.0.1", "bob-2")
    assert "second" not in "\n".join(service.said).replace("seconds", "")
