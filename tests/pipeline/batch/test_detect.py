"""Images in, prediction folders and COCO results out, as others read them."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bpr.pipeline.batch.cityscapes_job import CityscapesJob
from bpr.pipeline.batch.coco_job import CocoJob
from bpr.pipeline.batch.detect import Refinement, detect_images
from bpr.pipeline.batch.detect_coco_job import DetectCocoJob
from bpr.pipeline.batch.detect_folder_job import DetectFolderJob
from bpr.pipeline.batch.engine import InThisProcess
from bpr.pipeline.batch.run_batch import Counted, run_batch, run_images
from bpr.pipeline.formats import cityscapes, coco
from bpr.pipeline.formats.images import read_image
from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Instance, Mask, Prediction
from bpr.pipeline.predictor import KeepCoarse
from bpr.pipeline.refine import refine
from bpr.pipeline.settings import PatchSettings
from tests.datasets import digests

CATEGORIES = {24: "person", 26: "red car"}
DETECTED = Counted("detected", ("instances",))
REFINED = Counted("detected", ("instances", "patches", "changed_pixels"))
SIZE = (60, 80)


def detect(image):
    """Finds bright spots: red ones are cars."""
    found = []
    count, parts = cv2.connectedComponents((image[..., 0] > 150).astype(np.uint8))
    for number in range(1, count):
        mask = parts == number
        label = 26 if image[mask][:, 1].mean() < 100 else 24
        found.append(
            Instance(mask=Mask.from_array(mask), label=label, score=float(mask.sum()) / 10_000)
        )
    return Prediction(image.shape[:2], tuple(sorted(found, key=lambda one: -one.score)))


def draw(path, *spots):
    """A dark image with spots ((x, y), radius, colour)."""
    image = np.full((*SIZE, 3), 30, np.uint8)
    for centre, radius, colour in spots:
        cv2.circle(image, centre, radius, colour, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


PERSON, CAR = (200, 200, 200), (220, 40, 40)
NAMES = ("town/a_000000_000019_leftImg8bit", "town/b c", "000000000007")


@pytest.fixture
def images(tmp_path):
    draw(tmp_path / f"images/{NAMES[0]}.png", ((20, 20), 9, PERSON), ((60, 40), 12, CAR))
    draw(tmp_path / f"images/{NAMES[1]}.png", ((30, 40), 14, CAR))
    draw(tmp_path / f"images/{NAMES[2]}.png")
    return tmp_path / "images"


def run(job, tally=DETECTED, refinement=None, **more):
    work = partial(detect_images, job, detect, refinement)
    return run_images(job, work, {"source": str(job.source), "weights": "spots"}, tally, **more)


def masks_of(prediction):
    return [(one.label, one.mask.window, one.mask.bitmap.tobytes()) for one in prediction.instances]


def expected(path):
    return masks_of(detect(read_image(path).pixels))


def test_a_folder_becomes_a_prediction_folder_that_refine_reads(images, tmp_path):
    progress = run(DetectFolderJob(images, CATEGORIES, tmp_path / "out"))
    assert (progress.total, progress.done, progress.counted) == (3, 3, {"instances": 3})
    assert sorted(digests(tmp_path / "out")) == [
        "000000000007_pred.txt",
        "town/a_000000_000019_leftImg8bit_0_red_car.png",
        "town/a_000000_000019_leftImg8bit_1_person.png",
        "town/a_000000_000019_leftImg8bit_pred.txt",
        "town/b c_pred.txt",
        "town/b%20c_0_red_car.png",
    ]
    job = CityscapesJob(tmp_path / "out", images, tmp_path / "refined")
    for name in NAMES[:2]:
        found = job.read(f"{name}_pred.txt").prediction
        assert masks_of(found) == expected(images / f"{name}.png")
    assert (tmp_path / "out/000000000007_pred.txt").read_bytes() == b""
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["images"] == {"total": 3, "detected": 3, "already_done": 0, "failed": 0}
    assert report["instances"] == 3
    assert report["found_nothing"] == ["000000000007.png"]


def test_an_image_that_needs_more_memory_than_there_is_is_left_out(images, tmp_path):
    def detect_small(image):
        if image.shape[0] > SIZE[0]:
            raise MemoryError
        return detect(image)

    Image.new("RGB", (300, 200)).save(images / "large.png")
    job = DetectFolderJob(images, CATEGORIES, tmp_path / "out")
    work = partial(detect_images, job, detect_small, None)
    progress = run_images(job, work, {"weights": "spots"}, DETECTED)
    assert (progress.total, progress.done) == (4, 3)
    (failure,) = progress.failures
    assert failure.image == "large.png"
    assert "expected memory for 200 x 300 pixels" in failure.reason
    assert not list((tmp_path / "out").glob("large*"))


def test_the_scorer_of_cityscapes_reads_the_folder(images, tmp_path):
    evaluation = pytest.importorskip(
        "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
    )
    run(DetectFolderJob(images, CATEGORIES, tmp_path / "out"))
    folder = os.path.abspath(tmp_path / "out")
    arguments = Namespace(predictionPath=folder, predictionWalk=None)
    truth = "gtFine/val/town/a_000000_000019_gtFine_instanceIds.png"
    file = evaluation.getPrediction(truth, arguments)
    assert Path(file) == tmp_path / "out/town/a_000000_000019_leftImg8bit_pred.txt"
    found = evaluation.readPredInfo(file, arguments)
    assert [info["labelID"] for info in found.values()] == [26, 24]
    prediction = detect(read_image(images / f"{NAMES[0]}.png").pixels)
    for (mask, info), instance in zip(found.items(), prediction.instances, strict=True):
        with evaluation.Image.open(mask) as image:
            np.testing.assert_array_equal(np.array(image) != 0, instance.mask.to_array())
        assert info["conf"] == pytest.approx(instance.score, rel=1e-6)


def test_coco_results_are_accepted_by_pycocotools_and_perfect_where_they_should_be(
    images, tmp_path
):
    truth = {"images": [], "annotations": [], "categories": []}
    truth["categories"] = [{"id": label, "name": name} for label, name in CATEGORIES.items()]
    for number, name in enumerate(NAMES, start=5):
        file = images / f"{name}.png"
        truth["images"].append(
            {"id": number, "file_name": file.name, "height": SIZE[0], "width": SIZE[1]}
        )
        for instance in detect(read_image(file).pixels).instances:
            record = coco.detected_record(number, instance)
            del record["score"]
            x0, y0, x1, y1 = instance.mask.window
            count = len(truth["annotations"]) + 1
            truth["annotations"].append(
                {
                    **record,
                    **{"id": count, "iscrowd": 0, "area": instance.mask.area},
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                }
            )
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    out = tmp_path / "out.json"
    progress = run(DetectCocoJob(images, tmp_path / "truth.json", out))
    assert progress.counted == {"instances": 3}
    scorer = COCO(str(tmp_path / "truth.json"))
    for kind in ("segm", "bbox"):
        evaluation = COCOeval(scorer, scorer.loadRes(str(out)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == 1.0
    job = CocoJob(out, images, tmp_path / "truth.json", tmp_path / "refined.json")
    assert masks_of(job.read("5").prediction) == expected(images / f"{NAMES[0]}.png")


def test_without_a_json_ids_are_the_names_that_refine_looks_for(images, tmp_path):
    draw(images / "0012.png", ((20, 20), 9, PERSON))
    draw(images / "000000000009.png", ((20, 20), 9, PERSON))
    run(DetectCocoJob(images, None, tmp_path / "out.json"))
    records = json.loads((tmp_path / "out.json").read_text())
    ids = ["a_000000_000019_leftImg8bit", "b c", "0012", 9]
    assert sorted({record["image_id"] for record in records}, key=str) == sorted(ids, key=str)
    job = CocoJob(tmp_path / "out.json", images, None, tmp_path / "refined.json")
    assert all(job.read(key).prediction.instances for key in job.keys())  # noqa: SIM118


@pytest.mark.parametrize("kind", ["folder", "json"])
def test_bad_images_are_said_the_rest_is_done_and_a_rerun_does_what_is_missing(
    images, tmp_path, kind
):
    def job():
        if kind == "folder":
            return DetectFolderJob(images, CATEGORIES, tmp_path / "out")
        return DetectCocoJob(images, None, tmp_path / "out.json")

    whole = (images / f"{NAMES[1]}.png").read_bytes()
    (images / f"{NAMES[1]}.png").write_bytes(whole[: len(whole) // 2])
    progress = run(job())
    assert (progress.done, progress.counted) == (2, {"instances": 2})
    assert len(progress.failures) == 1
    assert "b c.png: expected a readable image" in progress.failures[0].reason

    (images / f"{NAMES[1]}.png").write_bytes(whole)
    progress = run(job())
    assert (progress.done, progress.already_done, progress.failures) == (1, 2, ())
    at_once = tmp_path / "at once"
    again = (
        DetectFolderJob(images, CATEGORIES, at_once)
        if kind == "folder"
        else DetectCocoJob(images, None, tmp_path / "at_once.json")
    )
    run(again)
    if kind == "folder":
        assert digests(tmp_path / "out") == digests(at_once)
    else:
        assert (tmp_path / "out.json").read_bytes() == (tmp_path / "at_once.json").read_bytes()


def test_two_images_of_one_stem_are_told_apart_by_folders_or_refused(images, tmp_path):
    draw(images / "b c.png", ((20, 20), 9, PERSON))
    draw(images / "twice.png", ((20, 20), 9, PERSON))
    draw(images / "twice.jpg", ((20, 20), 9, PERSON))
    progress = run(DetectFolderJob(images, CATEGORIES, tmp_path / "out"))
    assert [failure.image for failure in progress.failures] == ["twice.jpg", "twice.png"]
    assert "got several for twice_pred.txt" in progress.failures[0].reason
    assert (tmp_path / "out/b c_pred.txt").exists()
    assert (tmp_path / "out/town/b c_pred.txt").exists()
    with pytest.raises(ValueError, match=r"expected images of different ids .*'?b c"):
        DetectCocoJob(images, None, tmp_path / "out.json")


def test_results_of_others_are_not_overwritten_unasked(images, tmp_path):
    (tmp_path / "out/town").mkdir(parents=True)
    theirs = tmp_path / "out/town/b c_pred.txt"
    theirs.write_text("theirs")
    with pytest.raises(ValueError, match=r"b c_pred\.txt: exists, but not from a run"):
        run(DetectFolderJob(images, CATEGORIES, tmp_path / "out"))
    assert theirs.read_text() == "theirs"
    run(DetectFolderJob(images, CATEGORIES, tmp_path / "out"), overwrite=True)
    assert theirs.read_text() != "theirs"
    with pytest.raises(ValueError, match="expected another folder than the images"):
        DetectFolderJob(images, CATEGORIES, images)


def test_results_below_the_images_are_not_detected(images):
    first = run(DetectFolderJob(images, CATEGORIES, images / "found"))
    again = run(DetectFolderJob(images, CATEGORIES, images / "found"))
    assert (first.total, again.total, again.already_done) == (3, 3, 3)


class Shift(KeepCoarse):
    """Moves every mask by a pixel: a predictor that changes something."""

    def __call__(self, patches):
        moved = patches.copy()
        moved[..., 3] = np.roll(patches[..., 3], 3, axis=2)
        return super().__call__(moved)


def test_refining_at_once_gives_what_refining_later_gives(images, tmp_path):
    settings = PatchSettings(patch_size=16)
    refinement = Refinement(HostRunner(Shift(32), 8), settings)
    job = DetectFolderJob(images, CATEGORIES, tmp_path / "out")
    progress = run(job, REFINED, refinement)
    assert progress.counted["patches"] > 0 < progress.counted["changed_pixels"]
    for name in NAMES[:2]:
        pixels = read_image(images / f"{name}.png").pixels
        later = refine(pixels, detect(pixels), HostRunner(Shift(32)), settings)
        path = tmp_path / f"out/{name}_pred.txt"
        parsed = cityscapes.parse_prediction_file(path, tmp_path / "out")
        written = Prediction(later.size, cityscapes.read_instances(parsed))
        assert masks_of(written) == masks_of(later) != masks_of(detect(pixels))


def test_an_image_without_instances_is_no_lost_detection_when_refined(images, tmp_path):
    settings = PatchSettings(patch_size=16)

    def refined(source, target):
        job = CityscapesJob(tmp_path / source, images, tmp_path / target)
        engine = InThisProcess(HostRunner(Shift(32), 8))
        progress = run_batch(job, engine, settings, {"source": source, "weights": "shift"})
        return [failure.image for failure in progress.failures]

    run(DetectFolderJob(images, CATEGORIES, tmp_path / "out"))
    assert refined("out", "once") == refined("once", "twice") == []
    text = f"{NAMES[2]}_pred.txt"
    assert (tmp_path / "twice" / text).read_bytes() == b""
    # nobody says so of another folder, nor of another image
    (tmp_path / "out/report.json").write_text('{"found_nothing": 3}')
    assert refined("out", "unsaid") == [text]
    (tmp_path / "once" / "town/b c_pred.txt").write_bytes(b"")
    assert refined("once", "lost") == ["town/b c_pred.txt"]


def test_a_name_of_blanks_and_signs_stays_one_word():
    mask = Mask.from_array(np.ones((2, 2)))
    prediction = Prediction((2, 2), (Instance(mask=mask, label=1, score=1e-9),))
    files = cityscapes.encode_detections("a\u2003b\tc", prediction, {1: "traffic light / red"})
    (png, _), (name, text) = files.items()
    assert name == "a\u2003b\tc_pred.txt"
    assert text.decode().split() == [png, "1", "1e-09"]
    same = replace(prediction, instances=())
    assert cityscapes.encode_detections("a", same, {}) == {"a_pred.txt": b""}
