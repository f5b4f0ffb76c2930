"""The images of a COCO json: which file belongs to an id, and what to call it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

from bpr.pipeline.datasets.ground_truth import image_key
from bpr.pipeline.formats.coco import ImageEntry, ImageId


def image_names(image_id: ImageId, entries: Mapping[ImageId, ImageEntry] | None) -> list[str]:
    """What the file of an image may be called, in the order of preference.

    Its file name in the json; without one (or without any json) the id, plain or with leading
    zeros to 12 digits, without an ending.

    Raises:
        ValueError: the json has no image of this id.
    """
    if entries is not None:
        if image_id not in entries:
            raise ValueError(
                f"image id {image_id}: expected an entry in 'images' of the images json"
            )
        name = entries[image_id].file_name
        if name is not None:
            return [name]
    return [image_id, image_id.zfill(12)]


def image_keys(entries: Mapping[ImageId, ImageEntry]) -> dict[ImageId, str]:
    """A name for each image: its stem, or, where several have it, its path without the ending.

    Frames of videos are called alike in every subfolder. Two images of one file, or without a
    file, are told apart by their ids.
    """
    stems = {key: image_key(entry.file_name or key) for key, entry in entries.items()}
    paths = {key: _path(entry.file_name or key) for key, entry in entries.items()}
    num_stems, num_paths = Counter(stems.values()), Counter(paths.values())
    names = {}
    for key in entries:
        if num_stems[stems[key]] == 1:
            names[key] = stems[key]
        elif num_paths[paths[key]] == 1:
            names[key] = paths[key]
        else:
            names[key] = f"{paths[key]} (image id {key})"
    return names


def _path(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).with_suffix("").as_posix()
