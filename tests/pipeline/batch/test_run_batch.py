"""Batch runs with a real network over real files; formats, resume, failures."""

from __future__ import annotations

import json
import os
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.batch.cityscapes_job import CityscapesJob
from bpr.pipeline.batch.coco_job import CocoJob
from bpr.pipeline.batch.engine import InThisProcess
from bpr.pipeline.batch.mask_files_job import MaskFilesJob
from bpr.pipeline.batch.run_batch import run_batch
from bpr.pipeline.formats import rle
from bpr.pipeline.formats.images import read_image, read_mask
from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Instance, Mask, Prediction, differing_pixels
from bpr.pipeline.predictor import KeepCoarse
from bpr.pipeline.refine import MAX_WAITING_IMAGES, refine
from bpr.pipeline.settings import PatchSettings
from tests.networks import INPUT_SIZE

SETTINGS = PatchSettings(patch_size=INPUT_SIZE)
KEEP = KeepCoarse(INPUT_SIZE)


def ellipse(size, seed):
    random = np.random.default_rng(seed)
    canvas = np.zeros(size, np.uint8)
    centre = (int(random.integers(size[1])), int(random.integers(size[0])))
    axes = (int(random.integers(5, 40)), int(random.integers(5, 40)))
    cv2.ellipse(canvas, centre, axes, 30.0, 0.0, 360.0, 1, -1)
    return canvas.astype(np.bool_)


class Material:
    """Images and predictions on disk: a Cityscapes folder, and the same as COCO results."""

    def __init__(self, root):
        self.root = root
        self.images, self.folder = root / "images", root / "coarse"
        self.masks = {}  # image stem -> arrays
        self.records = []

    def add(self, stem, *masks, size=(70, 90)):
        """Write an image of noise with these masks; a txt in a subfolder for every other one."""
        self.images.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(self.masks)).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(self.images / f"{stem}.png")
        folder = self.folder / "city" if len(self.masks) % 2 else self.folder
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        for index, mask in enumerate(masks):
            name = f"{stem}_{index}.png"
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / name)
            lines.append(f"{name} {24 + index} 0.{index}50\n")
            self.records.append(
                {
                    "image_id": stem,
                    "segmentation": rle.encode(Mask.from_array(mask)),
                    "score": index / 7,
                    "category_id": index,
                    "tag": f"{stem}/{index}",
                    "bbox": [0, 0, 1, 1],
                }
            )
        (folder / f"{stem}_pred.txt").write_text("".join(lines))
        self.masks[stem] = masks

    def cityscapes(self, out="refined"):
        return CityscapesJob(self.folder, self.images, self.root / out)

    def coco(self, out="refined.json", records=None):
        path = self.root / f"for_{out}"
        path.write_text(json.dumps(self.records if records is None else records))
        return CocoJob(path, self.images, None, self.root / out)


@pytest.fixture
def material(tmp_path):
    """Six images: usual ones, and between them an empty mask, a whole image, a small image."""
    material = Material(tmp_path)
    size = (70, 90)
    material.add("a", ellipse(size, 0), ellipse(size, 1))
    material.add("b", np.zeros(size, np.bool_))
    material.add("c", ellipse(size, 2), np.zeros(size, np.bool_), ellipse(size, 3))
    material.add("d", np.ones(size, np.bool_))
    material.add("e", ellipse((20, 25), 4), size=(20, 25))
    material.add("f", ellipse(size, 5), ellipse(size, 6))
    return material


def run(job, predictor=KEEP, settings=SETTINGS, batch_size=32, about=None, **more):
    engine = InThisProcess(HostRunner(predictor, batch_size))
    return run_batch(job, engine, settings, about or {"weights": "w"}, **more)


def content(folder):
    """Every file below a folder but the journal and the report."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".bpr" not in path.parts and not path.name.endswith("report.json")
    }


# results


def test_keeping_coarse_masks_gives_the_same_folder(material):
    progress = run(material.cityscapes())
    assert (progress.total, progress.done, progress.failures) == (6, 6, ())
    before, after = content(material.folder), content(material.root / "refined")
    assert before.keys() == after.keys()
    for name in before:
        if name.endswith(".txt"):
            assert after[name] == before[name]
        else:
            np.testing.assert_array_equal(
                read_mask(material.root / "refined" / name), read_mask(material.folder / name)
            )


def test_a_batch_run_gives_the_masks_of_refine(material, predictor):
    run(material.cityscapes(), predictor)
    changed = 0
    for stem, masks in material.masks.items():
        image = read_image(material.images / f"{stem}.png").pixels
        instances = tuple(
            Instance(mask=Mask.from_array(mask), label=0, score=1.0) for mask in masks
        )
        prediction = Prediction(masks[0].shape, instances)
        expected = refine(image, prediction, HostRunner(predictor), SETTINGS).instances
        for index, (coarse, instance) in enumerate(zip(masks, expected, strict=True)):
            (path,) = (material.root / "refined").rglob(f"{stem}_{index}.png")
            np.testing.assert_array_equal(read_mask(path), instance.mask.to_array())
            changed += np.count_nonzero(coarse != instance.mask.to_array())
    assert changed > 1000


def test_results_do_not_depend_on_the_batch_size(material, predictor):
    results = []
    for batch_size in (1, 3, 32):
        run(material.cityscapes(f"by{batch_size}"), predictor, batch_size=batch_size)
        results.append(content(material.root / f"by{batch_size}"))
    assert results[0] == results[1] == results[2]


def test_results_do_not_depend_on_the_order_of_images(material, predictor):
    stems = list(material.masks)
    orders = {"forth": stems, "back": stems[::-1], "mixed": [stems[i] for i in (3, 0, 5, 1, 4, 2)]}
    by_tag = []
    for name, order in orders.items():
        records = [r for stem in order for r in material.records if r["image_id"] == stem]
        run(material.coco(f"{name}.json", records), predictor, batch_size=3)
        refined = json.loads((material.root / f"{name}.json").read_text())
        assert [record["tag"] for record in refined] == [record["tag"] for record in records]
        by_tag.append({record["tag"]: record for record in refined})
    assert by_tag[0] == by_tag[1] == by_tag[2]


def test_coco_results_have_the_masks_of_the_folder(material, predictor):
    run(material.cityscapes(), predictor)
    run(material.coco(), predictor)
    refined = json.loads((material.root / "refined.json").read_text())
    assert len(refined) == len(material.records) == 10
    for before, after in zip(material.records, refined, strict=True):
        assert list(after) == list(before)
        for name in ("image_id", "score", "category_id", "tag"):
            assert after[name] == before[name]
        (path,) = (material.root / "refined").rglob(before["tag"].replace("/", "_") + ".png")
        mask = Mask.from_array(read_mask(path))
        assert after["segmentation"] == rle.encode(mask)
        x0, y0, x1, y1 = mask.window
        coarse = rle.decode(before["segmentation"], mask.size)
        if not differing_pixels(coarse, mask):  # nothing changed: nothing is written anew
            assert after == before
        else:
            assert after["bbox"] == [x0, y0, x1 - x0, y1 - y0]


def test_entries_of_an_image_need_not_stand_together(material):
    records = sorted(material.records, key=lambda record: record["score"])
    run(material.coco(records=records))
    refined = json.loads((material.root / "refined.json").read_text())
    assert [record["tag"] for record in refined] == [record["tag"] for record in records]
    for before, after in zip(records, refined, strict=True):
        assert after["segmentation"] == before["segmentation"]


def test_no_entries_give_no_entries(material):
    progress = run(material.coco(records=[]))
    assert progress.total == 0
    assert json.loads((material.root / "refined.json").read_text()) == []


def test_mask_files_have_the_masks_of_the_folder(material, predictor):
    run(material.cityscapes(), predictor)
    masks = [material.folder / f"c_{index}.png" for index in range(3)]
    run(MaskFilesJob(material.images / "c.png", masks, material.root / "single"), predictor)
    found = content(material.root / "single")
    assert list(found) == ["c_0.png", "c_1.png", "c_2.png"]
    for name, data in found.items():
        assert data == (material.root / "refined" / name).read_bytes()


def test_more_images_without_patches_than_may_wait_are_all_written(tmp_path):
    material = Material(tmp_path)
    empty = np.zeros((40, 40), np.bool_)
    count = 2 * MAX_WAITING_IMAGES + 3
    for index in range(count):
        mask = ellipse((40, 40), index) if index in (0, 20) else empty
        material.add(f"{index:03}", mask, size=(40, 40))
    progress = run(material.cityscapes(), batch_size=1000)
    assert progress.done == count
    assert content(tmp_path / "refined").keys() == content(material.folder).keys()
    for index in (0, 1, 20, count - 1):
        (path,) = (tmp_path / "refined").rglob(f"{index:03}_0.png")
        np.testing.assert_array_equal(read_mask(path), material.masks[f"{index:03}"][0])


# report and progress


def test_the_report_says_how_the_run_was_set_up_and_what_came_of_it(material, predictor):
    heard = []
    progress = run(
        material.cityscapes(), predictor, about={"weights": "x"}, on_progress=heard.append
    )
    report = json.loads((material.root / "refined/report.json").read_text())
    assert report["weights"] == "x"
    assert report["input_size"] == INPUT_SIZE
    assert report["settings"]["patch_size"] == INPUT_SIZE
    assert report["images"] == {"total": 6, "refined": 6, "already_done": 0, "failed": 0}
    assert report["instances"] == 10
    assert report["patches"] == progress.counted["patches"] > 0
    changed = 0
    for name, before in content(material.folder).items():
        if not name.endswith(".txt"):
            after = read_mask(material.root / "refined" / name)
            changed += np.count_nonzero(after != read_mask(material.folder / name))
            assert before
    assert report["changed_pixels"] == changed > 0
    assert report["failures"] == []
    assert all("the object fills the image" in note["note"] for note in report["notes"])
    assert [one.finished for one in heard] == [1, 2, 3, 4, 5, 6]


def test_notes_about_images_are_in_the_report_also_after_a_rerun(material):
    path = material.images / "c.png"
    pixels = np.dstack([read_image(path).pixels, np.full((70, 90), 9, np.uint8)])
    Image.fromarray(pixels).save(path)
    expected = [{"image": "c_pred.txt", "note": "alpha channel dropped"}]
    for _ in range(2):
        run(material.cityscapes())
        report = json.loads((material.root / "refined/report.json").read_text())
        assert [note for note in report["notes"] if "fills" not in note["note"]] == expected


def test_images_that_are_no_longer_there_do_not_count_in_the_report(material):
    run(material.cityscapes())
    (material.folder / "a_pred.txt").unlink()
    run(material.cityscapes())
    report = json.loads((material.root / "refined/report.json").read_text())
    assert report["images"] == {"total": 5, "refined": 0, "already_done": 5, "failed": 0}
    assert report["instances"] == 8


# failures


def test_what_is_wrong_with_an_image_is_reported_and_the_others_are_done(material):
    (material.folder / "a_1.png").unlink()
    small = np.zeros((9, 9), np.uint8)
    Image.fromarray(small).save(material.folder / "c_2.png")
    (material.images / "f.png").unlink()
    (material.images / "d.png").write_bytes(b"no image")
    progress = run(material.cityscapes())
    failures = {failure.image: failure.reason for failure in progress.failures}
    assert list(failures) == ["city/d_pred.txt", "city/f_pred.txt"]
    assert "d.png: expected an image (PNG" in failures["city/d_pred.txt"]
    assert "expected an image f.* or f_leftImg8bit.*" in failures["city/f_pred.txt"]
    first, second = progress.left
    assert (first.image, first.object.name) == ("a_pred.txt", "line 2")
    assert "a_1.png: expected an image, found no file" in first.object.reason
    assert (second.image, second.object.name) == ("c_pred.txt", "line 3")
    size = "expected a mask of the size of its image, 90 x 70 pixels, got 9 x 9 pixels"
    assert f"c_2.png: {size}" in second.object.reason
    assert progress.done == 4
    written = content(material.root / "refined")
    assert not any(name.startswith(("city/d", "city/f")) for name in written)
    assert "a_1.png" not in written  # there was none
    assert written["c_2.png"] == (material.folder / "c_2.png").read_bytes()
    assert written["a_pred.txt"] == (material.folder / "a_pred.txt").read_bytes()
    report = json.loads((material.root / "refined/report.json").read_text())
    assert {failure["image"]: failure["reason"] for failure in report["failures"]} == failures
    assert [item["name"] for item in report["left_as_they_are"]] == ["line 2", "line 3"]


def test_an_empty_txt_is_reported_and_copied(material):
    (material.folder / "a_pred.txt").write_bytes(b"\r\n")
    progress = run(material.cityscapes())
    assert [failure.image for failure in progress.failures] == ["a_pred.txt"]
    assert "got an empty file" in progress.failures[0].reason
    assert (material.root / "refined/a_pred.txt").read_bytes() == b"\r\n"


def test_a_coco_entry_that_cannot_be_read_costs_only_itself(material):
    material.records[3]["segmentation"]["size"] = [90, 70]
    progress = run(material.coco())
    assert not progress.failures
    (left,) = progress.left
    assert (left.image, left.object.name) == ("c", "entry 3")
    assert "segmentation: expected RLE size [70, 90]" in left.object.reason
    refined = json.loads((material.root / "refined.json").read_text())
    assert [r["tag"] for r in refined] == [r["tag"] for r in material.records]
    assert refined[3] == material.records[3]


def test_coco_entries_of_an_image_that_failed_stay_as_they_are(material):
    (material.images / "c.png").unlink()
    progress = run(material.coco())
    assert [failure.image for failure in progress.failures] == ["c"]
    refined = json.loads((material.root / "refined.json").read_text())
    assert len(refined) == len(material.records)
    for before, after in zip(material.records, refined, strict=True):
        assert before["image_id"] != "c" or after == before


# which image belongs to a prediction


def test_images_may_have_the_suffix_of_cityscapes_and_lie_in_subfolders(material):
    (material.images / "x/y").mkdir(parents=True)
    for path in list(material.images.glob("*.png")):
        path.rename(material.images / "x/y" / f"{path.stem}_leftImg8bit.png")
    assert run(material.cityscapes()).done == 6


def test_two_images_with_one_stem_fail_the_predictions_of_that_stem_alone(material):
    shutil.copy(material.images / "a.png", material.images / "a.jpg")
    progress = run(material.cityscapes())
    assert progress.done == 5
    assert "expected one image with the stem 'a', found 2: a.jpg, a.png" in (
        progress.failures[0].reason
    )


def test_links_to_one_image_are_one_image(material):
    (material.images / "again").symlink_to(material.images)
    (material.root / "all").mkdir()
    for name in ("one", "two"):
        (material.root / "all" / name).symlink_to(material.images)
    material.images = material.root / "all"
    assert run(material.cityscapes()).done == 6
    names = {stem: f"{stem}.png" for stem in material.masks}
    assert run(named(material, names)).done == 6


def named(material, names):
    path = material.root / "images.json"
    images = [{"id": stem, "file_name": name} for stem, name in names.items()]
    path.write_text(json.dumps({"images": images}))
    coarse = material.root / "coarse.json"
    coarse.write_text(json.dumps(material.records))
    return CocoJob(coarse, material.images, path, material.root / "refined.json")


def test_a_json_of_images_names_the_file_of_each_id(material):
    names = {}
    for number, stem in enumerate(material.masks):
        folder = material.images / f"f{number % 2}"
        folder.mkdir(exist_ok=True)
        (material.images / f"{stem}.png").rename(folder / f"photo{number // 2}.png")
        names[stem] = f"f{number % 2}/photo{number // 2}.png"
    assert run(named(material, names)).done == 6


def test_a_file_name_without_its_folder_is_looked_for_in_subfolders(material):
    (material.images / "train").mkdir()
    (material.images / "a.png").rename(material.images / "train/a.png")
    names = {stem: f"{stem}.png" for stem in material.masks}
    names["b"] = "other/place/b.png"
    assert run(named(material, names)).done == 6


@pytest.mark.parametrize("name", ["../secret.png", "{root}/secret.png", "x.png", "a\0.png"])
def test_a_file_name_that_leads_nowhere_or_out_of_the_folder_fails_its_image(material, name):
    shutil.copy(material.images / "a.png", material.root / "secret.png")
    names = {stem: f"{stem}.png" for stem in material.masks}
    progress = run(named(material, {**names, "a": name.format(root=material.root)}))
    assert [failure.image for failure in progress.failures] == ["a"]
    assert "expected one image" in progress.failures[0].reason


def test_an_id_without_file_name_fails_its_image(material):
    names = {stem: f"{stem}.png" for stem in material.masks if stem != "e"}
    progress = run(named(material, names))
    assert [failure.image for failure in progress.failures] == ["e"]
    assert "image id e: expected an entry in 'images'" in progress.failures[0].reason


def test_coco_images_are_named_by_their_id_with_or_without_zeros(material):
    material.records = [r for r in material.records if r["image_id"] in "ab"]
    for record in material.records:
        record["image_id"] = {"a": 7, "b": 139}[record["image_id"]]
    (material.images / "a.png").rename(material.images / "7.png")
    (material.images / "b.png").rename(material.images / "000000000139.png")
    assert run(material.coco()).done == 2


# going on


def run_again(material, **more):
    progress = run(material.cityscapes(), **more)
    return progress.done, progress.already_done, len(progress.failures)


def test_a_second_run_finds_everything_done(material, predictor):
    run(material.cityscapes(), predictor)
    before = content(material.root / "refined")
    times = {path: path.stat().st_mtime_ns for path in (material.root / "refined").rglob("*.png")}
    progress = run(material.cityscapes(), predictor)
    assert (progress.done, progress.already_done, progress.counted["patches"]) == (0, 6, 0)
    assert content(material.root / "refined") == before
    assert times == {path: path.stat().st_mtime_ns for path in times}


@pytest.mark.parametrize(
    "change",
    [
        lambda m: os.utime(m.images / "c.png", ns=(1, 1)),
        lambda m: os.utime(m.folder / "c_1.png", ns=(1, 1)),
        lambda m: os.utime(m.folder / "c_pred.txt", ns=(1, 1)),
        lambda m: (m.root / "refined/c_1.png").unlink(),
        lambda m: (m.root / "refined/c_1.png").write_bytes(b"damaged"),
        lambda m: (m.root / "refined/c_pred.txt").write_bytes(b""),
    ],
    ids=["image", "mask", "txt", "lost output", "damaged output", "damaged output txt"],
)
def test_only_an_image_whose_files_changed_is_done_again(material, change):
    run(material.cityscapes())
    before = content(material.root / "refined")
    change(material)
    assert run_again(material) == (1, 5, 0)
    assert content(material.root / "refined") == before
    assert run_again(material) == (0, 6, 0)


def test_a_repaired_image_is_all_that_a_rerun_does(material):
    path = material.images / "c.png"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    assert run_again(material) == (5, 0, 1)
    path.write_bytes(good)
    assert run_again(material) == (1, 5, 0)


def test_a_new_image_is_all_that_a_rerun_does(material):
    run(material.cityscapes())
    material.add("g", ellipse((70, 90), 9))
    assert run_again(material) == (1, 6, 0)


def test_a_rerun_after_a_torn_journal_does_what_is_missing(material, predictor):
    run(material.cityscapes(), predictor)
    before = content(material.root / "refined")
    journal = material.root / "refined/.bpr/journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])
    (material.root / "refined/.bpr/0.partial").write_bytes(b"half")
    progress = run(material.cityscapes(), predictor)
    assert (progress.done, progress.already_done) == (1, 5)
    assert content(material.root / "refined") == before
    assert not list((material.root / "refined/.bpr").glob("*.partial"))


def test_coco_results_are_written_again_from_the_journal(material, predictor):
    run(material.coco(), predictor)
    path = material.root / "refined.json"
    before = path.read_bytes()
    path.unlink()
    progress = run(material.coco(), predictor)
    assert (progress.done, progress.already_done) == (0, 6)
    assert path.read_bytes() == before


def test_a_changed_coco_entry_is_done_again_with_its_image(material):
    run(material.coco())
    material.records[0]["tag"] = "new"
    progress = run(material.coco())
    assert (progress.done, progress.already_done) == (1, 5)
    refined = json.loads((material.root / "refined.json").read_text())
    assert refined[0]["tag"] == "new"
    assert [record["tag"] for record in refined[1:]] == [r["tag"] for r in material.records[1:]]


def test_a_run_with_other_settings_or_weights_is_refused(material):
    run(material.cityscapes())
    for more in (
        {"settings": PatchSettings(patch_size=64)},
        {"about": {"weights": "other"}},
        {"predictor": KeepCoarse(64)},
    ):
        with pytest.raises(ValueError, match=r"belongs to a run with another set-up .*--over"):
            run(material.cityscapes(), **more)
    assert run_again(material) == (0, 6, 0)
    assert run_again(material, about={"weights": "other"}, overwrite=True) == (6, 0, 0)
    assert run_again(material, about={"weights": "other"}) == (0, 6, 0)


def test_a_run_may_go_on_with_another_batch_size(material):
    run(material.cityscapes(), batch_size=3)
    assert run_again(material, batch_size=5) == (0, 6, 0)


def test_output_of_unknown_origin_is_not_overwritten_unasked(material):
    shutil.copytree(material.folder, material.root / "refined")
    (material.root / "refined/a_pred.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"_pred\.txt: exists, but not from a run that can be"):
        run(material.cityscapes())
    assert (material.root / "refined/a_pred.txt").read_text() == "mine"
    assert run_again(material, overwrite=True) == (6, 0, 0)


def test_results_of_another_image_are_not_overwritten_unasked(material):
    """Masks of many images often share their names: mask_0.png, mask_1.png."""
    out, masks = material.root / "out", [material.folder / "a_0.png"]
    run(MaskFilesJob(material.images / "a.png", masks, out))
    with pytest.raises(ValueError, match=r"a_0\.png: exists, but not from a run"):
        run(MaskFilesJob(material.images / "c.png", masks, out))
    progress = run(MaskFilesJob(material.images / "a.png", masks, out))
    assert progress.already_done == 1


def test_a_wrong_batch_size_is_refused_before_anything_is_written(material):
    with pytest.raises(ValueError, match="batch_size: expected an int > 0, got 0"):
        run(material.cityscapes(), batch_size=0)
    assert not (material.root / "refined").exists()


# where results go


@pytest.mark.parametrize("out", ["coarse", "coarse/../coarse", "link"])
def test_predictions_are_not_refined_in_place(material, out):
    (material.root / "link").symlink_to(material.folder)
    with pytest.raises(ValueError, match="expected another folder than the input"):
        material.cityscapes(out)


@pytest.mark.parametrize("is_relative", [True, False])
def test_results_inside_the_predictions_are_not_taken_for_input(material, monkeypatch, is_relative):
    monkeypatch.chdir(material.root)
    folder = material.folder.relative_to(material.root) if is_relative else material.folder
    for done in (0, 6):
        job = CityscapesJob(folder, material.images, material.root / "coarse/out")
        assert run(job).already_done == done
        assert len(job.keys()) == 6


def test_results_may_go_to_a_folder_around_the_predictions(material):
    job = CityscapesJob(material.folder, material.images, material.root)
    assert len(job.keys()) == 6
    assert run(job).done == 6
    assert (material.root / "a_pred.txt").exists()


def test_a_folder_with_nothing_but_results_has_no_predictions(material):
    shutil.copytree(material.folder, material.root / "empty/out")
    with pytest.raises(ValueError, match="expected predictions outside of"):
        CityscapesJob(material.root / "empty", material.images, material.root / "empty/out")


def test_a_file_in_place_of_the_output_folder_is_refused(material):
    (material.root / "refined").write_text("")
    with pytest.raises(ValueError, match="refined: expected a folder for the results, got a file"):
        material.cityscapes()


def test_masks_that_would_get_one_name_are_refused(material):
    masks = [material.folder / "a_0.png", material.folder / "city/a_0.jpg"]
    with pytest.raises(ValueError, match=r"expected masks of different names, got a_0.png twice"):
        MaskFilesJob(material.images / "a.png", masks, material.root / "out")


def test_a_mask_is_not_overwritten_by_its_own_result(material):
    masks = [material.folder / "a_0.png"]
    with pytest.raises(ValueError, match="expected another place than that of an input"):
        MaskFilesJob(material.images / "a.png", masks, material.folder)


# what must never be lost or mixed


def test_results_of_another_source_are_not_overwritten_unasked(material):
    run(material.cityscapes())
    before = content(material.root / "refined")
    other = shutil.copytree(material.folder, material.root / "other")
    with pytest.raises(ValueError, match=r"another set-up .*source was"):
        run(CityscapesJob(other, material.images, material.root / "refined"))
    assert content(material.root / "refined") == before


def test_results_do_not_go_over_the_photographs(material):
    with pytest.raises(ValueError, match="expected another folder than the input"):
        CityscapesJob(material.folder, material.images, material.images)


def test_a_result_around_the_predictions_does_not_take_the_place_of_an_input(material):
    """PRED lies in OUT, and a mask of PRED/coarse/... would be written to OUT/coarse/..."""
    inner = material.folder / material.folder.name
    inner.mkdir()
    shutil.copy(material.folder / "a_0.png", inner / "a_0.png")
    lines = (material.folder / "a_pred.txt").read_text().splitlines(keepends=True)
    lines[0] = f"{inner.name}/{lines[0]}"
    (material.folder / "a_pred.txt").write_text("".join(lines))
    with pytest.raises(ValueError, match="expected a folder in which no input is overwritten"):
        CityscapesJob(material.folder, material.images, material.root)


def test_a_mask_that_two_txts_name_fails_the_second(material):
    (material.folder / "c_pred.txt").write_bytes((material.folder / "a_pred.txt").read_bytes())
    progress = run(material.cityscapes())
    assert [failure.image for failure in progress.failures] == ["c_pred.txt"]
    assert "is also named by a_pred.txt" in progress.failures[0].reason
    assert run(material.cityscapes()).done == 0


@pytest.mark.parametrize("name", [".bpr/journal.png", "report.json", "c_pred.txt"])
def test_a_txt_cannot_name_our_own_files(material, name):
    (material.folder / "a_pred.txt").write_text(f"{name} 26 0.5\n")
    progress = run(material.cityscapes())
    assert "expected the name of a mask image" in progress.failures[0].reason


def test_a_name_with_a_null_byte_costs_its_line_alone(material):
    path = material.folder / "a_pred.txt"
    path.write_bytes(path.read_bytes() + b"a\0_0.png 26 0.5\n")
    progress = run(material.cityscapes())
    assert progress.failures == ()
    assert ["expected the name of a mask image" in str(left) for left in progress.left] == [True]


def test_results_of_an_image_that_fails_now_or_is_gone_are_kept_and_reported(material):
    run(material.cityscapes())
    before = content(material.root / "refined")
    (material.folder / "a_pred.txt").unlink()
    (material.images / "c.png").write_bytes(b"broken")
    progress = run(material.cityscapes())
    assert set(progress.stale) == {"a_pred.txt", "c_pred.txt"}
    assert content(material.root / "refined") == before
    report = json.loads((material.root / "refined" / "report.json").read_text())
    assert set(report["stale"]) == {"a_pred.txt", "c_pred.txt"}


def test_a_coco_entry_without_an_image_fails_alone(material):
    job = material.coco(records=[{"score": 1}, *material.records])
    progress = run(job)
    assert [failure.image for failure in progress.failures] == ["entry 0"]
    written = json.loads((material.root / "refined.json").read_text())
    assert written[0] == {"score": 1}
    assert [r["tag"] for r in written[1:]] == [r["tag"] for r in material.records]
