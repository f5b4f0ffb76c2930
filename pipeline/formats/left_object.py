"""Objects of an annotation file that are not refined: they stay as they are, and are named."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LeftObject:
    """One object that stays as it is."""

    name: str  # where it stands in its file: "entry 3", "line 2"
    reason: str
    is_damaged: bool = True
    """It cannot be read. False: it is nothing to refine (a box, a crowd, no mask)."""

    def __str__(self) -> str:
        return f"{self.name} left as it is: {self.reason}"
