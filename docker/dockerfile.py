"""What a Dockerfile says: its instructions, its stages, and which files Docker sends to it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """One instruction, comments left out and lines joined."""

    stage: str  # name of the stage that it belongs to
    name: str  # FROM, RUN, COPY ...
    rest: str

    def copied(self) -> tuple[str, ...]:
        """What a COPY takes from the folder that is built; nothing for other instructions."""
        if self.name != "COPY" or self.rest.startswith("--from="):
            return ()
        return tuple(shlex.split(self.rest)[:-1])

    def parent(self) -> str | None:
        """The stage or image that a FROM, or a COPY --from, builds on."""
        if self.name == "FROM":
            return self.rest.partition(" AS ")[0]
        found = re.match(r"--from=(\S+)", self.rest) if self.name == "COPY" else None
        return found[1] if found else None


def read_instructions(path: Path) -> tuple[Instruction, ...]:
    """Every instruction of a Dockerfile, in order."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n", " ", "\n".join(lines))
    stage, found = "", []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        if name.upper() == "FROM":
            stage = rest.partition(" AS ")[2]
        found.append(Instruction(stage, name.upper(), " ".join(rest.split())))
    return tuple(found)


def needed_stages(instructions: tuple[Instruction, ...], target: str | None = None) -> set[str]:
    """The stages that a target is made of, itself included; the last stage without a target."""
    parents: dict[str, set[str]] = {}
    for instruction in instructions:
        parent = instruction.parent()
        parents.setdefault(instruction.stage, set()).update({parent} if parent else ())
    needed = {target or instructions[-1].stage}
    while more := {p for n in needed for p in parents[n] if p in parents} - needed:
        needed |= more
    return needed


def ignored_patterns(dockerfile: Path) -> tuple[str, ...]:
    """The lines of the .dockerignore beside a Dockerfile."""
    path = dockerfile.with_name(f"{dockerfile.name}.dockerignore")
    return tuple(path.read_text().split()) if path.exists() else ()


def is_sent(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether Docker sends a file or folder: the last pattern that matches it decides."""
    sent = True
    for pattern in patterns:
        words = re.escape(pattern.removeprefix("!").strip("/"))
        words = words.replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{words}(?:/.*)?", path.strip("/")):
            sent = pattern.startswith("!")
    return sent
