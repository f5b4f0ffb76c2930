"""`bpr detect` as users run it: real files, damaged ones among them, and what reads its output."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bpr.detector.categories import CITYSCAPES
from bpr.detector.checkpoints import load_detector
from bpr.pipeline.detection import InstanceDetector, as_prediction
from bpr.pipeline.formats import cityscapes
from bpr.pipeline.formats.images import read_image, read_mask
from bpr.scripts.main import main
from tests.datasets import digests
from tests.networks import save_keypoint_detector, save_random_detector, save_random_network
from tests.pipeline.evaluation.datasets import make_dataset
from tests.pipeline.evaluation.published import cityscapes_printed
from tests.systems import needs_signals

ROOT = Path(__file__).parents[2]
LIMITS = ["--score", "0", "--detections", "4", "--device", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_random_detector(tmp_path_factory.mktemp("weights") / "random.safetensors")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("scenes"), num_images=4)


def detect(images, weights, out, *more):
    words = ["detect", images, "--weights", weights, "--out", out, *LIMITS, *more]
    return main(list(map(str, words)))


def first_images(scenes, folder, number=2):
    folder.mkdir()
    for path in sorted(scenes.images.rglob("*.png"))[:number]:
        shutil.copy(path, folder)
    return folder


def test_what_was_found_is_drawn_beside_the_results(scenes, weights, tmp_path, capsys):
    images = first_images(scenes, tmp_path / "images")
    out, pictures = tmp_path / "out", tmp_path / "pictures"
    assert detect(images, weights, out, "--pictures", pictures) == 0
    for path in images.iterdir():
        drawn = read_image(pictures / path.name).pixels
        plain = read_image(path).pixels
        assert drawn.shape == plain.shape
        changed = (drawn != plain).any(axis=-1)
        masks = [read_mask(mask) for mask in out.glob(f"{path.stem}_*.png")]
        assert changed[np.logical_or.reduce(masks)].mean() > 0.95
    before = capsys.readouterr().out
    assert "2 images detected" in before.replace(" of 2", "")
    assert detect(images, weights, out, "--pictures", pictures) == 0
    assert "2 already done" in capsys.readouterr().out
    next(pictures.iterdir()).unlink()
    assert detect(images, weights, out, "--pictures", pictures) == 0
    assert "1 already done" in capsys.readouterr().out
    assert detect(images, weights, out, "--pictures", images) == 2
    assert "--pictures: expected another folder" in capsys.readouterr().err


def test_a_folder_is_what_the_model_finds_and_cityscapesscripts_and_refine_take_it(
    scenes, weights, tmp_path, capsys
):
    pytest.importorskip("cityscapesscripts")
    out = tmp_path / "out"
    assert detect(scenes.images, weights, out) == 0
    assert "4 of 4 images detected (" in capsys.readouterr().out
    model, info = load_detector(weights)
    model.roi_heads.score_thresh, model.roi_heads.detections_per_img = 0.0, 4
    for path in sorted(scenes.images.rglob("*.png")):
        pixels = read_image(path).pixels
        tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() / 255
        with torch.inference_mode():
            expected = as_prediction(model([tensor])[0], info).instances
        text = out / path.relative_to(scenes.images).with_name(f"{path.stem}_pred.txt")
        parsed = cityscapes.parse_prediction_file(text, out)
        found = cityscapes.read_instances(parsed)
        assert len(found) == len(expected) > 0
        for one, other in zip(found, expected, strict=True):
            assert one.label == other.label
            assert one.score == pytest.approx(other.score, rel=1e-6)
            np.testing.assert_array_equal(one.mask.to_array(), other.mask.to_array())

    printed, _ = cityscapes_printed(out, scenes.gt_fine, tmp_path)
    assert "average" in printed

    network = save_random_network(tmp_path / "network.safetensors")
    refine = ["refine", out, "--images", scenes.images, "--out", tmp_path / "refined"]
    options = ["--weights", network, "--device", "cpu"]
    assert main(list(map(str, [*refine, *options]))) == 0
    at_once = tmp_path / "at once"
    assert detect(scenes.images, weights, at_once, "--refine", network) == 0
    masks = [path.relative_to(out) for path in out.rglob("*.png")]
    differing = 0
    for name in masks:
        refined = read_mask(at_once / name)
        np.testing.assert_array_equal(refined, read_mask(tmp_path / "refined" / name))
        differing += (refined != read_mask(out / name)).any()
    assert differing > 0


def test_images_of_one_name_in_several_folders_are_kept_apart(scenes, weights, tmp_path):
    """What `detect && refine` makes of them is what `detect --refine` does."""
    images = first_images(scenes, tmp_path / "images")
    first, second = sorted(images.iterdir())
    (images / "c1").mkdir()
    second.rename(images / "c1" / first.name)
    found, out, at_once = (tmp_path / name for name in ("found", "refined", "at once"))
    network = save_random_network(tmp_path / "network.safetensors")
    assert detect(images, weights, found) == 0
    refine = ["refine", found, "--images", images, "--out", out, "--weights", network]
    assert main([*map(str, refine), "--device", "cpu"]) == 0
    assert detect(images, weights, at_once, "--refine", network) == 0
    refined = {name: digest for name, digest in digests(out).items() if name.endswith(".png")}
    assert len(refined) == 8
    assert refined.items() <= digests(at_once).items()


def test_names_that_differ_in_how_a_blank_is_written_have_masks_of_their_own(
    scenes, weights, tmp_path
):
    images = first_images(scenes, tmp_path / "images")
    for path, name in zip(sorted(images.iterdir()), ("a b.png", "a%20b.png"), strict=True):
        path.rename(images / name)
    assert detect(images, weights, tmp_path / "out") == 0
    names = {path.name for path in (tmp_path / "out").glob("*_0_*.png")}
    assert {name.split("_")[0] for name in names} == {"a%20b", "a%2520b"}


def test_masks_that_another_detection_no_longer_has_are_removed(scenes, weights, tmp_path):
    images, out = first_images(scenes, tmp_path / "images", 1), tmp_path / "out"
    assert detect(images, weights, out) == 0
    assert len(list(out.glob("*.png"))) == 4
    (out / "mine_0_car.png").write_bytes(b"not ours")
    assert detect(images, weights, out, "--detections", "1", "--overwrite") == 0
    named = {
        line.split()[0] for path in out.glob("*.txt") for line in path.read_text().splitlines()
    }
    assert {path.name for path in out.glob("*.png")} == named | {"mine_0_car.png"}
    assert len(named) == 1


def test_results_among_the_images_are_not_taken_for_images(scenes, weights, tmp_path, capsys):
    images = first_images(scenes, tmp_path / "images")
    assert detect(images, weights, images / "found") == 0
    assert detect(images, weights, tmp_path / "again") == 0
    assert capsys.readouterr().out.count("2 of 2 images detected") == 2


def test_sizes_of_the_images_json_are_held_against_the_images(scenes, weights, tmp_path, capsys):
    images = first_images(scenes, tmp_path / "images")
    entries = [
        {"id": number, "file_name": path.name, "height": 7, "width": 9}
        for number, path in enumerate(sorted(images.iterdir()))
    ]
    content = {"images": entries}
    (tmp_path / "images.json").write_text(json.dumps(content))
    words = (images, weights, tmp_path / "out.json", "--images-json", tmp_path / "images.json")
    assert detect(*words) == 1
    assert "expected an image of 9 x 7 pixels, as its annotations say" in capsys.readouterr().err
    (tmp_path / "images.json").write_text('{"images": []}')
    assert detect(*words, "--overwrite") == 2
    assert "images.json: expected images, got none" in capsys.readouterr().err


def test_memory_that_pytorch_does_not_get_is_called_so(weights):
    detector = InstanceDetector(weights, "cpu")
    detector._model = lambda _: torch.empty(10**15)
    with pytest.raises(MemoryError, match="can't allocate memory"):
        detector(np.zeros((9, 9, 3), np.uint8))


def test_coco_results_are_taken_by_pycocotools(scenes, weights, tmp_path):
    out = tmp_path / "out.json"
    assert detect(scenes.images, weights, out, "--images-json", scenes.coco) == 0
    truth = COCO(str(scenes.coco))
    evaluation = COCOeval(truth, truth.loadRes(str(out)), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert 0 <= evaluation.stats[0] <= 1
    records = json.loads(out.read_text())
    assert {record["image_id"] for record in records} == set(truth.getImgIds())
    assert {record["category_id"] for record in records} <= set(CITYSCAPES.values())


def test_one_image_gives_what_its_folder_gives_for_it(scenes, weights, tmp_path, capsys):
    images = first_images(scenes, tmp_path / "images")
    image = sorted(images.iterdir())[1]
    (images / "notes.txt").write_text("nothing")
    assert detect(images, weights, tmp_path / "all") == 0
    capsys.readouterr()
    assert detect(image, weights, tmp_path / "one") == 0
    assert "1 of 1 images detected" in capsys.readouterr().out
    one, whole = digests(tmp_path / "one"), digests(tmp_path / "all")
    assert f"{image.stem}_pred.txt" in one
    of_image = {name for name in whole if name.startswith(f"{image.stem}_")}
    assert {name: one[name] for name in of_image} == {name: whole[name] for name in of_image}
    assert {name for name in one if name.endswith((".png", ".txt"))} == of_image


def test_one_image_keeps_its_id_in_coco_results(scenes, weights, tmp_path, capsys):
    images = first_images(scenes, tmp_path / "images")
    image, other = sorted(images.iterdir())
    names = tmp_path / "images.json"
    content = [{"id": 7, "file_name": other.name}, {"id": 8, "file_name": image.name}]
    names.write_text(json.dumps({"images": content}))
    out = tmp_path / "out.json"
    assert detect(image, weights, out, "--images-json", names) == 0
    records = json.loads(out.read_text())
    assert {record["image_id"] for record in records} == {8}
    names.write_text(json.dumps({"images": content[:1]}))
    assert detect(image, weights, out, "--images-json", names) == 2
    assert f"expected an entry for {image}, got none" in capsys.readouterr().err


def test_one_file_that_is_no_image_is_said(weights, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert detect(tmp_path / "broken.png", weights, tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "0 of 1 images detected" in said.out
    assert "broken.png: expected an image (PNG, JPEG" in said.err


def test_keypoints_and_unknown_fields_survive_refining(scenes, tmp_path):
    images = first_images(scenes, tmp_path / "images", 1)
    weights = save_keypoint_detector(tmp_path / "persons.safetensors")
    found, refined = tmp_path / "found.json", tmp_path / "refined.json"
    assert detect(images, weights, found) == 0
    records = json.loads(found.read_text())
    assert records
    for number, record in enumerate(records):
        assert len(record["keypoints"]) == 3 * 17
        assert record["keypoints"][2::3] == [1.0] * 17
        assert len(set(record["keypoints"][::3])) > 1
        record["reviewed_by"] = {"name": "A", "round": number}
    found.write_text(json.dumps(records))
    network = save_random_network(tmp_path / "network.safetensors")
    words = ["refine", found, "--images", images, "--out", refined, "--weights", network]
    assert main([*map(str, words), "--device", "cpu"]) == 0
    after = json.loads(refined.read_text())
    changed = [
        one["segmentation"] != other["segmentation"]
        for one, other in zip(records, after, strict=True)
    ]
    assert any(changed)
    for record in (*records, *after):
        del record["segmentation"]
    assert after == records


def test_views_find_something_else(scenes, weights, tmp_path):
    images = first_images(scenes, tmp_path / "images", 1)
    assert detect(images, weights, tmp_path / "one") == 0
    more = ["--flip", "--scales", "160", "200"]
    assert detect(images, weights, tmp_path / "views", *more) == 0
    one, views = digests(tmp_path / "one"), digests(tmp_path / "views")
    assert one != views
    assert any(name.endswith(".png") for name in views)


def test_a_bad_image_is_said_and_a_rerun_does_what_is_missing(scenes, weights, tmp_path, capsys):
    images, out = first_images(scenes, tmp_path / "images", 3), tmp_path / "out"
    bad = sorted(images.iterdir())[1]
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    assert detect(images, weights, out) == 1
    said = capsys.readouterr()
    assert "2 of 3 images detected" in said.out
    assert f"failed: {bad.name}: {bad}: expected a readable image" in said.err
    assert "Traceback" not in said.err
    bad.write_bytes(whole)
    assert detect(images, weights, out) == 0
    assert "1 of 3 images detected" in capsys.readouterr().out
    assert detect(images, weights, tmp_path / "at once") == 0
    assert digests(out) == digests(tmp_path / "at once")

    capsys.readouterr()
    assert detect(images, weights, out, "--nms-iou", "0.9") == 2
    assert "another set-up (settings was" in capsys.readouterr().err
    assert detect(images, weights, out, "--nms-iou", "0.9", "--overwrite") == 0


@needs_signals
@pytest.mark.parametrize("how", ["SIGINT", pytest.param("SIGKILL", marks=pytest.mark.slow)])
def test_a_run_that_ends_early_is_completed_to_the_same_files(scenes, weights, tmp_path, how):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for path in scenes.images.rglob("*.png"):
        for copy in range(2):
            shutil.copy(path, images / f"{path.stem}_{copy}.png")
    words = ["detect", images, "--weights", weights, "--out", out, *LIMITS, "--scales", "240"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "bpr", *map(str, words)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 120
    while len(list(out.rglob("*_pred.txt"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.Signals[how])
    _, said = process.communicate(timeout=60)
    if how == "SIGINT":
        assert process.returncode == 130
        assert "interrupted. Finished work is kept. Run the same command again" in said
        assert "Traceback" not in said
    done = [path for path in digests(out) if path.endswith(".txt")]
    assert 2 <= len(done) < 8
    for name in digests(out):
        if name.endswith(".txt"):
            files = [line.split()[0] for line in (out / name).read_text().splitlines()]
            assert all(read_mask(out / file).any() for file in files)
    assert main(list(map(str, words))) == 0
    assert len([name for name in digests(out) if name.endswith(".txt")]) == 8
    whole = tmp_path / "whole"
    words[words.index(out)] = whole
    assert main(list(map(str, words))) == 0
    assert digests(out) == digests(whole)


WRONG = {
    "images --out=out": "the following arguments are required: --weights",
    "none --weights=W --out=out": "none: expected an image or a folder of images, found none",
    "none.png --weights=W --out=o.json": "none.png: expected an image or a folder of images, found",
    "W --weights=W --out=out": "or a folder of images, got another file",
    "images/a.png --weights=W --out=images": "expected another folder than the images",
    "images/a.png --weights=W --out=out --pictures=images": "expected another folder than images",
    "images --weights=none.pth --out=out": "none.pth: expected",
    "images --weights=W --out=images": "expected another folder than the images",
    "images --weights=W --out=out --score=2": "score: expected a number in [0, 1], got 2.0",
    "images --weights=W --out=out --nms-iou=-1": "nms_iou: expected a number in [0, 1], got -1",
    "images --weights=W --out=out --detections=0": "detections: expected an int > 0, got 0",
    "images --weights=W --out=out --scales 0": "scales: expected ints of 1 to 4096, got 0",
    "images --weights=W --out=out --scales 1000000": "scales: expected ints of 1 to 4096, got 1000",
    "images --weights=W --out=out --images-json=J": "expected a .json as --out",
    "images --weights=W --out=o.json --images-json=J": "J: expected a readable json file",
    "images --weights=W --out=out --refine=none": "expected a file or one of the shipped names",
}


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_command_is_answered_by_a_sentence_and_2(
    command, weights, tmp_path, monkeypatch, capsys
):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images/a.png")
    monkeypatch.chdir(tmp_path)
    words = command.replace("W ", f"{weights} ").replace("=W", f"={weights}").split()
    try:
        code = main(["detect", *words])
    except SystemExit as error:  # argparse
        code = error.code
    said = capsys.readouterr().err
    assert code == 2
    assert WRONG[command] in said
    assert said.splitlines()[-1].startswith(("bpr detect: ", "bpr: error: "))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.png", "images"]
