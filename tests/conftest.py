"""What several tests need: recorded numbers, photographs, a cache of their own."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """Arrays recorded from the authors' code."""
    return GOLDEN / "bpr"


@pytest.fixture(scope="session")
def photographs() -> Path:
    """Validation photographs with accurate masks: val/ and val_predictions/KIND/.

    Their licences forbid a copy here. Only slow tests use them; CONTRIBUTING.md says how.
    """
    folder = os.environ.get("BPR_TEST_DATA")
    if folder is None:
        pytest.skip("needs BPR_TEST_DATA, the folder with val/ and val_predictions/")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _handlers_of_earlier_tests_are_silent() -> Iterator[None]:
    """Ray's log handlers outlive their test, and write to a stream that pytest has closed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging, "raiseExceptions", False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted models of tests stay out of the user's cache, and theirs out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
