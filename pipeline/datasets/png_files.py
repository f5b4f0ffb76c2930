"""Ground truth that is a PNG for each image."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from typing import TypeVar

from bpr._paths import AnyPath
from bpr.pipeline.datasets.ground_truth import image_key, unique_keys

Own = TypeVar("Own", bound="PngFiles")


class PngFiles:
    """The files of a `GroundTruth`, by image.

    Args:
        files: one for each image.
        where: what holds them, for the message.

    Raises:
        ValueError: two are for one image.
    """

    def __init__(self, files: Sequence[AnyPath], where: AnyPath) -> None:
        keys = unique_keys([(image_key(file.name), str(file)) for file in files], str(where))
        self._files = dict(zip(keys, files, strict=True))

    def keys(self) -> Sequence[str]:
        """Stems of the PNGs, without what the data set adds to them."""
        return list(self._files)

    def image_id(self, key: str) -> None:
        """There are no ids."""

    def file_name(self, key: str) -> None:
        """The key is all that is known."""

    def files(self, key: str) -> Sequence[AnyPath]:
        """The PNG."""
        return [self._files[key]]

    def part(self: Own, keys: Collection[str]) -> Own:
        """The same with these images alone."""
        part = copy(self)
        part._files = {key: self._files[key] for key in keys}
        return part
