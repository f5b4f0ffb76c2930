"""Inputs and outputs in an object store: a real S3 server on the loopback interface."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bpr.scripts.main import main
from tests.datasets import digests, write_dataset

pytest.importorskip("moto.server", reason="needs moto[server]")
pytest.importorskip("s3fs", reason="needs s3fs (pip install 'bpr-refine[stores]')")
# aiobotocore leaves connections to the garbage collector; moto and botocore use old calls
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

BUCKET = "s3://bucket"


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    """The file system of a server with one bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        store = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        store.mkdir("bucket")
        yield store
    server.stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, store: Any) -> Path:
    """A dataset on disk, and the same in the bucket."""
    root = write_dataset(tmp_path_factory.mktemp("data"), 4)
    for name in ("images", "pred", "gt"):
        store.put(f"{root / name}/", f"bucket/{name}/", recursive=True)
    return root


def fetched(store: Any, prefix: str, to: Path) -> Path:
    for name in store.find(f"bucket/{prefix}"):
        path = to / name.removeprefix("bucket/")
        path.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(name, str(path))
    return to / prefix


def extract(data: str, out: str, *options: str) -> int:
    return main(
        ["extract", f"{data}/pred", "--images", f"{data}/images", "--ground-truth", f"{data}/gt",
         "--out", out, "--images-per-shard", "2", *options]
    )  # fmt: skip


@pytest.mark.parametrize("layout", ["shards", "folders"])
def test_a_dataset_in_a_bucket_is_that_on_a_disk(
    data: Path, store: Any, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(str(data), str(tmp_path / "here"), "--layout", layout) == 0
    assert extract(BUCKET, f"{BUCKET}/{layout}", "--layout", layout) == 0
    there = fetched(store, layout, tmp_path)
    assert digests(there) == digests(tmp_path / "here")
    assert len(digests(there)) >= 5
    capsys.readouterr()
    assert extract(BUCKET, f"{BUCKET}/{layout}", "--layout", layout) == 0
    assert "0 of 4 images extracted (0 patches), 4 already done" in capsys.readouterr().out


def test_a_damaged_shard_in_a_bucket_is_made_again(data: Path, store: Any, tmp_path: Path) -> None:
    assert extract(BUCKET, f"{BUCKET}/damaged") == 0
    before = digests(fetched(store, "damaged", tmp_path / "before"))
    store.pipe_file("bucket/damaged/train-000001.tar", b"torn")
    assert extract(BUCKET, f"{BUCKET}/damaged") == 0
    assert digests(fetched(store, "damaged", tmp_path / "after")) == before


def test_two_workers_write_to_a_bucket(data: Path, store: Any, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs ray (pip install 'bpr-refine[ray]')")
    assert extract(str(data), str(tmp_path / "here")) == 0
    assert extract(BUCKET, f"{BUCKET}/two", "--workers", "2") == 0
    assert digests(fetched(store, "two", tmp_path)) == digests(tmp_path / "here")


@pytest.fixture
def refine(random_weights: Path) -> Callable[..., int]:
    def refine(data: str, out: str, *options: str) -> int:
        weights = ["--weights", str(random_weights), "--backend", "torch", "--device", "cpu"]
        return main(
            [
                "refine",
                f"{data}/pred",
                "--images",
                f"{data}/images",
                "--out",
                out,
                *weights,
                *options,
            ]
        )

    return refine


def test_predictions_in_a_bucket_are_refined_as_on_a_disk(
    data: Path,
    store: Any,
    tmp_path: Path,
    refine: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refine(str(data), str(tmp_path / "here")) == 0
    assert refine(BUCKET, f"{BUCKET}/refined") == 0
    assert digests(fetched(store, "refined", tmp_path)) == digests(tmp_path / "here")
    capsys.readouterr()
    assert refine(BUCKET, f"{BUCKET}/refined") == 0  # the journal is in the bucket too
    assert "0 of 4 images refined (0 patches), 4 already done" in capsys.readouterr().out
    report = json.loads(store.cat("bucket/refined/report.json"))
    here = json.loads((tmp_path / "here/report.json").read_bytes())
    assert report["changed_pixels"] == here["changed_pixels"] > 0
    assert refine(BUCKET, f"{BUCKET}/refined", "--nms-iou", "0.3") == 2
    assert "another set-up" in capsys.readouterr().err
    assert refine(BUCKET, f"{BUCKET}/refined", "--nms-iou", "0.3", "--overwrite") == 0


def test_what_is_not_in_the_bucket_is_said(
    data: Path, store: Any, capsys: pytest.CaptureFixture[str], refine: Callable[..., int]
) -> None:
    assert refine(f"{BUCKET}/nothing", f"{BUCKET}/out") == 2
    assert f"{BUCKET}/nothing/pred: expected predictions, found no file or folder" in (
        capsys.readouterr().err
    )


def test_a_store_that_cannot_be_reached_is_said_in_one_line(
    store: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        extract("nowhere://bucket", "out")
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "expected an object store that can be reached" in error
    assert "Traceback" not in error
