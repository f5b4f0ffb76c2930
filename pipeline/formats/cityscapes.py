"""Cityscapes prediction folders: `<stem>_pred.txt` files and the mask PNGs that they list.

A line is `file label score`, split on blanks; the file is relative to the folder of its txt.
Source: evalInstanceLevelSemanticLabeling.py of cityscapesScripts.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from bpr.pipeline.files import find_files
from bpr.pipeline.formats.images import encode_mask, read_mask
from bpr.pipeline.instance import Instance, Mask, Prediction

SUFFIX = "_pred.txt"
IMAGE_SUFFIX = "_leftImg8bit"


@dataclass(frozen=True)
class PredictionLine:
    """One predicted instance as the txt names it."""

    file: str  # relative to the folder of the txt
    label: int
    score: float


@dataclass(frozen=True)
class PredictionFile:
    """A parsed `<stem>_pred.txt`; its masks are not read yet."""

    path: Path
    content: bytes  # the txt as it is, to be written again unchanged
    lines: tuple[PredictionLine, ...]


def find_prediction_files(folder: Path) -> list[Path]:
    """All `*_pred.txt` below a folder, as `find_files` finds them.

    Raises:
        ValueError: there is none.
    """
    found = [path for path in find_files(folder) if path.name.endswith(SUFFIX)]
    if not found:
        raise ValueError(f"{folder}: expected files <image name>{SUFFIX}, found none")
    return found


def has_prediction_files(folder: Path) -> bool:
    """Whether any is below a folder."""
    return any(path.name.endswith(SUFFIX) for path in find_files(folder))


def image_stem(path: Path) -> str:
    """The stem of the image that a `<stem>_pred.txt` belongs to."""
    return path.name[: -len(SUFFIX)]


def image_stems(name: str) -> list[str]:
    """What the image of a name may be called: names may lack the suffix of Cityscapes images."""
    return [name, f"{name}{IMAGE_SUFFIX}"]


def parse_prediction_file(path: Path, folder: Path) -> PredictionFile:
    """Read a txt without its masks.

    Args:
        path: of the txt.
        folder: of the whole prediction; masks must lie inside.

    Raises:
        ValueError: a line is not `file label score`, or its file leaves the folder.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")  # some editors on Windows begin with a mark
    except OSError as error:
        raise ValueError(f"{path}: expected a readable file, got: {error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected text in UTF-8, got other bytes") from None
    inside = os.path.dirname(path.relative_to(folder).as_posix())
    lines = []
    for number, row in enumerate(io.StringIO(text, newline=None), start=1):
        words = row.split()
        if not words:
            continue
        where = f"{path}, line {number}"
        if len(words) != 3:
            raise ValueError(f"{where}: expected 'file label score', got {row.strip()!r}")
        # by name, not by following links: masks that are links to another disk are fine
        if os.path.isabs(words[0]) or _leaves(os.path.join(inside, words[0])):
            raise ValueError(
                f"{where}: expected a file inside {folder}, named relative to the txt, "
                f"got {words[0]!r}"
            )
        # our own files in the output: the journal's folder, the report, the txts
        parts = Path(words[0]).parts
        if ".bpr" in parts or words[0].endswith((".txt", ".json")):
            raise ValueError(f"{where}: expected the name of a mask image, got {words[0]!r}")
        label = _number(words[1], f"{where}: expected a label id")
        if label != int(label):
            raise ValueError(f"{where}: expected a label id (integer), got {words[1]!r}")
        score = _number(words[2], f"{where}: expected a score")
        lines.append(PredictionLine(words[0], int(label), score))
    return PredictionFile(path, content, tuple(lines))


def read_instances(file: PredictionFile) -> tuple[Instance, ...]:
    """Read the masks of a txt, in its order. They may differ in size: see `as_prediction`.

    Raises:
        ValueError: a mask is missing or broken.
    """
    return tuple(
        Instance(
            Mask.from_array(read_mask(file.path.parent / line.file)),
            line.label,
            line.score,
            {"file": line.file},
        )
        for line in file.lines
    )


def encode_prediction(file: PredictionFile, prediction: Prediction) -> dict[str, bytes]:
    """The files of a refined prediction, by path relative to the folder of the txt.

    File names, order, labels and the text of scores stay: the txt is the same, byte for byte.
    It comes last, so that it never names a mask that is not there.
    """
    files = {
        instance.record["file"]: encode_mask(instance.mask) for instance in prediction.instances
    }
    return {**files, file.path.name: file.content}


def encode_detections(
    stem: str, prediction: Prediction, categories: Mapping[int, str]
) -> dict[str, bytes]:
    """The files of a new prediction, by path relative to the folder of the txt, which comes last.

    Each instance gets `<stem>_<number>_<category>.png`. Lines are split on blanks, so a name has
    none: those of the stem are written as %20 (and % as %25), those of the category as `_`.

    Args:
        stem: of the image file.
        prediction: of the image; without instances the txt is empty, as the scorer wants it.
        categories: names by label.
    """
    files, lines = {}, ""
    for number, instance in enumerate(prediction.instances):
        category = re.sub(r"\W+", "_", categories[instance.label])
        name = f"{_without_blanks(stem)}_{number}_{category}.png"
        files[name] = encode_mask(instance.mask)
        lines += f"{name} {instance.label} {instance.score:.7g}\n"
    return {**files, stem + SUFFIX: lines.encode()}


def detected_masks(content: bytes, stem: str) -> set[str]:
    """The PNGs that the txt of an earlier detection names, of those that it can have written."""
    own = re.compile(re.escape(_without_blanks(stem)) + r"_\d+_\w+\.png ")
    found = (own.match(line) for line in content.decode(errors="replace").splitlines())
    return {match[0].rstrip() for match in found if match}


def _without_blanks(stem: str) -> str:
    return re.sub(r"[\s%]", lambda found: quote(found[0]), stem)


def _leaves(path: str) -> bool:
    """A relative path leads out of where it begins, by its name alone."""
    return os.path.normpath(path).split(os.sep)[0] == os.pardir


def _number(text: str, expectation: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{expectation} (a number), got {text!r}")
    return value
