"""A folder that results are written into, file by file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bpr._paths import AnyPath
from bpr._weight_files import file_sha256
from bpr.pipeline.files import WORK, write_atomically


class OutputFolder:
    """Writes whole files and checks later that they are still what was written.

    Args:
        path: of the folder; made when the first file is written.
        part: name of what is written, where the folder may get several things.

    Raises:
        ValueError: there is a file of that name.
    """

    def __init__(self, path: AnyPath, part: str = "") -> None:
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path}: expected a folder for the results, got a file")
        self.path = path
        self.work = path / WORK / part
        self.report = path / "report.json"

    def write(self, files: Mapping[str, bytes]) -> dict[str, str]:
        """Write files by relative path, in order; returns the SHA-256 of each."""
        return {
            name: write_atomically(self.path / name, content, self.work)
            for name, content in files.items()
        }

    def holds(self, digests: Mapping[str, str]) -> bool:
        """All files are there with the content of these digests."""
        return all(
            (self.path / name).is_file() and file_sha256(self.path / name) == digest
            for name, digest in digests.items()
        )

    def first_existing(self, names: Iterable[str]) -> AnyPath | None:
        """The first of these files that exists."""
        return next((self.path / name for name in names if (self.path / name).exists()), None)
