"""The commands and links of README.md and docs/, as a reader finds them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "docker/README.md",
    *sorted(ROOT.glob("*/weights/*.md")),
]

_PROGRAMS = ("bpr", "python", "python3", "pip", "git", "curl", "docker", "sudo", "torchrun")


@dataclass(frozen=True)
class Command:
    """One command of a page."""

    page: str  # relative to the repository
    text: str  # continued lines joined, comments and pipes left as they are

    @property
    def words(self) -> list[str]:
        """As a shell splits it, comments left out."""
        return shlex.split(self.text, comments=True)


def commands(page: Path) -> list[Command]:
    """Lines of shell blocks, of indented blocks, and inline code that begin with a program."""
    text = page.read_text(encoding="utf-8")
    found = []
    for language, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL):
        if language in ("sh", "bash"):
            found += _join(block).splitlines()
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    indented = re.findall(r"(?:^ {4}.*\n)+", outside, re.MULTILINE)
    found += [line for block in indented for line in _join(block).splitlines()]
    inline = re.sub(r"^ {4}.*$", "", outside, flags=re.MULTILINE)
    found += re.findall(r"`((?:bpr|python -m|python3|pip) [^`]+)`", inline.replace("\n", " "))
    name = page.relative_to(ROOT).as_posix()
    cleaned = (" ".join(line.split()) for line in found)
    return [
        Command(name, part)
        for line in cleaned
        for part in line.split(" && ")
        if part.split(" ")[0] in _PROGRAMS
    ]


def links(page: Path) -> list[str]:
    """Targets of links and pictures that lie in the repository."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if "://" not in target]


def _join(block: str) -> str:
    return re.sub(r"\s*\\\n\s*", " ", block)
