"""Which file a name means, in every spelling that other programs write."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.image_names import best_matches, describe_guess
from tests.strategies import quick

letters = st.text("abcXYZäé日 .-_'()+&", min_size=1, max_size=8).map(str.strip)
stems = letters.filter(lambda name: name.strip(". "))
paths = st.lists(stems, min_size=1, max_size=3).map("/".join).map(lambda name: f"{name}.jpg")


@given(name=paths)
@quick
def test_every_spelling_of_a_name_finds_its_file(name):
    for spelled in (
        name,
        name.replace("/", "\\"),
        unicodedata.normalize("NFD", name),
        unicodedata.normalize("NFC", name),
        quote(name),
        quote(unicodedata.normalize("NFD", name)),
        name.swapcase(),
        f"C:\\data\\{name}",
        f"/home/me/{name}",
        name.replace(".jpg", ".JPG"),
    ):
        assert best_matches(spelled, ["other/x.jpg", name]) == [1], spelled


@given(name=paths, other=paths)
@quick
def test_a_name_as_it_stands_comes_first(name, other):
    assume(name != other)
    assert best_matches(name, [other, name]) == [1]
    assert describe_guess(name, name) == ""


def test_files_that_a_name_does_not_tell_apart_are_all_named():
    assert best_matches("A.JPG", ["a.jpg", "A.jpg"]) == [0, 1]
    assert best_matches("a.jpg", ["v1/a.jpg", "v2/a.jpg"]) == [0, 1]
    assert best_matches("frames/v2/a.jpg", ["v1/a.jpg", "v2/a.jpg"]) == [1]


def test_a_percent_sign_that_stands_is_taken_first():
    assert best_matches("a%20b.jpg", ["a b.jpg", "a%20b.jpg"]) == [1]
    assert best_matches("a%20b.jpg", ["a b.jpg"]) == [0]
    assert "percent-decoded" in describe_guess("a%20b.jpg", "a b.jpg")


@pytest.fixture
def folder(tmp_path):
    for name in ("v1/00001.JPG", "v2/00001.jpg", "b.heic", "b.jfif", "notes.txt", "c.x.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def test_endings_are_read_without_regard_to_case_and_others_are_named_once(folder):
    index = ImageIndex(folder)
    names = {path.name for path in index.files()}
    assert names == {"00001.JPG", "00001.jpg", "b.jfif", "c.x.png"}
    assert index.passed_over == f"passed over in {folder}: 1 .heic"


def test_one_name_in_many_subfolders_is_found_by_its_path(folder):
    index = ImageIndex(folder)
    assert index.find_name("v1/00001.jpg") == folder / "v1/00001.JPG"
    assert index.find(["v2/00001"]) == folder / "v2/00001.jpg"
    assert index.find(["00001"], "v1") == folder / "v1/00001.JPG"
    assert index.find(["c.x"]) == folder / "c.x.png"
    with pytest.raises(ValueError, match=r"found 2: v1/00001\.JPG, v2/00001\.jpg"):
        index.find(["00001"])
    part = index.part(["v1/00001.jpg"])
    assert part.find_name("v1/00001.jpg") == folder / "v1/00001.JPG"


def test_a_folder_without_images_names_what_it_has(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected images .*found none; passed over .*1 \.heic"):
        ImageIndex(tmp_path)
