"""The unit of work: some images, from their files to the shard that holds their patches.

A shard is done by whoever gets it, in this process or on another machine, and always with the
same bytes: it depends on its images and the settings alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from bpr import __version__
from bpr._paths import AnyPath
from bpr._weight_files import file_sha256
from bpr.pipeline.extraction.layouts import WRITERS, KeptInstance
from bpr.pipeline.extraction.samples import patched_instances
from bpr.pipeline.extraction.settings import ExtractionSettings
from bpr.pipeline.extraction.source import Source
from bpr.pipeline.files import read_if_there, write_atomically

logger = logging.getLogger(__name__)

_LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "pycocotools")


def software() -> dict[str, str]:
    """Versions of what decides about the bytes."""
    return {"bpr": __version__, **{name: version(name) for name in _LIBRARIES}}


@dataclass(frozen=True, eq=False, kw_only=True)
class Shard:
    """Images whose patches are made and kept together."""

    number: int
    first_image: int  # number of its first image in the dataset
    keys: tuple[str, ...]  # of its images
    first_instances: tuple[int, ...]  # number of the first instance of each image
    source: Source  # of these images alone
    settings: ExtractionSettings
    setup: str  # digest of all that the dataset depends on but the content of files
    software: Mapping[str, str]  # of the planning process
    out: AnyPath  # of the dataset
    work: AnyPath  # for temporary files and notes

    @property
    def name(self) -> str:
        """Of the shard, without a suffix."""
        return f"{self.settings.split}-{self.number:06d}"

    @property
    def note(self) -> AnyPath:
        """What is noted of the shard when it is done."""
        return self.work / f"{self.name}.json"


@dataclass(frozen=True)
class FailedImage:
    """An image that was left out, and why."""

    image: str
    reason: str
    crashed: bool = False  # its process died: another run tries again


@dataclass(frozen=True, eq=False, kw_only=True)
class ShardResult:
    """What a shard holds."""

    shard: int
    images: int = 0  # that were read
    instances: int = 0  # with patches
    left_out: int = 0  # instances below the IoU, empty, or without patches
    patches: int = 0
    failures: tuple[FailedImage, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)  # SHA-256 by name
    bytes: int = 0  # of the files
    already_done: bool = False  # by an earlier run


def extract_shard(shard: Shard, crashed: Mapping[str, str] | None = None) -> ShardResult:
    """Write a shard, unless an earlier run has: then its files are verified.

    Args:
        shard: what to write.
        crashed: images to leave out because they end their process, with the reason.

    Raises:
        ValueError: this machine has other versions of libraries than the one that planned.
        OSError: the output cannot be written.
    """
    if software() != shard.software:
        raise ValueError(
            f"software: expected the same on all machines, {dict(shard.software)}, got {software()}"
        )
    stamps = _stamps(shard)
    if (known := _known_result(shard, stamps)) is not None:
        logger.info("%s: was done by an earlier run", shard.name)
        return known
    tally = _Tally()
    writer = WRITERS[shard.settings.layout]
    files, size = writer(
        shard.out, shard.work, shard.name, shard.settings, _kept(shard, crashed or {}, tally)
    )
    result = ShardResult(
        shard=shard.number,
        images=tally.images,
        instances=tally.instances,
        left_out=tally.left_out,
        patches=tally.patches,
        failures=tuple(tally.failures),
        files=files,
        bytes=size,
    )
    note = {"setup": shard.setup, "stamps": stamps, **asdict(result)}
    write_atomically(shard.note, json.dumps(note, indent=1).encode() + b"\n", shard.work)
    logger.info("%s: %d images, %d patches", shard.name, result.images, result.patches)
    return result


def read_note(path: AnyPath) -> ShardResult | None:
    """What an earlier run noted of a shard; None without a readable note."""
    note = _read_note(path)
    return None if note is None else _as_result(note)


def try_image(shard: Shard, key: str) -> None:
    """Do what `extract_shard` does with one image and keep nothing: does the process survive?"""
    tally = _Tally()
    position = shard.keys.index(key)
    for kept in _kept_of_image(shard, position, tally):
        for sample in kept.samples():
            del sample


@dataclass(eq=False, kw_only=True)
class _Tally:
    """Counts of a shard that is being written."""

    images: int = 0
    instances: int = 0
    left_out: int = 0
    patches: int = 0
    failures: list[FailedImage] = field(default_factory=list)


def _kept(shard: Shard, crashed: Mapping[str, str], tally: _Tally) -> Iterator[KeptInstance]:
    for position, key in enumerate(shard.keys):
        if key in crashed:
            tally.failures.append(FailedImage(key, crashed[key], crashed=True))
            logger.info("%s, image %s: %s", shard.name, key, crashed[key])
        else:
            yield from _kept_of_image(shard, position, tally)


def _kept_of_image(shard: Shard, position: int, tally: _Tally) -> Iterator[KeptInstance]:
    key, settings = shard.keys[position], shard.settings
    logger.info("%s, image %s: reading", shard.name, key)  # before it may end the process
    try:
        image = shard.source.read(key, settings.seed)
    except ValueError as error:
        tally.failures.append(FailedImage(key, str(error)))
        logger.info("%s, image %s: %s", shard.name, key, error)
        return
    tally.failures += [
        FailedImage(key, f"{one.name} left out: {one.reason}")
        for one in image.left
        if one.is_damaged
    ]
    tally.images += 1
    kept = 0
    for instance in patched_instances(image, settings.patches, settings.min_iou):
        kept += 1
        tally.patches += len(instance.boxes)
        yield KeptInstance(
            image=image,
            instance=instance,
            image_number=shard.first_image + position,
            first_instance=shard.first_instances[position],
            categories=shard.source.categories(),
            settings=settings.patches,
        )
    tally.instances += kept
    tally.left_out += len(image.pairs) - kept


def _stamps(shard: Shard) -> str:
    digest = hashlib.sha256()
    for key in shard.keys:
        digest.update(f"{key} {shard.source.stamp(key)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _known_result(shard: Shard, stamps: str) -> ShardResult | None:
    """What an earlier run wrote, if it is complete, of the same input, and still there."""
    note = _read_note(shard.note)
    if note is None or note["setup"] != shard.setup or note["stamps"] != stamps:
        return None
    if any(failure["crashed"] for failure in note["failures"]):
        return None
    for name, digest in note["files"].items():
        path = shard.out / name
        if not path.is_file() or file_sha256(path) != digest:
            return None
    return _as_result(note, already_done=True)


def _read_note(path: AnyPath) -> dict[str, Any] | None:
    content = read_if_there(path)
    try:
        note = json.loads(content) if content is not None else None
    except ValueError:  # torn by a machine that lost power
        return None
    return note if isinstance(note, dict) and "files" in note else None


def _as_result(note: Mapping[str, Any], already_done: bool = False) -> ShardResult:
    failures = tuple(FailedImage(**failure) for failure in note["failures"])
    names = ("shard", "images", "instances", "left_out", "patches", "files", "bytes")
    values = {name: note[name] for name in names}
    return ShardResult(**values, failures=failures, already_done=already_done)
