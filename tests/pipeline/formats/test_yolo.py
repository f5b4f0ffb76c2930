"""YOLO segmentation labels: what a line may hold, and what comes back of it.

pip install ultralytics && pytest -m slow tests/pipeline/formats/test_yolo.py
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from bpr.pipeline.formats import yolo
from bpr.pipeline.instance import Instance, Mask, Prediction
from tests.strategies import bitmaps, quick

SIZE = (60, 90)  # (height, width)


def parse(tmp_path, text):
    path = tmp_path / "a.txt"
    path.write_text(text)
    return yolo.parse(path)


def encode(file, masks, tolerance=0.0, size=SIZE):
    before = [instance.mask for instance in yolo.read_instances(file, size)]
    refined = Prediction(size, tuple(Instance(mask, 0, 1.0) for mask in masks))
    content, notes = yolo.encode(file, before, refined, tolerance)
    return content.decode(), notes


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
    first, second = text.splitlines()
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
    (again,) = yolo.read_instances(yolo.parse(path), array.shape)
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
    (ours,) = yolo.read_instances(yolo.parse(folder / "a.txt"), array.shape)
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
    text = "0 0.10 0.10 0.50 0.10 0.50 0.50 \r\n1   0.2 0.2 0.4 0.2 0.3 0.6"
    file = parse(tmp_path, text)
    first, second = yolo.read_instances(file, SIZE)
    assert encode(file, [first.mask, second.mask])[0] == text
    other = Mask.from_array(np.eye(60, dtype=np.bool_), (0, 0), SIZE)
    changed, _ = encode(file, [first.mask, other])
    assert changed.splitlines()[0] == text.splitlines()[0]
    assert changed.splitlines()[1].startswith("1 ")


def test_an_empty_file_has_no_objects(tmp_path):
    file = parse(tmp_path, "\n")
    assert yolo.read_instances(file, SIZE) == ()
    assert encode(file, []) == ("\n", [])
    assert replace(file).lines == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2 0.2", r"at least 3 points, got a box: labels for detection"),
        ("0 0.5 0.5 0.2 0.2 0.9", r"at least 3 points, got a box"),
        ("0", "expected a polygon of at least 3 points, got 0"),
        ("cup 0.5 0.5 0.2 0.2 0.1 0.1", r"expected 'class x1 y1 x2 y2 \.\.\.', got 'cup 0"),
        ("0.5 0.5 0.5 0.2 0.2 0.1 0.1", "expected 'class x1"),
        ("0 nan 0.5 0.2 0.2 0.1 0.1", "expected 'class x1"),
        ("0 10 10 40 10 40 40", r"expected x and y in 0\.\.1, .* got 10 to 40"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=rf"a\.txt, line 2: .*{message}|a\.txt, line 2: {message}"):
        parse(tmp_path, f"0 0.1 0.1 0.5 0.1 0.5 0.5\n{line}\n")
