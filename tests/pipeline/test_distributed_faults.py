"""What a long run on real machines meets: nodes and drivers that die, disks and memory that end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bpr.pipeline.batch.cityscapes_job import CityscapesJob
from bpr.pipeline.batch.engine import InThisProcess
from bpr.pipeline.batch.run_batch import run_batch
from bpr.pipeline.extraction.extract import Extraction, extract
from bpr.pipeline.extraction.settings import ExtractionSettings
from bpr.pipeline.host import HostRunner
from bpr.pipeline.predictor import KeepCoarse
from bpr.pipeline.settings import PatchSettings
from bpr.scripts.main import main
from tests.datasets import digests, open_dataset, write_dataset
from tests.networks import INPUT_SIZE

pytest.importorskip("ray", reason="needs ray (pip install 'bpr-refine[ray]')")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

from ray.cluster_utils import Cluster as Nodes  # noqa: E402

from bpr.pipeline.distributed import open_cluster  # noqa: E402

ROOT = Path(__file__).parents[2]
PATCHES = PatchSettings(patch_size=INPUT_SIZE, nms_iou=0.25)
SETTINGS = ExtractionSettings(patches=PATCHES, images_per_shard=1)
STORE = 80_000_000  # bytes: the least that Ray starts with
NUM_IMAGES = 16
# a dead node is noticed within about two seconds instead of twenty; one that is slow because the
# machine is busy is not taken for dead
QUICK_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 10_000,
    "health_check_failure_threshold": 4,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images large enough for a run to be caught in its middle."""
    return write_dataset(tmp_path_factory.mktemp("data"), NUM_IMAGES, (900, 1200), 4)


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("expected")
    assert extract(Extraction(open_dataset(data), SETTINGS, out)).extracted == NUM_IMAGES
    return digests(out)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Three nodes of one core and a small object store each."""
    size = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Nodes(initialize_head=True, head_node_args={**size, "_system_config": QUICK_CHECKS})
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=STORE)
    yield cluster
    cluster.shutdown()


def notes(out: Path) -> int:
    """Finished shards."""
    return len(list((out / ".bpr/train").glob("train-*.json")))


def when(is_so: Callable[[], bool], act: Callable[[], Any]) -> threading.Thread:
    """Act as soon as something is so, beside what the test does."""

    def wait() -> None:
        while not is_so():
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_killed_node_changes_nothing(
    nodes: Nodes, data: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    victim = nodes.list_all_nodes()[-1]
    at_that_time = []

    def kill() -> None:
        at_that_time.append(notes(tmp_path / "patches"))
        nodes.remove_node(victim, allow_graceful=False)

    with open_cluster(None, nodes.address) as cluster:
        assert cluster.num_cpus == 3
        killer = when(lambda: notes(tmp_path / "patches") >= 2, kill)
        extraction = Extraction(open_dataset(data), SETTINGS, tmp_path / "patches")
        progress = extract(extraction, cluster.extract)
        killer.join(30)
        assert at_that_time[0] < NUM_IMAGES
        assert (progress.extracted, progress.failures) == (NUM_IMAGES, ())
        assert digests(tmp_path / "patches") == expected

        # the same for a refinement, in object stores that do not hold all of it at a time
        job = CityscapesJob(data / "pred", data / "images", tmp_path / "one")
        run_batch(job, InThisProcess(HostRunner(KeepCoarse(128), 32)), PATCHES, {})
        nodes.add_node(num_cpus=1, object_store_memory=STORE)
        engine = cluster.refiner(partial(HostRunner, KeepCoarse(128)), 128, "cpu")
        other = nodes.list_all_nodes()[-1]
        journal = tmp_path / "two/.bpr/journal.jsonl"
        killer = when(
            lambda: journal.exists() and journal.read_bytes().count(b"\n") > 2,
            lambda: nodes.remove_node(other, allow_graceful=False),
        )
        job = CityscapesJob(data / "pred", data / "images", tmp_path / "two")
        refined = run_batch(job, engine, PATCHES, {})
        killer.join(30)
        assert (refined.done, refined.failures) == (NUM_IMAGES, ())
        assert digests(tmp_path / "one") == digests(tmp_path / "two")


def command(data: Path, out: Path) -> list[str]:
    return [
        "extract", str(data / "pred"), "--images", str(data / "images"),
        "--ground-truth", str(data / "gt"), "--out", str(out), "--images-per-shard", "1",
        "--patch-size", str(INPUT_SIZE),
    ]  # fmt: skip


def test_a_killed_driver_is_continued(data: Path, expected: dict[str, str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bpr", *command(data, tmp_path), "--workers", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 200
    while notes(tmp_path) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert 0 < notes(tmp_path) < NUM_IMAGES
    assert not (tmp_path / "manifest-train.json").exists()
    before = notes(tmp_path)
    progress = extract(Extraction(*_as_by_command(data), tmp_path, _inputs(data)))
    assert progress.already_done >= before
    assert progress.finished == NUM_IMAGES
    assert digests(tmp_path) == expected
    assert list(tmp_path.rglob("*.partial")) == []


@pytest.mark.slow
def test_a_killed_driver_of_a_refinement_is_continued(
    data: Path, tmp_path: Path, random_weights: Path
) -> None:
    journal = tmp_path / "two/.bpr/journal.jsonl"

    def done() -> int:
        return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0  # a header

    def refine(out: str, *options: str) -> list[str]:
        return [
            "refine", str(data / "pred"), "--images", str(data / "images"),
            "--out", str(tmp_path / out), "--weights", str(random_weights),
            "--device", "cpu", "--backend", "torch", *options,
        ]  # fmt: skip

    process = subprocess.Popen(
        [sys.executable, "-m", "bpr", *refine("two", "--workers", "2")],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    while done() < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[1]
    assert 0 < done() < NUM_IMAGES, said
    assert not (tmp_path / "two/report.json").exists()
    before = done()
    assert main(refine("two", "--workers", "2")) == 0
    counts = json.loads((tmp_path / "two/report.json").read_text())["images"]
    assert counts["already_done"] == before
    assert counts["refined"] == NUM_IMAGES - before
    assert main(refine("one")) == 0
    assert digests(tmp_path / "two") == digests(tmp_path / "one")
    assert list(tmp_path.rglob("*.partial")) == []


def _as_by_command(data: Path) -> tuple[Any, ExtractionSettings]:
    return open_dataset(data), SETTINGS


def _inputs(data: Path) -> dict[str, str]:
    names = {"predictions": "pred", "ground_truth": "gt", "images": "images"}
    return {name: str((data / folder).resolve()) for name, folder in names.items()}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=300k", "tmpfs", path], check=False)
    if done.returncode:
        pytest.skip("this machine lets nobody mount file systems")
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_full_disk_loses_nothing_that_is_done(
    data: Path,
    expected: dict[str, str],
    small_disk: Path,
    workers: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = small_disk / "patches"
    assert main([*command(data, out), "--workers", workers]) == 1
    said = capfd.readouterr().err
    assert "No space left on device" in said
    assert f"cannot use {out}" in said
    assert "Run the same command again to resume" in said
    assert "Traceback" not in said
    assert list(out.rglob("*.partial")) == []
    whole = digests(out)
    assert whole.items() <= expected.items()
    assert whole
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    assert main([*command(data, out), "--workers", "0"]) == 0
    assert digests(out) == expected


def test_without_workers_ray_is_not_imported(data: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from bpr.scripts.main import main; code = main(sys.argv[1:]); "
        "sys.exit(code or 'ray' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command(data, tmp_path / "patches")], cwd=ROOT, check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "-1"], "--workers: expected an int >= 0, got -1"),
        (["--workers", "2", "--ray-address", "auto"], "expected one of them"),
        (["--ray-address", "127.0.0.1:1"], "--ray-address 127.0.0.1:1: expected a running Ray"),
    ],
)
def test_a_wrong_cluster_is_said_in_one_line(
    data: Path, tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(data, tmp_path / "patches"), *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
