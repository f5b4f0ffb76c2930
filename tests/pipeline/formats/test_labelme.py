"""LabelMe jsons: shapes are drawn as LabelMe draws them, and come back in kind.

pip install labelme && pytest -m slow tests/pipeline/formats/test_labelme.py
"""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from bpr.pipeline.formats import labelme
from bpr.pipeline.formats.images import read_image
from bpr.pipeline.instance import Mask, differing_pixels
from tests.strategies import bitmaps, quick

SIZE = (60, 90)  # (height, width)
SQUARE = [[10, 10], [29, 10], [29, 29], [10, 29]]


def parse(folder, shapes, **fields):
    path = folder / "a.json"
    content = {
        "version": "5.5.0", "flags": {"checked": True}, "shapes": shapes, "imagePath": "a.png",
        "imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1], "own": "field", **fields,
    }  # fmt: skip
    path.write_text(json.dumps(content), encoding="utf-8")
    return labelme.parse(path)


def polygon(points=SQUARE, **fields):
    return {
        "label": "Tasse ☕", "points": points, "group_id": None, "description": "d",
        "shape_type": "polygon", "flags": {"hidden": False}, "mask": None, **fields,
    }  # fmt: skip


def mask_shape(array, x, y):
    png = io.BytesIO()
    Image.fromarray(array.astype(np.uint8) * 255).save(png, "png")
    last = [x + array.shape[1] - 1, y + array.shape[0] - 1]
    return polygon(
        [[x, y], last], shape_type="mask", mask=base64.b64encode(png.getvalue()).decode()
    )


def encode(file, masks, tolerance=0.0, size=SIZE):
    before, _ = labelme.read_instances(file, size)
    changed = {
        index: mask
        for (index, old), mask in zip(before.items(), masks, strict=True)
        if differing_pixels(old.mask, mask)
    }
    content, notes = labelme.encode(file, changed, tolerance)
    return json.loads(content), notes


def arrays(file, size=SIZE):
    instances, _ = labelme.read_instances(file, size)
    return [instance.mask.to_array() for instance in instances.values()]


def test_a_polygon_covers_its_corners(tmp_path):
    (array,) = arrays(parse(tmp_path, [polygon()]))
    want = np.zeros(SIZE, np.bool_)
    want[10:30, 10:30] = True
    np.testing.assert_array_equal(array, want)


def test_a_mask_lies_where_its_points_say(tmp_path):
    cut = np.eye(5, 7, dtype=np.bool_)
    (array,) = arrays(parse(tmp_path, [mask_shape(cut, 20, 30)]))
    want = np.zeros(SIZE, np.bool_)
    want[30:35, 20:27] = cut
    np.testing.assert_array_equal(array, want)


def test_polygons_of_one_label_and_group_are_one_instance(tmp_path):
    other = [[50, 40], [60, 40], [55, 50]]
    shapes = [
        polygon(group_id=4),
        polygon(other, group_id=4),
        polygon(other, group_id=4, label="spoon"),
        polygon(shape_type="rectangle"),
        polygon(),
    ]
    file = parse(tmp_path, shapes)
    assert file.groups == ((0, 1), (2,), (4,))
    first, second, third = arrays(file)
    np.testing.assert_array_equal(first, second | third)


@given(array=bitmaps(size=SIZE))
@quick
def test_what_is_written_is_read_back(array, tmp_path_factory):
    folder = tmp_path_factory.mktemp("a")
    file = parse(folder, [polygon(), mask_shape(np.ones((3, 3), np.bool_), 0, 0)])
    mask = Mask.from_array(array)
    content, notes = encode(file, [mask, mask])
    if mask.is_empty:
        assert content["shapes"] == file.content["shapes"]
        return
    again = arrays(parse(folder, content["shapes"]))
    assert len(again) == 2
    np.testing.assert_array_equal(again[1], array)  # masks are exact, holes and all
    assert again[0][array].all()
    if not notes:
        np.testing.assert_array_equal(again[0], array)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@given(array=bitmaps(size=SIZE))
@quick
def test_labelme_opens_what_is_written_and_draws_the_same(array, tmp_path_factory):
    pytest.importorskip("labelme", reason="needs pip install labelme")
    from labelme._label_file import LabelFile
    from labelme.utils import shape_to_mask

    folder = tmp_path_factory.mktemp("a")
    Image.new("RGB", SIZE[::-1]).save(folder / "a.png")
    file = parse(folder, [polygon(), mask_shape(np.ones((3, 3), np.bool_), 0, 0)])
    mask = Mask.from_array(array)
    content, notes = encode(file, [mask, mask])
    (folder / "a.json").write_text(json.dumps(content))
    opened = LabelFile(str(folder / "a.json"))
    *parts, stored = opened.shapes
    assert {part["label"] for part in parts} == {"Tasse ☕"}
    drawn = np.any([shape_to_mask(SIZE, part["points"], "polygon") for part in parts], axis=0)
    np.testing.assert_array_equal(drawn, arrays(labelme.parse(folder / "a.json"))[0])
    if mask.is_empty:
        return
    (x0, y0), (x1, y1) = np.array(stored["points"], int)
    bitmap = np.zeros(SIZE, np.bool_)
    bitmap[y0 : y1 + 1, x0 : x1 + 1] = stored["mask"]
    np.testing.assert_array_equal(bitmap, array)
    assert drawn[array].all()
    assert notes or (drawn == array).all()


def test_all_else_in_the_json_stays(tmp_path):
    shapes = [polygon(shape_type="point", points=[[1, 2]]), polygon(), polygon(SQUARE[:3])]
    file = parse(tmp_path, shapes)
    array = np.zeros(SIZE, np.bool_)
    array[5:9, 5:9] = array[20:30, 40:60] = True
    unchanged = labelme.read_instances(file, SIZE)[0][1].mask
    content, _ = encode(file, [Mask.from_array(array), unchanged])
    assert {**content, "shapes": shapes} == file.content
    point, large, small, triangle = content["shapes"]
    assert (point, triangle) == (shapes[0], shapes[2])
    assert large["group_id"] == small["group_id"] == 0
    for part in (large, small):
        assert {**part, "points": SQUARE, "group_id": None} == shapes[1]
    assert large["points"][0] == [40, 20]


BAD_SHAPES = [
    (polygon(SQUARE[:2]), "expected at least 3 points", False),
    (polygon([]), "expected at least 3 points", False),
    (polygon("12"), r"expected at least 3 points \[x, y\], got '12'", True),
    (3, "expected an object, got number", True),
    (polygon(shape_type="rectangle"), "a 'rectangle', not an outline", False),
    (polygon([[0, 0], [1e8, 0], [0, 1]]), "expected points near the image", True),
    (polygon([[0, 0], [1, 1]], shape_type="mask", mask="?"), "PNG in base64", True),
    (
        polygon([[0, 0], [1, 1]], shape_type="mask", mask="AAAA"),
        r"a\.json, shape 1, mask: expected an image",
        True,
    ),
    (mask_shape(np.ones((5, 5)), 88, 0), r"inside the image, \(5, 5\) \(height, width\)", True),
]


@pytest.mark.parametrize(("shape", "message", "is_damaged"), BAD_SHAPES)
def test_a_shape_that_cannot_be_read_stays_alone_and_is_named(tmp_path, shape, message, is_damaged):
    shapes = [polygon(), shape, polygon(SQUARE[1:], label="b")]
    file = parse(tmp_path, shapes)
    instances, (left,) = labelme.read_instances(file, SIZE)
    assert len(instances) == 2
    assert (left.name, left.is_damaged) == ("shape 1", is_damaged)
    assert re.search(message, left.reason)
    other = Mask.from_array(np.eye(60, dtype=np.bool_), (0, 0), SIZE)
    content, _ = encode(file, [other, list(instances.values())[1].mask])
    assert content["shapes"][1:] == shapes[1:]
    assert content["shapes"][0] != shapes[0]


@pytest.mark.parametrize("kind", [{"shape_type": None}, {"shape_type": ""}, {}])
def test_a_shape_without_a_type_is_a_polygon(tmp_path, kind):
    shape = {name: value for name, value in polygon().items() if name != "shape_type"} | kind
    (array,) = arrays(parse(tmp_path, [shape]))
    np.testing.assert_array_equal(array, arrays(parse(tmp_path, [polygon()]))[0])


def test_a_mask_may_fill_its_box(tmp_path):
    (array,) = arrays(parse(tmp_path, [mask_shape(np.ones((5, 7), np.bool_), 20, 30)]))
    assert array.sum() == 35


def test_the_image_inside_of_a_json_is_read(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(buffer, "png")
    file = parse(tmp_path, [], imageData=base64.b64encode(buffer.getvalue()).decode())
    embedded = file.embedded_image()
    assert embedded is not None
    assert read_image(embedded).pixels.shape == (2, 3, 3)
    assert parse(tmp_path, []).embedded_image() is None


def test_a_json_of_which_nothing_changed_is_the_same_byte_by_byte(tmp_path):
    file = parse(tmp_path, [polygon()])
    assert labelme.encode(file, {}, 0.5) == (file.path.read_bytes(), [])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_read_and_written(tmp_path, encoding):
    path = tmp_path / "a.json"
    parse(tmp_path, [polygon()])
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    file = labelme.parse(path)
    other = Mask.from_array(np.eye(60, dtype=np.bool_), (0, 0), SIZE)
    content, _ = labelme.encode(file, {0: other}, 0.5)
    assert json.loads(content.decode(encoding))["shapes"][0]["label"] == "Tasse ☕"


def test_a_json_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a LabelMe json with a list 'shapes'"):
        parse(tmp_path, None)
