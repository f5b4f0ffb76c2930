"""Weights that others publish: their names, where they are, and how a download is checked."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import platformdirs
import torch

from bpr._weight_files import file_sha256

TABLE = Path(__file__).parent / "weights" / "published.json"
"""The weights that bpr knows by name."""


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """One file that somebody publishes, and what is known of it."""

    url: str
    sha256: str  # of the file, hexadecimal; its first digits where the authors give no more
    preset: str  # a key of PRESETS
    data: str  # what the weights were trained on
    licence: str  # in words
    mask_ap: float  # percent, as its authors report it
    ap_of: str  # on which images

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return Path(urlparse(self.url).path).name


def published_table(path: Path = TABLE) -> Mapping[str, PublishedWeights]:
    """The weights by name, from a json of the fields of `PublishedWeights`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: PublishedWeights(**entry) for name, entry in content.items()}


def downloads() -> Path:
    """The folder that keeps downloads of this user."""
    return platformdirs.user_cache_path("bpr", appauthor=False) / "weights"


def fetch(name: str, weights: PublishedWeights, folder: Path) -> Path:
    """The file of published weights: from a folder, else downloaded into it.

    A bar shows the progress. The file appears only when it is complete and its hash is right.

    Args:
        name: of the weights, for messages.
        weights: where they are.
        folder: keeps downloads; it is made where it is missing.

    Raises:
        ValueError: the file cannot be downloaded, or is another one; the message says which file
            to put where.
    """
    path = folder / weights.file_name
    if path.is_file():
        if not file_sha256(path).startswith(weights.sha256):
            raise ValueError(
                f"{path}: expected the file of {weights.url} (sha256 {weights.sha256}...), got "
                "another one; delete it"
            )
        return path
    folder.mkdir(parents=True, exist_ok=True)
    by_hand = f"download {weights.url} elsewhere and put it at {path}"
    try:
        torch.hub.download_url_to_file(weights.url, str(path), weights.sha256)
    except RuntimeError as error:  # the hash
        raise ValueError(
            f"{name}: expected sha256 {weights.sha256}..., {error}; {by_hand}"
        ) from None
    except OSError as error:  # urllib's are among them
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise ValueError(
            f"{name}: expected to reach {weights.url}, got: {error}; {by_hand}"
        ) from None
    return path
