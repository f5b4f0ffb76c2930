"""What the batch run needs of a set of predictions, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol

from bpr._paths import AnyPath
from bpr.pipeline.batch.journal import AnyJournal
from bpr.pipeline.formats.frame import Frame
from bpr.pipeline.instance import Box, Instance, Prediction, Size, UInt8Array, size_text


@dataclass(frozen=True, eq=False, kw_only=True)
class Loaded:
    """One image of a job, read."""

    image: UInt8Array  # (H, W, 3) RGB
    prediction: Prediction
    notes: tuple[str, ...]  # what had to be done to the image, in words
    source: Any = None  # what the job wants back when it writes
    fill: Callable[[Sequence[Box]], None] | None = None  # see `Photograph.fill`


class ImageJob(Protocol):
    """Images of which each gets a prediction, one by one, from one place to another."""

    @property
    def source(self) -> AnyPath:
        """What is read: one output serves one source."""

    @property
    def work(self) -> AnyPath:
        """Folder for the journal and for files that are being written."""

    @property
    def report(self) -> AnyPath:
        """Where the report goes."""

    @property
    def remarks(self) -> Sequence[str]:
        """What belongs to no image: files passed over, objects that are nothing to refine."""

    def keys(self) -> Sequence[str]:
        """Names of the images, unique and in order."""

    def stamp(self, key: str) -> str:
        """Changes when the files that an image is read from do."""

    def read(self, key: str) -> Loaded:
        """Read an image and the masks that there are already.

        Raises:
            ValueError: something is wrong with its files; the message says what and where.
        """

    def write(self, key: str, source: Any, prediction: Prediction) -> Mapping[str, Any]:
        """Write a prediction; returns what the journal must remember, json-ready.

        Objects that stay as they are, though the image is done, go under "left": their name,
        reason and is_damaged, as in `LeftObject`.

        Args:
            key: of the image.
            source: what `read` gave as such.
            prediction: what was found, or the masks refined.

        Raises:
            OSError: the disk is full or not writable.
        """

    def is_written(self, entry: Mapping[str, Any]) -> bool:
        """The files of a journal entry are there as they were written."""

    def leaves_files(self, entry: Mapping[str, Any]) -> bool:
        """Files of a journal entry are in the output, also where the image fails now or is gone."""

    def finish(self, journal: AnyJournal, failed: Set[str]) -> None:
        """Write what can only be written when all images but the failed ones are done."""

    def existing_output(self) -> AnyPath | None:
        """A file that a run would overwrite, if there is one."""


class Job(ImageJob, Protocol):
    """Predictions to refine, on one machine or on many."""

    def part(self, key: str) -> Job:
        """The job with one image alone, for `stamp`, `read`, `write` and `is_written` of it.

        It is small to send to another process, and knows nothing that changes.
        """


def as_prediction(
    image: UInt8Array, instances: Sequence[Instance], names: Sequence[str]
) -> Prediction:
    """Join masks with their image.

    Args:
        image: (H, W, 3) uint8.
        instances: with masks of any size.
        names: of their mask files, for the error.

    Raises:
        ValueError: a mask has another size than the image.
    """
    size: Size = (image.shape[0], image.shape[1])
    for instance, name in zip(instances, names, strict=True):
        if instance.mask.size != size:
            raise ValueError(
                f"{name}: expected a mask of the size of its image, {size_text(size)}, "
                f"got {size_text(instance.mask.size)}"
            )
    return Prediction(size, tuple(instances))


def fitting(
    size: Size, instances: Mapping[int, Instance]
) -> tuple[dict[int, Instance], dict[int, str]]:
    """The instances whose masks have the size of their image, and what is wrong with the others."""
    fits, unfit = {}, {}
    for index, instance in instances.items():
        if instance.mask.size == size:
            fits[index] = instance
        else:
            unfit[index] = (
                f"expected a mask of the size of its image, {size_text(size)}, got "
                f"{size_text(instance.mask.size)}"
            )
    return fits, unfit


def usual_frame(instances: Iterable[Instance]) -> Frame:
    """What mask files say about the size of their image: the size that most of them have."""
    sizes = [instance.mask.size for instance in instances]
    return Frame(bitmaps=max(sizes, key=sizes.count) if sizes else None)
