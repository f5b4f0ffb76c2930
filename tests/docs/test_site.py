"""The documentation as a site: it builds without a warning and has every page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from tests.docs.pages import ROOT


def pages_of(nav):
    for entry in nav:
        target = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from pages_of(target) if isinstance(target, list) else [target]


def test_the_navigation_has_every_page_of_docs():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = set(pages_of(config["nav"]))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= named
    beside = named - {path.name for path in (ROOT / "docs").glob("*.md")} - {"api.md"}
    assert all((ROOT / name).exists() for name in beside)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="needs mkdocs-material and mkdocstrings[python]")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    api = (tmp_path / "api.html").read_text(encoding="utf-8")
    assert "load_refiner" in api
    assert "Raises" in api
    for path in tmp_path.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for address in re.findall(r'<(?:script|img)[^>]* src="([^"]+)"', text):
            assert "://" not in address, f"{path.name} loads {address}"
    index = json.loads((tmp_path / "search/search_index.json").read_text(encoding="utf-8"))
    assert any("Boundary IoU" in entry["text"] for entry in index["docs"])
