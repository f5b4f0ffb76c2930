"""Settings: three sources, one meaning, no secret shown."""

import re

import pytest

from bpr.scripts.main import main
from bpr.service.settings import ServiceSettings, load_settings


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ServiceSettings.model_fields:
        monkeypatch.delenv(f"BPR_{name.upper()}", raising=False)
    monkeypatch.delenv("BPR_CONFIG", raising=False)


def test_nothing_needs_to_be_set():
    settings = load_settings({})
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.api_keys == settings.cors_origins == ()
    assert settings.patch_settings(64, 3).patch_size == 64


def test_flags_go_before_variables_before_the_file(monkeypatch, tmp_path):
    config = tmp_path / "bpr.toml"
    config.write_text("max_requests = 1\nworkers = 1\nport = 1\n")
    monkeypatch.setenv("BPR_WORKERS", "2")
    monkeypatch.setenv("BPR_PORT", "2")
    settings = load_settings({"port": "3"}, config)
    assert (settings.max_requests, settings.workers, settings.port) == (1, 2, 3)
    monkeypatch.setenv("BPR_CONFIG", str(config))
    assert load_settings({}).max_requests == 1


def test_patches_follow_the_weights_unless_they_are_set():
    assert load_settings({"patch_size": "auto"}).patch_settings(64, 3).patch_size is None
    assert load_settings({"patch_size": "96"}).patch_settings(64, 3).patch_size == 96
    assert load_settings({"padding": "5"}).patch_settings(64, 3).padding == 5
    assert load_settings({}).patch_settings(None, 3).patch_size is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"port": "high"}, "port: "),
        ({"port": "70000"}, "port: "),
        ({"max_requests": "0"}, "max_requests: "),
        ({"patch_size": "63"}, "patch_size: expected an even int in 2..1024, got 63"),
        ({"nms_iou": "2"}, "nms_iou: expected a number in (0, 1], got 2.0"),
        ({"device": "tpu"}, "device: "),
        ({"backend": "tpu"}, "backend: expected one of auto, torch"),
        ({"cors_origins": "example.org"}, "cors_origins: expected origins like"),
        ({"max_request": "1"}, "max_request: expected the name of a setting"),
    ],
)
def test_a_wrong_value_is_named_in_a_line(given, words):
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        load_settings(given)
    assert "\n" not in str(error.value)


def test_a_wrong_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="expected a TOML file with settings, found no file"):
        load_settings({}, tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("port = \n")
    with pytest.raises(ValueError, match=r"broken\.toml: expected TOML"):
        load_settings({}, broken)
    broken.write_text("prot = 1\n")
    with pytest.raises(ValueError, match="prot: expected the name of a setting"):
        load_settings({}, broken)


def test_keys_are_split_and_never_shown():
    settings = load_settings({"api_keys": "one-key, other-key,"})
    assert [key.get_secret_value() for key in settings.api_keys] == ["one-key", "other-key"]
    shown = "\n".join(settings.lines()) + repr(settings)
    assert "one-key" not in shown
    assert "other-key" not in shown


def test_help_lists_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    said = capsys.readouterr().out
    for name, field in ServiceSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in said
        assert field.description
    assert "bpr serve --port 8000" in said


def test_a_wrong_flag_ends_with_2(capsys):
    assert main(["serve", "--workers", "none"]) == 2
    assert capsys.readouterr().err.startswith("bpr serve: workers: ")
