"""Real Rays: the same bytes whatever the cluster, and whatever dies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.batch.cityscapes_job import CityscapesJob
from bpr.pipeline.batch.coco_job import CocoJob
from bpr.pipeline.batch.engine import InThisProcess
from bpr.pipeline.batch.run_batch import BatchProgress, run_batch
from bpr.pipeline.extraction.extract import Extraction, extract, one_after_another
from bpr.pipeline.extraction.settings import FOLDERS, ExtractionSettings
from bpr.pipeline.extraction.shard import extract_shard
from bpr.pipeline.formats import rle
from bpr.pipeline.formats.images import read_header
from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Mask
from bpr.pipeline.network import load_runner
from bpr.pipeline.predictor import KeepCoarse
from bpr.pipeline.settings import PatchSettings
from tests.crashing import DeadlyNetwork, DeadlyPredictions
from tests.datasets import digests, open_dataset, write_dataset
from tests.networks import INPUT_SIZE

pytest.importorskip("ray", reason="needs ray (pip install 'bpr-refine[ray]')")
# Ray leaves sockets and files of its own to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

from bpr.pipeline.distributed import DIED, Cluster, open_cluster  # noqa: E402

ROOT = Path(__file__).parents[2]
PATCHES = PatchSettings(patch_size=INPUT_SIZE, nms_iou=0.25)
SETTINGS = ExtractionSettings(patches=PATCHES, images_per_shard=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), 7)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Cluster]:
    with open_cluster(2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The dataset as one process makes it."""
    out = tmp_path_factory.mktemp("expected")
    progress = extract(Extraction(open_dataset(data), SETTINGS, out))
    assert (progress.extracted, progress.failures) == (7, ())
    return digests(out)


# extraction


def test_two_workers_make_the_dataset_of_one_process(
    two_workers: Cluster, data: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    progress = extract(Extraction(open_dataset(data), SETTINGS, tmp_path), two_workers.extract)
    assert (progress.extracted, progress.already_done, progress.failures) == (7, 0, ())
    assert digests(tmp_path) == expected
    again = extract(Extraction(open_dataset(data), SETTINGS, tmp_path), two_workers.extract)
    assert (again.extracted, again.already_done) == (0, 7)
    assert digests(tmp_path) == expected


def test_two_workers_make_the_folders_of_one_process(
    two_workers: Cluster, data: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, layout=FOLDERS)
    for name, engine in (("one", one_after_another), ("two", two_workers.extract)):
        extract(Extraction(open_dataset(data), settings, tmp_path / name), engine)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(digests(tmp_path / "one")) > 100


def test_two_workers_simulate_the_masks_of_one_process(
    two_workers: Cluster, data: Path, tmp_path: Path
) -> None:
    for name, engine in (("one", one_after_another), ("two", two_workers.extract)):
        source = open_dataset(data, simulated=True)
        extract(Extraction(source, SETTINGS, tmp_path / name), engine)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_a_killed_worker_changes_nothing(
    two_workers: Cluster, data: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    source, marker = open_dataset(data), tmp_path / "marker"
    deadly = DeadlyPredictions(source.predictions, frozenset({"image_03"}), marker)
    out = tmp_path / "out"
    progress = extract(
        Extraction(replace(source, predictions=deadly), SETTINGS, out), two_workers.extract
    )
    assert marker.exists()
    assert progress.failures == ()
    assert digests(out) == expected


def test_an_image_that_always_ends_its_process_is_left_out_of_its_shard(
    two_workers: Cluster, data: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    source = open_dataset(data)
    deadly = DeadlyPredictions(source.predictions, frozenset({"image_03"}))
    extraction = Extraction(replace(source, predictions=deadly), SETTINGS, tmp_path / "out")
    progress = extract(extraction, two_workers.extract)
    assert [(one.image, one.reason) for one in progress.failures] == [("image_03", DIED)]
    assert progress.extracted == 6
    report = json.loads(extraction.report.read_text())
    assert [failure["image"] for failure in report["failures"]] == ["image_03"]
    # its shard is that of a process that knows beforehand, the others are as ever
    known = Extraction(source, SETTINGS, tmp_path / "known")
    extract(known, lambda shards: (extract_shard(s, {"image_03": DIED}) for s in shards))
    assert digests(tmp_path / "out") == digests(tmp_path / "known")
    same = {name for name, digest in digests(tmp_path / "out").items() if digest == expected[name]}
    assert same == expected.keys() - {
        "manifest-train.json",
        "train-000001.tar",
        "train-000001.index.npy",
    }
    # a later run tries again, and with the image mended nothing is missing
    mended = extract(replace(extraction, source=source), two_workers.extract)
    assert (mended.extracted, mended.already_done, mended.failures) == (2, 5, ())
    assert digests(tmp_path / "out") == expected


@pytest.mark.slow
def test_logs_of_workers_name_image_and_shard(
    two_workers: Cluster, data: Path, tmp_path: Path
) -> None:
    source = open_dataset(data)
    deadly = DeadlyPredictions(source.predictions, frozenset({"image_03"}))
    settings = replace(SETTINGS, split="logged")  # no other test logs these names
    extract(
        Extraction(replace(source, predictions=deadly), settings, tmp_path), two_workers.extract
    )
    logged = worker_logs()
    assert "logged-000000, image image_00: reading" in logged
    assert "logged-000001, image image_03: reading" in logged  # also of who died of it
    assert f"logged-000001, image image_03: {DIED}" in logged
    assert "logged-000003: 1 images" in logged


def worker_logs() -> str:
    """What the processes of the Ray that this one has started have logged so far."""
    import ray

    folder = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    return "".join(path.read_text() for path in folder.glob("worker-*.err"))


# refinement


def refine(data: Path, out: Path, engine: object) -> BatchProgress:
    job = CityscapesJob(data / "pred", data / "images", out)
    return run_batch(job, engine, PATCHES, {"weights": "w"})


def test_two_workers_refine_as_one_process_does(
    two_workers: Cluster, data: Path, tmp_path: Path, random_weights: Path
) -> None:
    load = partial(load_runner, random_weights, "cpu", "torch", False, 32)
    here = refine(data, tmp_path / "one", InThisProcess(load()))
    engine = two_workers.refiner(load, INPUT_SIZE, "auto")
    there = refine(data, tmp_path / "two", engine)
    assert here.done == there.done == 7
    assert here.counted == there.counted
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert digests(tmp_path / "one") != digests(data / "pred")
    again = refine(data, tmp_path / "two", engine)
    assert (again.done, again.already_done) == (0, 7)
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two")]
    for report in reports:
        del report["elapsed_s"], report["images"]
    assert reports[0] == reports[1]


def write_results(data: Path) -> Path:
    """The predictions of a dataset as COCO results, images and entries mixed."""
    records = []
    for path in sorted((data / "pred").glob("*_pred.txt"), reverse=True):
        for line in path.read_text().splitlines():
            name, label, score = line.split()
            mask = Mask.from_array(np.asarray(Image.open(path.parent / name)) != 0)
            record = {"image_id": path.name.removesuffix("_pred.txt"), "category_id": int(label)}
            records.append({**record, "segmentation": rle.encode(mask), "score": float(score)})
    results = data / "results.json"
    results.write_text(json.dumps(records[::2] + records[1::2]))
    return results


@pytest.mark.slow
def test_two_workers_refine_coco_results_as_one_process_does(
    two_workers: Cluster, tmp_path: Path, random_weights: Path
) -> None:
    data = write_dataset(tmp_path / "data", 5)
    results = write_results(data)
    (data / "images/image_02.png").write_bytes(b"no image")
    load = partial(load_runner, random_weights, "cpu", "torch", False, 32)
    failures = []
    for name, engine in (
        ("one", InThisProcess(load())),
        ("two", two_workers.refiner(load, INPUT_SIZE, "auto")),
    ):
        (tmp_path / name).mkdir()
        job = CocoJob(results, data / "images", None, tmp_path / name / "refined.json")
        progress = run_batch(job, engine, PATCHES, {})
        assert (progress.done, len(progress.failures)) == (4, 1)
        failures.append(progress.failures)
    assert failures[0] == failures[1]
    one, two = ((tmp_path / name / "refined.json").read_bytes() for name in ("one", "two"))
    assert one == two
    before = {(r["image_id"], r["score"]): r for r in json.loads(results.read_text())}
    refined = json.loads(one)
    assert len(refined) == 8
    assert any(
        r["segmentation"] != before[r["image_id"], r["score"]]["segmentation"] for r in refined
    )


@pytest.mark.slow
def test_logs_of_workers_that_refine_name_the_image(two_workers: Cluster, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 9)  # no other test has the last two
    (data / "pred/image_08_1.png").unlink()
    load = partial(HostRunner, KeepCoarse(INPUT_SIZE))
    refine(data, tmp_path / "out", two_workers.refiner(load, INPUT_SIZE, "cpu"))
    logged = worker_logs()
    for step in ("reading", "predicting", "writing"):
        assert f"image image_07_pred.txt: {step}" in logged
    assert re.search(r"image image_08_pred\.txt: .*image_08_1\.png", logged)


def test_images_that_cannot_be_read_fail_on_a_cluster_as_they_do_here(
    two_workers: Cluster, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", 5)
    (data / "images/image_01.png").write_bytes(b"no image")
    (data / "pred/image_02_1.png").unlink()
    (data / "pred/image_04_pred.txt").write_bytes(b"")
    failures = []
    for name, engine in (
        ("one", InThisProcess(HostRunner(KeepCoarse(INPUT_SIZE), 32))),
        (
            "two",
            two_workers.refiner(partial(HostRunner, KeepCoarse(INPUT_SIZE)), INPUT_SIZE, "cpu"),
        ),
    ):
        failures.append(refine(data, tmp_path / name, engine).failures)
    assert [failure.image for failure in failures[0]] == [
        f"image_{number}_pred.txt" for number in ("01", "04")
    ]
    assert failures[0] == failures[1]
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert (tmp_path / "two/image_04_pred.txt").read_bytes() == b""


def test_a_killed_actor_changes_nothing(two_workers: Cluster, data: Path, tmp_path: Path) -> None:
    refine(data, tmp_path / "one", InThisProcess(HostRunner(KeepCoarse(INPUT_SIZE), 32)))
    marker = tmp_path / "marker"
    load = partial(HostRunner, DeadlyNetwork(INPUT_SIZE, None, marker))
    progress = refine(data, tmp_path / "two", two_workers.refiner(load, INPUT_SIZE, "cpu"))
    assert marker.exists()
    assert progress.failures == ()
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_an_image_that_always_ends_the_network_fails_alone(
    two_workers: Cluster, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", 5)
    Image.new("RGB", (128, 96), (1, 2, 3)).save(data / "images/image_02.png")
    load = partial(HostRunner, DeadlyNetwork(INPUT_SIZE, (1, 2, 3)))
    progress = refine(data, tmp_path / "out", two_workers.refiner(load, INPUT_SIZE, "cpu"))
    assert [(one.image, one.reason) for one in progress.failures] == [("image_02_pred.txt", DIED)]
    assert progress.done == 4
    assert len(list((tmp_path / "out").glob("*_pred.txt"))) == 4


def test_weights_that_are_not_there_are_the_user_s_error(
    two_workers: Cluster, tmp_path: Path
) -> None:
    load = partial(read_header, tmp_path / "missing.safetensors")  # fails as quickly as can be
    with pytest.raises(ValueError, match=r"missing\.safetensors"):
        two_workers.refiner(load, INPUT_SIZE, "cpu")


def test_gpus_that_are_not_there_are_the_user_s_error(two_workers: Cluster) -> None:
    if two_workers.num_gpus:
        pytest.skip("there are GPUs")
    with pytest.raises(ValueError, match="--device cuda: expected a cluster with GPUs, found none"):
        two_workers.refiner(partial(HostRunner, KeepCoarse(INPUT_SIZE)), INPUT_SIZE, "cuda")
