"""Run-length csvs of Kaggle: `ImageId,EncodedPixels`, a mask per row.

`EncodedPixels` is `start length start length ...`; pixels are numbered from 1, down the columns.
A row without numbers, or with -1, says that there is nothing.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bpr._paths import AnyPath
from bpr.pipeline.formats import rle
from bpr.pipeline.formats.frame import Frame
from bpr.pipeline.formats.left_object import LeftObject
from bpr.pipeline.formats.text import decode_text, encode_like, read_text, short
from bpr.pipeline.instance import Instance, Mask, Size

_PIXELS = "encodedpixels"
_IMAGE = "imageid"
_RUNS = re.compile(r"\s*\d{1,15}(\s+\d{1,15})*\s*")


@dataclass(frozen=True, eq=False, kw_only=True)
class KaggleFile:
    """A parsed csv."""

    path: AnyPath
    rows: Mapping[int, str]  # EncodedPixels, by the number of the row, the first below the header
    by_image: Mapping[str, tuple[int, ...]]  # image -> its rows

    def images(self) -> Sequence[str]:
        """Names of the images, mostly without ending."""
        return list(self.by_image)

    def part(self, image: str) -> KaggleFile:
        """The same with one image."""
        own = self.by_image[image]
        rows = {number: self.rows[number] for number in own}
        return replace(self, rows=rows, by_image={image: own})

    def objects(self, image: str) -> Any:
        """What the file says about the objects of an image, json-ready."""
        return [self.rows[number] for number in self.by_image[image]]

    def frame(self, image: str) -> Frame:  # noqa: ARG002
        """Nothing: runs know no width."""
        return Frame()

    def read_instances(
        self, image: str, size: Size
    ) -> tuple[dict[int, Instance], list[LeftObject]]:
        """Decode the masks; rows that cannot be read stay as they are."""
        instances, left = {}, []
        for number in self.by_image[image]:
            text = self.rows[number].strip()
            if text in ("", "-1"):
                continue
            try:
                instances[number] = Instance(mask=_decode(text, size), label=0, score=1.0)
            except ValueError as error:
                left.append(LeftObject(f"row {number}", str(error)))
        return instances, left

    def refined(self, mask: Mask, tolerance: float) -> tuple[Any, list[str]]:  # noqa: ARG002
        """What takes the place of a row's EncodedPixels."""
        runs = rle.runs(mask)
        starts = np.cumsum([0, *runs])[1:-1:2] + 1
        pairs = np.column_stack([starts, np.array(runs[1::2], np.int64)])
        return " ".join(map(str, pairs.ravel().tolist())), []

    def encode(self, changed: Mapping[int, Any]) -> bytes:
        """The csv with other EncodedPixels, by row."""
        content = self.path.read_bytes()
        column, lines = 0, []
        for number, (line, fields) in enumerate(_records(decode_text(content))):
            if number == 0:
                column = _columns(fields, self.path)[1]
            new = changed.get(number)
            lines.append(line if new is None else _with(line, fields, column, new))
        return encode_like("".join(lines), content)


def is_run_length_csv(path: AnyPath) -> bool:
    """Whether a csv has the column EncodedPixels."""
    try:
        first = read_text(path)[1].split("\n", 1)[0]
    except ValueError:
        return False
    return _PIXELS in first.lower()


def parse(path: AnyPath) -> KaggleFile:
    """Read a csv.

    Raises:
        ValueError: not such a csv.
    """
    rows: dict[int, str] = {}
    by_image: dict[str, list[int]] = {}
    columns = (0, 1)
    for number, (_, fields) in enumerate(_records(read_text(path)[1])):
        if number == 0:
            columns = _columns(fields, path)
        elif fields:
            if len(fields) <= max(columns):
                raise ValueError(
                    f"{path}, row {number}: expected {max(columns) + 1} columns or more, got "
                    f"{len(fields)}"
                )
            rows[number] = fields[columns[1]]
            by_image.setdefault(fields[columns[0]], []).append(number)
    if not rows:
        raise ValueError(f"{path}: expected rows below the header, found none")
    return KaggleFile(
        path=path, rows=rows, by_image={name: tuple(own) for name, own in by_image.items()}
    )


def _decode(text: str, size: Size) -> Mask:
    height, width = size
    if not _RUNS.fullmatch(text):
        raise ValueError(f"expected 'start length start length ...', got {short(text)}")
    numbers = np.array(text.split(), np.int64)
    if len(numbers) % 2:
        raise ValueError(f"expected pairs of start and length, got {len(numbers)} numbers")
    starts, lengths = numbers[0::2] - 1, numbers[1::2]
    ends = starts + lengths
    if (starts < 0).any() or (starts[1:] < ends[:-1]).any():
        raise ValueError("expected runs from pixel 1 on, in order, that do not overlap")
    if int(ends[-1]) > height * width:
        raise ValueError(
            f"expected pixels in 1..{height * width} ({height} x {width}), got {int(ends[-1])}"
        )
    edges = np.column_stack([starts, ends]).ravel()
    runs = np.diff(edges, prepend=0, append=height * width)
    return rle.decode({"size": [height, width], "counts": runs.tolist()}, size)


def _records(text: str) -> Iterator[tuple[str, list[str]]]:
    """The rows of a csv: as they are written, ends included, and their fields."""
    lines = io.StringIO(text, newline="")
    taken: list[str] = []

    def take() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    reader = csv.reader(take())
    try:
        for fields in reader:
            yield "".join(taken), fields
            taken.clear()
    except csv.Error as error:
        raise ValueError(f"expected a csv, got: {error}") from None


def _columns(header: Sequence[str], path: AnyPath) -> tuple[int, int]:
    """Positions of the image and of EncodedPixels."""
    names = [name.strip().lower() for name in header]
    images = [index for index, name in enumerate(names) if name.startswith(_IMAGE)]
    if not images or _PIXELS not in names:
        raise ValueError(
            f"{path}: expected a csv with columns ImageId and EncodedPixels, got {short(header)}"
        )
    return images[0], names.index(_PIXELS)


def _with(line: str, fields: list[str], column: int, new: str) -> str:
    """A row with another field; the others stay as they are written, unless they have quotes."""
    end = line[len(line.rstrip("\r\n")) :]
    if '"' not in line:
        parts = line[: len(line) - len(end)].split(",")
        parts[column] = new
        return ",".join(parts) + end
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator=end).writerow([*fields[:column], new, *fields[column + 1 :]])
    return buffer.getvalue()
