"""YOLO segmentation labels: what a line may hold, and what comes back of it.

pip install ultralytics && pytest -m slow tests/pipeline/formats/test_yolo.py
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from bpr.pipeline.formats import yolo
from bpr.pipeline.instance import Mask, differing_pixels
from tests.strategies import bitmaps, quick

SIZE = (60, 90)  # (height, width)


def parse(tmp_path, text):
    path = tmp_path / "a.txt"
    path.write_text(text)
    return yolo.parse(path)


def encode(file, masks, tolerance=0.0, size=SIZE):
    before, _ = yolo.read_instances(file, size)
    changed = {
        index: mask
        for (index, old), mask in zip(before.items(), masks, strict=True)
        if differing_pixels(old.mask, mask)
    }
    content, notes = yolo.encode(file, changed, tolerance)
    return content.decode(), notes


def read(path, size):
    """The masks of a txt of which every line can be read."""
    instances, left = yolo.read_instances(yolo.parse(path), size)
    assert not left
    return list(instances.values())


def ultralytics_mask(line, size):
    """As ultralytics draws a line: coordinates cut off to ints, filled by OpenCV."""
    height, width = size
    shares = np.array(line.split()[1:], np.float32).reshape(-1, 2)
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [(shares * (width, height)).astype(np.int32)], 1)
    return canvas.astype(np.bool_)


def test_labels_and_scores_are_kept_as_they_are_written(tmp_path):
    file = parse(tmp_path, "007 0.1 0.1 0.5 0.1 0.5 0.5 0.9130\n\n3 0.2 0.2 0.4 0.2 0.3 0.6\n")
    square = np.zeros(SIZE, np.bool_)
    square[10:20, 30:50] = True
    masks = [Mask.from_array(square), Mask.from_array(np.eye(60), (0, 0), SIZE)]
    text, notes = encode(file, masks)
    first, _, second = text.splitlines()
    assert first.startswith("007 ")
    assert first.endswith(" 0.9130")
    assert second.startswith("3 ")
    assert len(second.split()) % 2 == 1
    assert notes == []


@given(array=bitmaps(min_side=3))
@quick
def test_ultralytics_and_we_read_back_what_was_written(array, tmp_path_factory):
    file = parse(tmp_path_factory.mktemp("a"), "0 0 0 0.2 0 0.2 0.2 \n")
    mask = Mask.from_array(array)
    text, notes = encode(file, [mask], size=array.shape)
    if mask.is_empty:
        assert text == file.content.decode()
        return
    path = file.path.with_name("b.txt")
    path.write_text(text)
    (again,) = read(path, array.shape)
    np.testing.assert_array_equal(again.mask.to_array(), ultralytics_mask(text, array.shape))
    assert again.mask.to_array()[array].all()
    if not notes:
        np.testing.assert_array_equal(again.mask.to_array(), array)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@given(array=bitmaps(min_side=12))
@quick
def test_ultralytics_itself_takes_and_draws_what_was_written(array, tmp_path_factory):
    utils = pytest.importorskip("ultralytics.data.utils", reason="needs pip install ultralytics")
    folder = tmp_path_factory.mktemp("a")
    file = parse(folder, "3 0 0 0.2 0 0.2 0.2\n")
    if not array.any():
        return  # the line stays, and coordinates between pixels may be rounded in other ways
    text, _ = encode(file, [Mask.from_array(array)], size=array.shape)
    (folder / "a.txt").write_text(text)
    Image.fromarray(array.view(np.uint8) * 255).save(folder / "a.png")
    arguments = (str(folder / "a.png"), str(folder / "a.txt"), "", False, 80, 0, 0, False)
    _, labels, shape, segments, *_, problem = utils.verify_image_label(arguments)
    assert (problem, shape) == ("", array.shape)
    assert labels[:, 0].tolist() == [3]
    scaled = [segment * array.shape[::-1] for segment in segments]
    drawn = utils.polygon2mask(array.shape, [scaled[0].reshape(-1)]) > 0
    (ours,) = read(folder / "a.txt", array.shape)
    np.testing.assert_array_equal(drawn, ours.mask.to_array())


def test_lost_holes_and_joined_parts_are_noted(tmp_path):
    file = parse(tmp_path, "0 0 0 0.2 0 0.2 0.2\n1 0 0 0.2 0 0.2 0.2\n")
    ring, two = np.zeros(SIZE, np.bool_), np.zeros(SIZE, np.bool_)
    ring[5:40, 5:40] = True
    ring[10:20, 10:20] = False
    two[2:10, 2:10] = two[30:50, 40:60] = True
    _, notes = encode(file, [Mask.from_array(ring), Mask.from_array(two)])
    assert notes == [
        "1 hole(s) filled: polygons have none",
        "1 instance(s) of several parts joined by lines into one polygon",
    ]


def test_lines_of_masks_that_have_not_changed_stay_byte_by_byte(tmp_path):
    text = "0 0.10 0.10 0.50 0.10 0.50 0.50 \r\n\n1   0.2 0.2 0.4 0.2 0.3 0.6"
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    file = yolo.parse(path)
    first, second = read(file.path, SIZE)
    assert encode(file, [first.mask, second.mask])[0] == text
    other = Mask.from_array(np.eye(60, dtype=np.bool_), (0, 0), SIZE)
    changed, _ = encode(file, [first.mask, other])
    assert changed.splitlines(keepends=True)[:2] == text.splitlines(keepends=True)[:2]
    assert changed.splitlines()[2].startswith("1 ")


def test_an_empty_file_has_no_objects(tmp_path):
    file = parse(tmp_path, "\n")
    assert yolo.read_instances(file, SIZE) == ({}, [])
    assert encode(file, []) == ("\n", [])


@pytest.mark.parametrize(
    ("line", "message", "is_damaged"),
    [
        ("0 0.5 0.5 0.2 0.2", "a box, a label for detection", False),
        ("0 0.5 0.5 0.2 0.2 0.9", "a box, a label for detection", False),
        ("0 0.5 0.5 0.2 0.2 0.9 7", "a box, a label for detection", False),
        ("0", "it has no outline", False),
        ("0 0.37", "it has no outline", False),  # what ultralytics writes without a contour
        ("cup 0.5 0.5 0.2 0.2 0.1 0.1", "expected 'class x1 y1 x2 y2 ...', got 'cup 0", True),
        ("0.5 0.5 0.5 0.2 0.2 0.1 0.1", "expected 'class x1", True),
        ("0 nan 0.5 0.2 0.2 0.1 0.1", "expected 'class x1", True),
        ("0 10 10 40 10 40 40", "expected x and y in 0..1", True),
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 -3.5", "expected a confidence at its end", True),
    ],
)
def test_a_line_that_cannot_be_refined_stays_alone_and_is_named(
    tmp_path, line, message, is_damaged
):
    sound = "0 0.1 0.1 0.5 0.1 0.5 0.5"
    file = parse(tmp_path, f"{sound}\n{line}\n{sound}\n")
    instances, (left,) = yolo.read_instances(file, SIZE)
    assert list(instances) == [0, 2]
    assert (left.name, left.is_damaged) == ("line 2", is_damaged)
    assert message in left.reason
    other = Mask.from_array(np.eye(60, dtype=np.bool_), (0, 0), SIZE)
    text, _ = encode(file, [other, instances[2].mask])
    assert text.splitlines()[1:] == [line, sound]


OUTLINE = "0.1 0.1 0.5 0.1 0.5 0.5 0.3 0.7"


@pytest.mark.parametrize("tail", ["", "0.91", "12", "0.91 12", "1", "0"])
def test_a_confidence_and_an_id_behind_the_outline_are_kept(tmp_path, tail):
    file = parse(tmp_path, f"3 {OUTLINE} {tail}\n3 {OUTLINE} {tail.replace('12', '13')}\n")
    for line in file.lines:
        assert line.left is None
        assert len(line.shares) == 4
    other = Mask.from_array(np.eye(60, dtype=np.bool_), (0, 0), SIZE)
    text, _ = encode(file, [other, yolo.read_instances(file, SIZE)[0][1].mask])
    assert text.splitlines()[0].split()[0] == "3"
    assert text.splitlines()[0].split()[1:][-len(tail.split()) or None :][:2] != []
    assert text.splitlines()[0].endswith(tail)
    assert len(text.splitlines()[0].split()) % 2 == (1 + len(tail.split())) % 2


@pytest.mark.parametrize(
    ("lines", "is_left"),
    [
        ([f"0 1 {OUTLINE}", f"0 2 {OUTLINE}"], [True, True]),  # an id behind the class
        ([f"0 0 {OUTLINE} 0.9"], [True]),  # the same with a confidence
        ([f"0 0 {OUTLINE} 0.9", f"0 {OUTLINE}"], [False, False]),  # others have no such id
        (["0 0 0.1 0 0.5 0.5 0.5 0.3 0.7 0.9"], [False]),  # on the border with another point
        ([f"0 {OUTLINE} 0.9 1"], [True]),  # a point at the foot of the image, or a confidence
        ([f"0 {OUTLINE} 0.9 1", f"0 {OUTLINE} 0.9 2"], [False, False]),
        ([f"0 {OUTLINE} 0.9 1", f"0 {OUTLINE}"], [False, False]),
        ([f"0 {OUTLINE} 0.4 1 0.9 1"], [False]),
    ],
)
def test_columns_that_cannot_be_told_apart_are_refused(tmp_path, lines, is_left):
    file = parse(tmp_path, "\n".join(lines))
    assert [line.left is not None for line in file.lines] == is_left
    for line in file.lines:
        if line.left is not None:
            assert "cannot tell" in line.left.reason or "expected x and y" in line.left.reason


def test_texts_for_people_are_no_labels(tmp_path):
    path = tmp_path / "README.roboflow.txt"
    path.write_text("cups > 2023-04-01\nThe dataset includes 100 images.\n")
    assert not yolo.may_be_labels(path)
    for text in ("", "0 0.1 0.1 0.5 0.1 0.5 0.5\n", "Cups\n0 0.3\n"):
        path.write_text(text)
        assert yolo.may_be_labels(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_read_and_written(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes(f"0 {OUTLINE}\n1 {OUTLINE}\n".encode(encoding))
    file = yolo.parse(path)
    assert [line.label for line in file.lines] == ["0", "1"]
    other = Mask.from_array(np.eye(60, dtype=np.bool_), (0, 0), SIZE)
    content, _ = yolo.encode(file, {0: other}, 0.5)
    assert content.decode(encoding).splitlines()[1] == f"1 {OUTLINE}"
