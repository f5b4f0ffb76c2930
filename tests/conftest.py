"""What several tests need: recorded numbers, photographs, a cache of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden"
SHARED = ROOT.parent / "shared"


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs ../shared/{name}, which is not part of the repository")
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    """Arrays recorded from the authors' code."""
    return GOLDEN / "bpr"


@pytest.fixture(scope="session")
def photographs() -> Path:
    """Validation photographs with accurate masks: val/ and val_predictions/."""
    return _shared("data")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted models of tests stay out of the user's cache, and theirs out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
