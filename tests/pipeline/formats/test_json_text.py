"""Values of a json replaced in its text: all else stays, whatever program wrote it."""

from __future__ import annotations

import io
import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from bpr.pipeline.formats import json_text, via
from bpr.pipeline.formats.images import NamedFile, encode_segment_ids, read_segment_ids
from bpr.pipeline.instance import Mask
from tests.strategies import bitmaps, quick

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
STYLES = st.fixed_dictionaries(
    {
        "indent": st.sampled_from([None, 0, 3, "\t"]),
        "ensure_ascii": st.booleans(),
        "separators": st.sampled_from([(",", ":"), (" ,", " : "), (",\n", ":\r\n")]),
    }
)


@quick
@given(content=st.dictionaries(st.text(max_size=4), VALUES, max_size=5), style=STYLES)
def test_members_are_where_they_stand(content, style):
    text = " \n" + json.dumps(content, **style) + "\n"
    spans = json_text.members(text, json_text.root_of(text))
    assert {name: json.loads(text[a:b]) for name, (a, b) in spans.items()} == content


@quick
@given(content=st.lists(VALUES, max_size=5), style=STYLES)
def test_items_are_where_they_stand(content, style):
    text = json.dumps(content, **style)
    assert [json.loads(text[a:b]) for a, b in json_text.items(text, 0)] == content
    for position, (begin, end) in enumerate(json_text.items(text, 0)):
        assert json_text.find(text, [position]) == (begin, end)


@quick
@given(
    content=st.dictionaries(st.text(max_size=4), VALUES, max_size=5),
    new=st.dictionaries(st.text(max_size=4), VALUES, max_size=3),
    style=STYLES,
)
def test_other_values_change_nothing_beside_them(content, new, style):
    text = json.dumps(content, **style)
    changes = json_text.changed_members(text, 0, new)
    after = "".join(json_text.splice(text, changes))
    assert json.loads(after) == {**content, **new}
    kept = "".join(json_text.splice(text, [(span, "") for span, _ in changes]))
    without_new = after
    for _, piece in changes:
        assert piece in without_new
        without_new = without_new.replace(piece, "", 1)
    assert len(without_new) == len(kept)


@quick
@given(array=bitmaps(size=(30, 40)), name=st.text(min_size=1, max_size=8))
def test_polygons_of_via_hold_every_mask_of_one_part(array, name):
    mask = Mask.from_array(array)
    if mask.is_empty:
        return
    new, notes = via.ViaFile(path=None, regions={}, by_image={}).refined(mask, 0)
    shape = {"name": "polygon", **new}
    region = via.Region("key", 0, {"shape_attributes": shape, "region_attributes": {}})
    file = via.ViaFile(path=None, regions={0: region}, by_image={name: (0,)})
    instances, left = file.read_instances(name, (30, 40))
    assert not left
    if not notes:  # neither holes nor several parts
        np.testing.assert_array_equal(instances[0].mask.to_array(), array)


@quick
@given(
    values=arrays(np.int64, (5, 7), elements=st.integers(0, 2**24 - 1)),
    mode=st.sampled_from(["RGB", "RGBA"]),
)
def test_segment_ids_are_the_colours_of_a_map(values, mode):
    bands = [values & 255, values >> 8 & 255, values >> 16, np.full(values.shape, 255)]
    picture = Image.fromarray(np.stack(bands[: len(mode)], axis=-1).astype(np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    file = NamedFile(buffer.getvalue(), "a.png")
    np.testing.assert_array_equal(read_segment_ids(file), values)
    again = NamedFile(encode_segment_ids(file, values[::-1]), "b.png")
    np.testing.assert_array_equal(read_segment_ids(again), values[::-1])
    assert Image.open(again).mode == mode
