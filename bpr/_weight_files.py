"""Weights as files: found by their path, or by the name of those that came with the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SHIPPED = Path(__file__).parent / "weights"
"""Of the refiner. Detectors have a folder of their own."""


def shipped_names(folder: Path = SHIPPED) -> tuple[str, ...]:
    """Names of the weights that came with the package, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.safetensors")))


def find_weights(
    weights: str | Path,
    shipped: Path = SHIPPED,
    endings: Sequence[str] = (".safetensors", ".pth", ".pt"),
) -> tuple[Path, str]:
    """Where weights lie, and what they are called.

    Args:
        weights: a name of `shipped_names`, or a path.
        shipped: folder of those that came with the package.
        endings: of files that can be read.

    Raises:
        ValueError: there is no such name or file.
    """
    if isinstance(weights, str) and weights in shipped_names(shipped):
        return shipped / f"{weights}.safetensors", weights
    path = Path(weights)
    if path.is_file():
        if path.suffix not in endings:
            expected = f"{', '.join(endings[:-1])} or {endings[-1]}"
            raise ValueError(f"{path}: expected a file ending in {expected}, got {path.suffix!r}")
        return path, path.stem
    if path.is_dir():
        raise ValueError(f"{path}: expected a file with weights, got a folder")
    if path.suffix or len(path.parts) > 1:
        raise ValueError(f"{path}: expected a file with weights, got no such file")
    names = ", ".join(shipped_names(shipped)) or "none"
    raise ValueError(
        f"weights: expected a file or one of the shipped names ({names}), got {str(weights)!r}"
    )
