"""Cityscapes prediction folders: `<stem>_pred.txt` files and the mask PNGs that they list.

A line is `file label score`, split on blanks; the file is relative to the folder of its txt.
Source: evalInstanceLevelSemanticLabeling.py of cityscapesScripts.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from bpr._paths import AnyPath
from bpr.pipeline.files import find_files
from bpr.pipeline.formats.images import encode_mask, read_masks
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.text import read_text
from bpr.pipeline.instance import Instance, Mask, Prediction

SUFFIX = "_pred.txt"
IMAGE_SUFFIX = "_leftImg8bit"


@dataclass(frozen=True)
class PredictionLine:
    """One predicted instance as the txt names it."""

    file: str  # relative to the folder of the txt
    label: int
    score: float
    number: int = 1  # of the line in the txt


@dataclass(frozen=True, kw_only=True)
class PredictionFile:
    """A parsed `<stem>_pred.txt`; its masks are not read yet."""

    path: AnyPath
    content: bytes  # the txt as it is, to be written again unchanged
    lines: tuple[PredictionLine, ...]
    left: tuple[LeftObject, ...] = ()  # lines that cannot be read
    left_files: tuple[str, ...] = ()  # masks that these lines name: they stay as they are

    def check(self) -> PredictionFile:
        """The same, for who needs every line.

        Raises:
            ValueError: a line cannot be read.
        """
        for one in self.left:
            raise ValueError(f"{self.path}, {one.name}: {one.reason}")
        return self


def find_prediction_files(folder: AnyPath) -> list[AnyPath]:
    """All `*_pred.txt` below a folder, as `find_files` finds them.

    Raises:
        ValueError: there is none.
    """
    found = [path for path in find_files(folder) if path.name.endswith(SUFFIX)]
    if not found:
        raise ValueError(f"{folder}: expected files <image name>{SUFFIX}, found none")
    return found


def has_prediction_files(folder: AnyPath) -> bool:
    """Whether any is below a folder."""
    return any(path.name.endswith(SUFFIX) for path in find_files(folder))


def image_stem(path: AnyPath) -> str:
    """The stem of the image that a `<stem>_pred.txt` belongs to."""
    return path.name[: -len(SUFFIX)]


def image_stems(name: str) -> list[str]:
    """What the image of a name may be called: names may lack the suffix of Cityscapes images."""
    return [name, f"{name}{IMAGE_SUFFIX}"]


def parse_prediction_file(path: AnyPath, folder: AnyPath) -> PredictionFile:
    """Read a txt without its masks. Lines that are not `file label score` are `left`.

    Args:
        path: of the txt.
        folder: of the whole prediction; masks must lie inside.

    Raises:
        ValueError: it is no text.
    """
    content, text = read_text(path)
    inside = os.path.dirname(path.relative_to(folder).as_posix())
    lines, left, left_files = [], [], []
    for number, row in enumerate(io.StringIO(text, newline=None), start=1):
        if not row.split():
            continue
        try:
            lines.append(_parse_line(row, inside, folder, number))
        except ValueError as error:
            left.append(LeftObject(f"line {number}", str(error)))
            with contextlib.suppress(ValueError):
                left_files.append(_mask_name(row, inside, folder))
    return PredictionFile(
        path=path,
        content=content,
        lines=tuple(lines),
        left=tuple(left),
        left_files=tuple(left_files),
    )


def _parse_line(row: str, inside: str, folder: AnyPath, number: int) -> PredictionLine:
    words = row.split()
    if len(words) != 3:
        raise ValueError(f"expected 'file label score', got {row.strip()!r}")
    name = _mask_name(row, inside, folder)
    label = _number(words[1], "expected a label id")
    if label != int(label):
        raise ValueError(f"expected a label id (integer), got {words[1]!r}")
    score = _number(words[2], "expected a score")
    return PredictionLine(name, int(label), score, number)


def _mask_name(row: str, inside: str, folder: AnyPath) -> str:
    """The file that a line names. ValueError: it is no mask inside the folder."""
    words = row.split()
    # by name, not by following links: masks that are links to another disk are fine
    if os.path.isabs(words[0]) or _leaves(os.path.join(inside, words[0])):
        raise ValueError(
            f"expected a file inside {folder}, named relative to the txt, got {words[0]!r}"
        )
    # our own files in the output: the journal's folder, the report, the txts
    parts = Path(words[0]).parts
    if ".bpr" in parts or words[0].endswith((".txt", ".json")) or "\0" in words[0]:
        raise ValueError(f"expected the name of a mask image, got {words[0]!r}")
    return words[0]


def read_instance(file: PredictionFile, line: PredictionLine) -> tuple[Instance, Sequence[str]]:
    """Read the mask of a line; it may have another size than others: see `as_prediction`.

    Returns:
        The instance, and what was guessed about its mask.

    Raises:
        ValueError: the mask is missing or broken, or holds several objects.
    """
    path = file.path.parent / line.file
    masks = read_masks(path)
    mask = Mask.from_array(masks.only(path))
    return Instance(
        mask=mask, label=line.label, score=line.score, record={"file": line.file}
    ), masks.notes


def read_instances(file: PredictionFile) -> tuple[Instance, ...]:
    """Read the masks of a txt, in its order.

    Raises:
        ValueError: a line or a mask is missing or broken.
    """
    return tuple(read_instance(file, line)[0] for line in file.check().lines)


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
