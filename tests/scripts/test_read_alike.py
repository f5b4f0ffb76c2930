"""One reader for every command: the same odd files, given to several of them."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.batch.coco_job import CocoJob
from bpr.pipeline.batch.engine import InThisProcess
from bpr.pipeline.batch.run_batch import run_batch
from bpr.pipeline.formats import rle
from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Mask
from bpr.pipeline.predictor import KeepCoarse
from bpr.pipeline.settings import PatchSettings
from bpr.scripts.main import main
from bpr.scripts.outcome import explain_nothing

SIZE = (60, 80)


def code(x, y=30, radius=14):
    canvas = np.zeros(SIZE, np.uint8)
    cv2.circle(canvas, (x, y), radius, 1, -1)
    return rle.encode(Mask.from_array(canvas))


CODES = [code(20), code(58)]


class Data:
    """Two images called alike, with two objects each, and predictions that equal the truth."""

    def __init__(self, root, image_ids=(1, 2), annotation_ids=(1, 2, 3, 4), categories=(1, 2)):
        self.root = root
        images, annotations, results = [], [], []
        for number, image_id in enumerate(image_ids):
            name = f"video{number}/00001.png"
            path = root / "frames" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", SIZE[::-1]).save(path)
            height, width = SIZE
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
            for index, segmentation in enumerate(CODES):
                record = {
                    "image_id": image_id,
                    "category_id": categories[index],
                    "segmentation": segmentation,
                }
                annotations.append(
                    {"id": annotation_ids[2 * number + index], "iscrowd": 0, **record}
                )
                results.append({**record, "score": 0.9 - 0.1 * index})
        self.labels = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": one, "name": f"name {one}"} for one in categories],
        }
        self.results = results

    def write(self):
        (self.root / "labels.json").write_text(json.dumps(self.labels))
        (self.root / "results.json").write_text(json.dumps(self.results))

    def evaluate(self, *more):
        self.write()
        return main(
            [
                "evaluate", str(self.root / "results.json"), "--ground-truth",
                str(self.root / "labels.json"), "--out", str(self.root / "report"), *more,
            ]
        )  # fmt: skip

    def report(self):
        return json.loads((self.root / "report/report.json").read_text())


@pytest.mark.parametrize(
    "ids",
    [
        {},
        {"annotation_ids": (0, -3, 2**53 + 1, 7)},
        {"annotation_ids": ("a", "b", 1, 1)},
        {"image_ids": ("b", "a")},
        {"image_ids": (0, -1)},
        {"image_ids": (1.0, 2.5)},
        {"categories": ("cup", "spoon")},
        {"categories": (0, 7)},
        {"categories": (1.0, "2")},
    ],
)
def test_perfect_predictions_have_ap_1_whatever_the_ids_are(tmp_path, capsys, ids):
    data = Data(tmp_path, **ids)
    assert data.evaluate() == 0
    assert capsys.readouterr().err == ""
    (run,) = (run for run in data.report()["runs"] if run["name"] == "prediction")
    for name in ("AP", "AP50", "boundary AP"):
        assert run["average_precision"][name] == pytest.approx(1.0)
    assert run["objects_found"] == 4


@pytest.mark.parametrize("segmentation", [[], None, "absent"])
def test_an_annotation_without_a_mask_is_left_out_and_named(tmp_path, capsys, segmentation):
    data = Data(tmp_path)
    box = {"id": 9, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}
    data.labels["annotations"].append(
        box if segmentation == "absent" else {**box, "segmentation": segmentation}
    )
    assert data.evaluate() == 0
    assert "annotation left out: " in capsys.readouterr().err
    assert [one["reason"] for one in data.report()["problems"]["annotations_left_out"]] == [
        "without a mask"
    ]


def test_a_report_of_somebody_else_is_not_replaced_unasked(tmp_path, capsys):
    data = Data(tmp_path)
    (tmp_path / "report").mkdir()
    for name in ("report.json", "index.html"):
        path = tmp_path / "report" / name
        path.write_text("mine")
        assert data.evaluate() == 2
        assert "--overwrite" in capsys.readouterr().err
        assert path.read_text() == "mine"
        path.unlink()
    assert data.evaluate() == 0
    assert data.evaluate() == 0  # its own
    (tmp_path / "report/report.json").write_text("mine")
    assert data.evaluate("--overwrite") == 0


def test_frames_that_are_called_alike_are_extracted_by_their_path(tmp_path, capsys):
    data = Data(tmp_path)
    data.write()
    command = [
        "extract", "--images", str(tmp_path / "frames"), "--ground-truth",
        str(tmp_path / "labels.json"), "--out", str(tmp_path / "patches"), "--split", "val",
    ]  # fmt: skip
    assert main(command) == 0
    assert "2 of 2 images extracted" in capsys.readouterr().out


def test_two_files_of_one_id_are_refused_by_every_command(tmp_path, capsys):
    data = Data(tmp_path, image_ids=(1, 1))
    images, labels = str(tmp_path / "frames"), str(tmp_path / "labels.json")
    assert data.evaluate() == 2
    out = str(tmp_path / "out.json")
    assert main(["refine", labels, "--images", images, "--out", out]) == 2
    more = ["--ground-truth", labels, "--out", str(tmp_path / "p"), "--split", "val"]
    assert main(["extract", "--images", images, *more]) == 2
    said = capsys.readouterr().err
    assert said.count("id 1 belongs to video0/00001.png and to video1/00001.png") == 3


def refine(data, **more):
    data.write()
    root = data.root
    job = CocoJob(root / "labels.json", root / "frames", None, root / "out.json", **more)
    runner = HostRunner(KeepCoarse(64), 32)
    return run_batch(job, InThisProcess(runner), PatchSettings(), {})


def test_crowds_stay_unless_they_are_asked_for_and_nothing_done_is_no_success(tmp_path, capsys):
    data = Data(tmp_path)
    for annotation in data.labels["annotations"]:
        annotation["iscrowd"] = 1
    progress = refine(data)
    assert progress.remarks == (
        "4 entries left as they are: a crowd (iscrowd): --include-crowds refines it",
    )
    assert explain_nothing(progress, tmp_path) == 1
    assert "expected objects to refine, found none" in capsys.readouterr().err
    assert json.loads((tmp_path / "out.json").read_text()) == data.labels
    for name in ("out.json", "out.report.json"):
        (tmp_path / name).unlink()
    (tmp_path / ".out.json.bpr/journal.jsonl").unlink()
    progress = refine(data, include_crowds=True)
    assert (progress.done, progress.instances) == (2, 4)
    assert explain_nothing(progress, tmp_path) == 0


def test_a_panoptic_json_is_named(tmp_path):
    data = Data(tmp_path)
    data.labels["annotations"] = [{"image_id": 1, "file_name": "a.png", "segments_info": []}]
    with pytest.raises(ValueError, match="this is COCO panoptic"):
        refine(data)


def test_an_unknown_option_prints_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["refine", "pred", "--out", "o", "--wieghts", "tiny"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: bpr refine ")
    assert "--wieghts (did you mean --weights?)" in said
