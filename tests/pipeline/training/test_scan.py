"""Faulty training data are told before the first step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from bpr.detector.checkpoints import load_detector
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.open_ground_truth import open_ground_truth
from bpr.pipeline.training.detection_stream import DetectionSource
from bpr.pipeline.training.scan import recall, remember, scan
from bpr.scripts.main import main

SQUARE = [10, 10, 60, 10, 60, 60, 10, 60]


def write_faulty(folder: Path) -> Path:
    """One image of each fault, two without any, and one in which nothing is annotated."""
    names = ("good", "other", "size", "truncated", "missing", "short", "category", "nothing")
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for number, name in enumerate(names, start=1):
        width = 90 if name == "size" else 128
        pixels = Image.effect_noise((width, 96), 80).convert("RGB")
        path = folder / f"images/{name}.jpg"
        if name != "missing":
            pixels.save(path)
        if name == "truncated":
            path.write_bytes(path.read_bytes()[:600])
        images.append({"id": number, "file_name": path.name, "height": 96, "width": 128})
        if name == "nothing":
            continue
        annotations.append(
            {
                "id": 100 + number,
                "image_id": number,
                "category_id": 9 if name == "category" else 1,
                "segmentation": [SQUARE[:4] if name == "short" else SQUARE],
                "iscrowd": 0,
            }
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "box"}],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faulty(tmp_path_factory.mktemp("faulty"))


def source(folder: Path) -> DetectionSource:
    return DetectionSource(open_ground_truth(folder / "truth.json"), ImageIndex(folder / "images"))


EXPECTED = {
    "size": "size.jpg: expected an image of the size of its ground truth",
    "truncated": "truncated.jpg",
    "missing": "expected one image 'missing.jpg'",
    "short": "entry 5",
    "category": "got 9 of annotation 107",
}


@pytest.mark.parametrize("processes", [0, 1])
def test_every_fault_is_found_with_its_file(faulty: Path, processes: int) -> None:
    seen: list[int] = []
    found = scan(source(faulty), processes, seen.append)
    assert found.faults.keys() == EXPECTED.keys()
    for key, words in EXPECTED.items():
        (fault,) = found.faults[key]
        assert words in fault
    assert found.empty == ["nothing"]
    assert found.labels == {"good": [1], "nothing": [], "other": [1]}
    assert seen == list(range(1, 9))


def test_a_scan_is_remembered_until_the_data_change(faulty: Path, tmp_path: Path) -> None:
    found = scan(source(faulty), 0)
    kept = tmp_path / "run" / "scan.json"
    data = faulty / "truth.json", faulty / "images"
    assert recall(kept, *data) is None
    remember(found, kept, *data)
    assert recall(kept, *data) == found
    assert recall(kept, faulty / "truth.json", tmp_path) is None
    kept.write_text("{")
    assert recall(kept, *data) is None


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_a_training_ends_before_the_first_step_or_skips_what_is_bad(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = [
        *("train-detector", "--images", str(faulty / "images")),
        *("--ground-truth", str(faulty / "truth.json"), "--preset", "lite", "--device", "cpu"),
        *("--batch-size", "1", "--steps", "1", "--threads", "1", "--loaders", "1"),
        *("--out", str(run)),
    ]
    assert main(words) == 2
    said = capsys.readouterr()
    for fault in EXPECTED.values():
        assert fault in said.err
    assert "expected data without faults, found 5 in 8 images" in said.err
    assert "pass --skip-bad" in said.err
    assert not (run / "checkpoint.pt").exists()
    assert main([*words, "--skip-bad"]) == 0
    said = capsys.readouterr()
    assert "2 images, 1 categories" in said.out
    assert "nothing annotated, left out: nothing" in said.err
    assert load_detector(run / "lite.safetensors")[1].categories.names == ("box",)
    assert (run / "curves.png").exists() or not (run / "log.csv").exists()
