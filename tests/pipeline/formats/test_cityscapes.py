from __future__ import annotations

import json
import os
import shutil
from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.formats import cityscapes, coco, rle
from bpr.pipeline.formats.images import read_mask
from bpr.pipeline.instance import Prediction

SIZE = (8, 12)


def write_mask(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8) * 255).save(path)


def a_mask(seed=0):
    return np.random.default_rng(seed).integers(0, 2, SIZE).astype(np.bool_)


def parse(folder, content, name="a_pred.txt"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return cityscapes.parse_prediction_file(path, folder).check()


# golden files: a folder of the reference, and the COCO results it was made into


@pytest.fixture
def reference_folder(golden, tmp_path):
    """The reference's txts, with PNGs drawn from its coarse.json; empty ones are not in that."""
    folder = tmp_path / "coarse"
    folder.mkdir()
    masks = {}
    for record in json.loads((golden / "formats/coarse.json").read_text()):
        size = tuple(record["segmentation"]["size"])
        masks[record["anno_file"]] = rle.decode(record["segmentation"], size).to_array()
    for source in (golden / "formats").glob("input_*_pred.txt"):
        shutil.copy(source, folder / source.name.removeprefix("input_"))
        for line in source.read_text().splitlines():
            file = line.split()[0]
            write_mask(folder / file, masks.get(file, np.zeros(size, np.bool_)))
    return folder


def test_the_references_folder_is_read(reference_folder, golden):
    read = {}
    for path in cityscapes.find_prediction_files(reference_folder):
        parsed = cityscapes.parse_prediction_file(path, reference_folder)
        for instance in cityscapes.read_instances(parsed):
            read[instance.record["file"]] = instance
    num_lines = sum(len(p.read_text().splitlines()) for p in reference_folder.glob("*.txt"))
    assert len(read) == num_lines
    results = coco.load_results(golden / "formats/coarse.json")
    for record in results.records.values():
        instance = read[record["anno_file"]]
        assert instance.label == record["category_id"]
        assert instance.score == record["score"]
        assert instance.mask.area > 0
        x0, y0, x1, y1 = instance.mask.window
        assert [x0, y0, x1 - x0, y1 - y0] == record["bbox"]


def test_a_folder_written_again_is_the_same(reference_folder, tmp_path):
    for path in cityscapes.find_prediction_files(reference_folder):
        parsed = cityscapes.parse_prediction_file(path, reference_folder)
        instances = cityscapes.read_instances(parsed)
        prediction = Prediction(instances[0].mask.size, instances)
        for name, content in cityscapes.encode_prediction(parsed, prediction).items():
            (tmp_path / name).write_bytes(content)
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
        for line in parsed.lines:
            before, after = reference_folder / line.file, tmp_path / line.file
            np.testing.assert_array_equal(read_mask(before), read_mask(after))


def test_cityscapesscripts_reads_what_is_written(reference_folder, tmp_path):
    evaluation = pytest.importorskip(
        "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
    )
    out = tmp_path / "refined"
    out.mkdir()
    for path in cityscapes.find_prediction_files(reference_folder):
        parsed = cityscapes.parse_prediction_file(path, reference_folder)
        instances = cityscapes.read_instances(parsed)
        prediction = Prediction(instances[0].mask.size, instances)
        for name, content in cityscapes.encode_prediction(parsed, prediction).items():
            (out / name).write_bytes(content)
        found = evaluation.readPredInfo(
            str(out / path.name), Namespace(predictionPath=os.path.abspath(out))
        )
        for instance, (file, info) in zip(instances, found.items(), strict=True):
            assert file == str(out / instance.record["file"])
            assert info == {"labelID": instance.label, "conf": instance.score}
            with evaluation.Image.open(file) as image:
                mask = np.array(image) != 0  # as evaluateImgLists does
            np.testing.assert_array_equal(mask, instance.mask.to_array())


# finding


def test_prediction_files_are_found_in_subfolders_in_the_order_of_their_names(tmp_path):
    names = ["b_pred.txt", "a_pred.txt", "city/c_pred.txt", "city/deep/d_pred.txt"]
    for name in [*names, ".hidden/e_pred.txt", "notes.txt", "pred.txt", "f_pred.txt.bak"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = cityscapes.find_prediction_files(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == sorted(names)


def test_linked_folders_are_searched_and_cycles_end(tmp_path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    for path in (elsewhere, folder):
        path.mkdir()
        (path / "a_pred.txt").touch()
    (folder / "city").symlink_to(elsewhere)
    (folder / "again").symlink_to(folder)
    (elsewhere / "back").symlink_to(folder)
    found = cityscapes.find_prediction_files(folder)
    assert found == [folder / "a_pred.txt", folder / "city/a_pred.txt"]


def test_a_folder_without_prediction_files_is_refused(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"expected files <image name>_pred.txt, found none"):
        cityscapes.find_prediction_files(tmp_path)


def test_a_prediction_belongs_to_the_image_of_its_stem(tmp_path):
    assert cityscapes.image_stem(tmp_path / "city_000_1_leftImg8bit_pred.txt") == (
        "city_000_1_leftImg8bit"
    )


# parsing


def test_lines_give_file_label_and_score_in_their_order(tmp_path):
    parsed = parse(tmp_path, "z.png 26 0.710\na.png -1 1e-3\nm.png 24.0 7\n")
    assert [(line.file, line.label, line.score) for line in parsed.lines] == [
        ("z.png", 26, 0.71),
        ("a.png", -1, 0.001),
        ("m.png", 24, 7.0),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"a.png 26 0.710\nb.png 24 .5",
        b"a.png 26 0.710\r\nb.png 24 .5\r\n",
        b"\n\na.png 26 0.710\n   \n\tb.png\t24   .5  \n\n",
        b"\xef\xbb\xbfa.png 26 0.710\nb.png 24 .5\n",
    ],
    ids=["no last newline", "CRLF", "blank lines and tabs", "byte order mark"],
)
def test_line_ends_and_blanks_are_free_and_stay_as_they_are(tmp_path, content):
    parsed = parse(tmp_path, content)
    assert [(line.file, line.label, line.score) for line in parsed.lines] == [
        ("a.png", 26, 0.71),
        ("b.png", 24, 0.5),
    ]
    assert cityscapes.encode_prediction(parsed, Prediction(SIZE, ()))["a_pred.txt"] == content


def test_an_empty_file_has_no_lines(tmp_path):
    assert parse(tmp_path, b"").lines == ()
    assert parse(tmp_path, b" \r\n\n").lines == ()


@pytest.mark.parametrize("file", ["ä/ö.png", "日本.png", "..a.png", "...", "a..b/c.png", "./a.png"])
def test_any_name_that_stays_inside_is_kept(tmp_path, file):
    assert parse(tmp_path, f"{file} 26 0.5\n").lines[0].file == file


def test_a_file_may_lie_above_its_txt_but_inside_the_folder(tmp_path):
    parsed = parse(tmp_path, "../masks/a.png 26 0.5\n", "city/a_pred.txt")
    assert parsed.lines[0].file == "../masks/a.png"


@pytest.mark.parametrize(
    "file",
    [
        "../x.png",
        "..",
        "/etc/x.png",
        "a/../../x.png",
        "./../x.png",
        "a/b/../../../x.png",
        "//x.png",
    ],
)
def test_a_file_outside_the_folder_is_refused(tmp_path, file):
    with pytest.raises(ValueError, match=r"a_pred\.txt, line 2: expected a file inside .*, got '"):
        parse(tmp_path, f"good.png 26 0.5\n{file} 26 0.5\n")


def test_leaving_the_folder_of_all_predictions_from_a_subfolder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a file inside"):
        parse(tmp_path, "../../x.png 26 0.5\n", "city/a_pred.txt")


@pytest.mark.parametrize("score", ["abc", "nan", "inf", "-inf", "1e999", "0,5", "0x1p3", "--1"])
def test_a_score_that_is_no_number_is_refused(tmp_path, score):
    with pytest.raises(ValueError, match=r"line 1: expected a score \(a number\), got '"):
        parse(tmp_path, f"a.png 26 {score}\n")


@pytest.mark.parametrize("label", ["car", "nan", "inf", "1e999", "26.5"])
def test_a_label_that_is_no_integer_is_refused(tmp_path, label):
    with pytest.raises(ValueError, match=r"line 1: expected a label id"):
        parse(tmp_path, f"a.png {label} 0.5\n")


@pytest.mark.parametrize(
    "line", ["a.png", "a.png 26", "a.png 26 0.5 more", "with blank.png 26 0.5"]
)
def test_a_line_without_exactly_3_words_is_refused(tmp_path, line):
    with pytest.raises(ValueError, match=r"line 3: expected 'file label score', got '"):
        parse(tmp_path, f"a.png 26 0.5\r\n\r\n{line}\r\n")


@pytest.mark.parametrize("content", [b"\xff\xfea", "bä.png 26 1".encode("latin-1"), b"\x89PNG"])
def test_bytes_that_are_not_utf8_are_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"a_pred\.txt: expected text in UTF-8"):
        parse(tmp_path, content)


def test_a_missing_file_or_a_folder_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"a_pred\.txt: expected a readable file"):
        cityscapes.parse_prediction_file(tmp_path / "a_pred.txt", tmp_path)
    (tmp_path / "b_pred.txt").mkdir()
    with pytest.raises(ValueError, match=r"b_pred\.txt: expected a readable file"):
        cityscapes.parse_prediction_file(tmp_path / "b_pred.txt", tmp_path)


# masks


def test_masks_are_read_in_the_order_of_the_lines(tmp_path):
    write_mask(tmp_path / "sub/b.png", a_mask(1))
    write_mask(tmp_path / "a.png", a_mask(2))
    parsed = parse(tmp_path, "sub/b.png 26 0.5\na.png 24 0.25\n")
    first, second = cityscapes.read_instances(parsed)
    np.testing.assert_array_equal(first.mask.to_array(), a_mask(1))
    np.testing.assert_array_equal(second.mask.to_array(), a_mask(2))
    assert (first.label, first.score) == (26, 0.5)
    assert (second.label, second.score) == (24, 0.25)


def test_a_missing_mask_is_refused_by_name(tmp_path):
    write_mask(tmp_path / "a.png", a_mask())
    with pytest.raises(ValueError, match=r"b\.png: expected an image, found no file"):
        cityscapes.read_instances(parse(tmp_path, "a.png 26 0.5\nb.png 24 0.5\n"))


@pytest.mark.parametrize("name", ["x\0y.png", "x" * 5000 + ".png", "."])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"expected (a|the name of a mask)"):
        cityscapes.read_instances(parse(tmp_path, f"{name} 26 0.5\n"))


def test_the_txt_is_written_after_its_masks(tmp_path):
    write_mask(tmp_path / "z.png", a_mask())
    parsed = parse(tmp_path, "z.png 26 0.5\n")
    prediction = Prediction(SIZE, cityscapes.read_instances(parsed))
    assert list(cityscapes.encode_prediction(parsed, prediction)) == ["z.png", "a_pred.txt"]
