"""What several tests need: where the material outside the repository lies."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs ../shared/{name}, which is not part of the repository")
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    """Arrays recorded from the reference implementation."""
    return _shared("golden/bpr")


@pytest.fixture(scope="session")
def photographs() -> Path:
    """Validation photographs with accurate masks: val/ and val_predictions/."""
    return _shared("data")
