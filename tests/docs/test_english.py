"""Plain English: phrases that readers stumbled over do not come back.

Two readers who had never seen the project marked the sentences that they had to read twice. The
phrases below were in them.
"""

from __future__ import annotations

import re

import pytest

from bpr.scripts.main import COMMANDS
from tests.docs.pages import PAGES, ROOT

PHRASES = {
    r"comes? along\b": "bundled, included",
    r"goes on\b|go on\b": "resumes, continues",
    r"whatever became of": "the result of",
    r"\bbesides\b": "also, except",
    r"(?-i:\bthat is none\b|\b(are|is) none\b)": "that is not a ...; there is no ...",
    r"\bof ours\b": "name the noun",
    r"\bis told\b": "is recognised, is given",
    r"\bin words\b": "as text; describes",
    r"\bby which\b": "say it in two sentences",
    r"\bfrom which on\b|from there on\b": "above which, at which",
    r"\bat hand\b": "available",
    r"\bhas come to\b": "name the result",
    r"\bafter the fact\b": "that you already have",
    r"\bpassed over\b|pass over\b": "ignored",
    r"\b(lies|lie) about\b|\bcounts lie\b": "wrong",
    r"eight to nine tenths|a quarter of the": "write numbers",
    r"\bdata-set\b": "data set",
}
SOURCES = ("pipeline/evaluation", "pipeline/demo", "pipeline/adapters", "scripts")
FILES = ("service/settings.py", "service/client.py")


def found(text: str) -> list[str]:
    """Each unclear phrase with the words around it."""
    flat = " ".join(text.split())
    return [
        f"...{flat[max(hit.start() - 40, 0) : hit.end() + 20]}... (rather: {better})"
        for phrase, better in PHRASES.items()
        for hit in re.finditer(phrase, flat, re.IGNORECASE)
    ]


@pytest.mark.parametrize("name", [path.relative_to(ROOT).as_posix() for path in PAGES])
def test_pages_are_in_plain_english(name):
    assert found((ROOT / name).read_text(encoding="utf-8")) == []


def test_the_summaries_of_commands_are_in_plain_english():
    assert found(" ".join(COMMANDS.values())) == []


@pytest.mark.parametrize(
    "path",
    [
        *(path for folder in SOURCES for path in sorted((ROOT / folder).glob("*.py"))),
        *(ROOT / name for name in FILES),
    ],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_sources_are_in_plain_english(path):
    assert found(path.read_text(encoding="utf-8")) == []


def test_a_phrase_is_found_across_lines():
    assert len(found("a detector that comes\nalong with it")) == 1
