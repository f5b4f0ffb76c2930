"""`bpr extract` as users run it, and training on what it wrote."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bpr.scripts.main import main
from tests.datasets import digests, write_dataset


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", 5)


def extract(data: Path, out: Path, *options: str, simulated: bool = False) -> int:
    pred = [] if simulated else [str(data / "pred")]
    return main(
        ["extract", *pred, "--images", str(data / "images"), "--ground-truth", str(data / "gt"),
         "--out", str(out), "--images-per-shard", "2", "--patch-size", "32", *options]
    )  # fmt: skip


def manifest(out: Path) -> dict:
    return json.loads((out / "manifest-train.json").read_bytes())


def test_tars_are_what_webdataset_wants_and_tell_nothing_of_the_run(
    data: Path, tmp_path: Path
) -> None:
    assert extract(data, tmp_path / "out") == 0
    total = 0
    for shard in manifest(tmp_path / "out")["shards"]:
        tar = tmp_path / f"out/train-{shard['shard']:06d}.tar"
        with tarfile.open(tar) as file:
            members = file.getmembers()
        keys = [member.name.split(".", 1) for member in members]
        endings = ["image.png", "coarse.png", "gt.png", "json"]
        for position in range(0, len(keys), 4):  # the files of a sample stand together
            assert len({key for key, _ in keys[position : position + 4]}) == 1
            assert [ending for _, ending in keys[position : position + 4]] == endings
        assert [key for key, _ in keys] == sorted(key for key, _ in keys)
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
        assert len(members) == 4 * shard["patches"]
        total += shard["patches"]
    assert total == manifest(tmp_path / "out")["patches"] > 0


def test_the_manifest_has_the_digest_of_every_file(data: Path, tmp_path: Path) -> None:
    assert extract(data, tmp_path / "out") == 0
    listed = {
        name: digest
        for shard in manifest(tmp_path / "out")["shards"]
        for name, digest in shard["files"].items()
    }
    found = digests(tmp_path / "out")
    del found["manifest-train.json"]
    assert listed == found


def test_a_rerun_makes_damaged_and_missing_files_again(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert extract(data, out) == 0
    before = digests(out)
    (out / "train-000000.tar").write_bytes(b"torn")
    (out / "train-000002.index.npy").unlink()
    assert extract(data, out) == 0
    report = json.loads((out / "report-train.json").read_bytes())
    assert report["image_counts"] == {
        "total": 5,
        "extracted": 3,
        "already_done": 2,
        "failed": 0,
    }
    assert digests(out) == before


def test_a_changed_mask_makes_its_shard_again(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert extract(data, out) == 0
    before = digests(out)
    mask = data / "pred/image_00_0.png"
    Image.fromarray(np.roll(np.asarray(Image.open(mask)), 3, axis=0)).save(mask)
    assert extract(data, out) == 0
    changed = {name for name, digest in digests(out).items() if digest != before[name]}
    assert "train-000000.tar" in changed
    assert not any("000001" in name or "000002" in name for name in changed)


def test_images_that_cannot_be_read_are_listed_and_the_others_are_done(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "images/image_01.png").write_bytes(b"no image")
    (data / "pred/image_03_0.png").unlink()
    (data / "gt/image_04.png").unlink()
    assert extract(data, tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "2 of 5 images extracted" in said.out
    assert "3 failed" in said.out
    assert "failed: image_01: " in said.err
    assert "image_03_0.png: expected an image, found no file" in said.err
    assert "failed: image_04: expected ground truth for its predictions, found none" in said.err
    assert manifest(tmp_path / "out")["images"] == 2


def test_only_the_training_split_leaves_bad_predictions_out(data: Path, tmp_path: Path) -> None:
    far = np.zeros((96, 128), np.uint8)
    far[:20, :20] = 255
    Image.fromarray(far).save(data / "pred/image_00_0.png")
    assert extract(data, tmp_path / "out") == 0
    assert extract(data, tmp_path / "out", "--split", "val") == 0
    val = json.loads((tmp_path / "out/manifest-val.json").read_bytes())
    train = manifest(tmp_path / "out")
    assert train["settings"]["min_iou"] == 0.5
    assert val["settings"]["min_iou"] is None
    assert val["instances"] > train["instances"]


def test_simulated_masks_depend_on_the_seed_alone(data: Path, tmp_path: Path) -> None:
    for name, seed in (("one", "0"), ("two", "0"), ("three", "1")):
        assert extract(data, tmp_path / name, "--seed", seed, simulated=True) == 0
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert digests(tmp_path / "one") != digests(tmp_path / "three")
    assert manifest(tmp_path / "one")["coarse_masks"] == "simulated"


def test_another_set_up_is_refused_and_overwrite_leaves_nothing_old(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert extract(data, out) == 0
    before = digests(out)
    assert extract(data, out, "--images-per-shard", "5") == 2
    assert "belongs to a run with another set-up (settings was" in capsys.readouterr().err
    assert digests(out) == before
    assert extract(data, out, "--images-per-shard", "5", "--overwrite") == 0
    assert list(digests(out)) == [
        "manifest-train.json",
        "train-000000.index.npy",
        "train-000000.tar",
    ]


def test_somebody_else_s_files_are_not_written_over(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/train-000000.tar").write_bytes(b"mine")
    assert extract(data, tmp_path / "out") == 2
    assert "exists, but not from a run that can be continued" in capsys.readouterr().err
    assert (tmp_path / "out/train-000000.tar").read_bytes() == b"mine"


def test_what_nobody_knows_is_255_in_shards(data: Path, tmp_path: Path) -> None:
    labels = np.asarray(Image.open(data / "gt/image_00.png")).copy()
    labels[:48] = np.where(labels[:48] == 0, 255, labels[:48])
    Image.fromarray(labels).save(data / "gt/image_00.png")
    assert extract(data, tmp_path / "out") == 0
    values = set()
    with tarfile.open(tmp_path / "out/train-000000.tar") as file:
        for member in file.getmembers():
            if member.name.endswith(".gt.png") and member.name.startswith("00000000_"):
                values |= set(np.unique(np.asarray(Image.open(file.extractfile(member)))).tolist())
    assert values == {0, 1, 255}


@pytest.mark.parametrize("layout", ["shards", "folders"])
def test_the_network_is_trained_on_both_layouts(
    data: Path, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(data, tmp_path / "patches", "--layout", layout) == 0
    command = [
        *("train-refiner", "--patches", str(tmp_path / "patches"), "--out", str(tmp_path / "run")),
        *("--steps", "2", "--batch-size", "4", "--input-size", "32", "--threads", "1"),
        *("--device", "cpu"),
    ]
    assert main(command) == 0
    assert "patches; step 0 of 2" in capsys.readouterr().out
    assert (tmp_path / "run/hrnet18s.safetensors").is_file()


def test_training_wants_one_source(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-refiner", "--images", str(data / "images"), "--out", "run"]) == 2
    assert "expected --images with --ground-truth, or" in capsys.readouterr().err
