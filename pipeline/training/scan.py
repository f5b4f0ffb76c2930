"""A look at all training data before the first step: what is wrong is told before the night."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from bpr.pipeline.files import stamp
from bpr.pipeline.training.detection_stream import DetectionSource


@dataclass(frozen=True)
class Scan:
    """What was found in a data set, by the names of its images."""

    faults: dict[str, list[str]]  # each with its file, and the annotation where it is about one
    labels: dict[str, list[int]]  # of the objects in each other image; none: nothing is annotated

    @property
    def empty(self) -> list[str]:
        """Images in which nothing is annotated: a training learns nothing from them."""
        return [key for key, labels in self.labels.items() if not labels]

    @property
    def unusable(self) -> frozenset[str]:
        """Images that a training leaves out."""
        return frozenset(self.faults).union(self.empty)


class _Images(Dataset[tuple[str, list[str], list[int]]]):
    """The name of an image, what is wrong with it, and the labels in it."""

    def __init__(self, source: DetectionSource) -> None:
        self._source, self._keys = source, source.keys()

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> tuple[str, list[str], list[int]]:
        key = self._keys[index]
        return (key, *look(self._source, key))


def look(source: DetectionSource, key: str) -> tuple[list[str], list[int]]:
    """Read an image and its annotations as a training does.

    Args:
        source: of the training.
        key: name of the image.

    Returns:
        What is wrong, in words; the labels of the objects, each once.
    """
    try:
        photograph = source.read(key)
    except ValueError as error:
        return [str(error)], []
    (file, *_) = source.truth.files(key)
    wrong = [f"{file}, {one.name}: {one.reason}" for one in photograph.left if one.is_damaged]
    return wrong, sorted({item.label for item in photograph.objects})


def scan(
    source: DetectionSource, processes: int, on_progress: Callable[[int], None] = lambda _: None
) -> Scan:
    """Read every image and annotation once.

    Args:
        source: of the training.
        processes: that read; 0 reads in this one.
        on_progress: takes the number of images done.
    """
    loader = DataLoader(
        _Images(source), batch_size=None, num_workers=processes, collate_fn=_as_it_is
    )
    faults, found = {}, {}
    for done, (key, wrong, labels) in enumerate(loader, start=1):
        if wrong:
            faults[key] = wrong
        else:
            found[key] = labels
        on_progress(done)
    return Scan(faults, found)


def _as_it_is(item: object) -> object:
    return item


def remember(scanned: Scan, path: Path, ground_truth: Path, images: Path) -> None:
    """Keep a scan, so that a resumed training needs no other.

    Args:
        scanned: of the data.
        path: json to write; its folder is made where it is missing.
        ground_truth: that was read.
        images: that were read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"data": _data(ground_truth, images), **asdict(scanned)}
    path.write_text(json.dumps(about, indent=1), encoding="utf-8")


def recall(path: Path, ground_truth: Path, images: Path) -> Scan | None:
    """The scan that `remember` kept; None where there is none of these data as they are now."""
    if not path.is_file():
        return None
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if about.pop("data") != _data(ground_truth, images):
            return None
        return Scan(**about)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _data(ground_truth: Path, images: Path) -> list[str]:
    return [str(path.resolve()) + " " + stamp(path) for path in (ground_truth, images)]
