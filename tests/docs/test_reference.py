"""docs/reference.md is what the code says; ARCHITECTURE and the others point at what is there."""

from __future__ import annotations

import re

import pytest

from bpr.scripts.main import COMMANDS
from bpr.scripts.write_reference import PAGE, page
from tests.docs.pages import PAGES, ROOT, links


def test_the_reference_is_up_to_date():
    # lines are broken in other places by other Pythons
    now, then = (" ".join(text.split()) for text in (page(), PAGE.read_text(encoding="utf-8")))
    assert now == then, "run python -m bpr.scripts.write_reference"


def test_the_reference_has_every_command():
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^### bpr (\S+)$", text, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("name", [path.relative_to(ROOT).as_posix() for path in PAGES])
def test_links_lead_somewhere(name):
    path = ROOT / name
    for target in links(path):
        file, _, anchor = target.partition("#")
        place = (path.parent / file) if file else path
        assert place.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, target


def test_the_index_has_every_page():
    index = set(links(ROOT / "docs/README.md"))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= index


def test_what_is_measured_has_every_benchmark():
    text = (ROOT / "docs/measured.md").read_text(encoding="utf-8")
    named = set(re.findall(r"python -m benchmarks\.(\w+)", text))
    programs = {
        path.stem
        for path in (ROOT / "benchmarks").glob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    assert named == programs
