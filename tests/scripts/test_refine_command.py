"""`bpr refine` as users run it: whole processes, real files, damaged ones among them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from bpr.pipeline.formats import rle
from bpr.pipeline.formats.images import read_mask
from bpr.pipeline.instance import Mask
from bpr.scripts.main import main
from tests.networks import INPUT_SIZE, save_random_network
from tests.systems import needs_signals

ROOT = Path(__file__).parents[2]
SIZE = (60, 80)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_random_network(tmp_path_factory.mktemp("weights") / "random.safetensors")


def options(weights):
    return ["--weights", str(weights), "--backend", "torch", "--device", "cpu"]


@pytest.fixture
def start(weights):
    """Starts a process `bpr refine` with the given arguments; that alone takes seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}

    def start(*arguments):
        command = [sys.executable, "-m", "bpr", "refine", *map(str, arguments)]
        # a shell that runs the tests in its background passes on that SIGINT is ignored
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen(
                command + options(weights),
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)

    return start


@pytest.fixture
def bpr(weights, capsys):
    """Runs `bpr refine` with the given arguments in this process."""

    def run(*arguments):
        code = main(["refine", *map(str, arguments), *options(weights)])
        return Done(code, *capsys.readouterr())

    return run


class Done:
    """What a run left behind."""

    def __init__(self, code, stdout, stderr):
        self.code, self.stdout, self.stderr = code, stdout, stderr
        assert "Traceback" not in stderr
        assert "Warning" not in stderr
        self.failed = [line for line in stderr.splitlines() if line.startswith("failed: ")]

    @classmethod
    def wait(cls, process):
        stdout, stderr = process.communicate(timeout=200)
        return cls(process.returncode, stdout, stderr)

    @property
    def counts(self):
        """(refined, total, already done, failed) as the last line tells them."""
        found = re.search(
            r"^(\d+) of (\d+) images refined \(\d+ patches\), (\d+) already done, (\d+) failed",
            self.stdout,
            re.MULTILINE,
        )
        assert found is not None, self.stdout + self.stderr
        return tuple(map(int, found.groups()))


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def disc(seed=0, size=SIZE):
    random = np.random.default_rng(seed)
    canvas = np.zeros(size, np.uint8)
    centre = (int(random.integers(15, size[1] - 15)), int(random.integers(15, size[0] - 15)))
    cv2.circle(canvas, centre, int(random.integers(6, 20)), 255, -1)
    return canvas


def noise(seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def add_prediction(folder, stem, num_masks=2, size=SIZE):
    """`<stem>_pred.txt` and its masks."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(num_masks):
        Image.fromarray(disc(index, size)).save(folder / f"{stem}_{index}.png")
        lines.append(f"{stem}_{index}.png {24 + index} 0.{index}10\n")
    (folder / f"{stem}_pred.txt").write_text("".join(lines))


def add_image(folder, stem, size=SIZE):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(0, size)).save(folder / f"{stem}.png")


def content(folder):
    """Every file below a folder but the journal and reports."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".bpr" not in path.parts and not path.name.endswith("report.json")
    }


def assert_whole(out, folder):
    """Every PNG decodes; every txt is that of the input and has all its PNGs."""
    for name, data in content(out).items():
        if name.endswith(".txt"):
            assert data == (folder / name).read_bytes()
            for line in data.decode().splitlines():
                assert ((out / name).parent / line.split()[0]).is_file()
        else:
            assert name.endswith(".png")
            assert read_mask(out / name).shape == read_mask(folder / name).shape


# a folder in which everything is wrong that can be


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_size(path):
    Image.fromarray(disc(0, (40, 90))).save(path)


def change_line(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


class At(NamedTuple):
    pred: Path
    images: Path


DAMAGES = {
    # stem: what is done to the folders of predictions and images, and what must be said of it
    "bad_cut": (
        lambda at: cut(at.pred / "bad_cut_1.png"),
        r"bad_cut_1\.png: expected a readable image, got: .*truncated",
    ),
    "bad_size": (
        lambda at: other_size(at.pred / "bad_size_0.png"),
        r"bad_size_0\.png: expected a mask of the size of its image, 80 x 60 pixels, got 90 x 40",
    ),
    "bad_mask_gone": (
        lambda at: (at.pred / "bad_mask_gone_0.png").unlink(),
        r"bad_mask_gone_0\.png: expected an image, found no file",
    ),
    "bad_mask_void": (
        lambda at: (at.pred / "bad_mask_void_0.png").write_bytes(b""),
        r"bad_mask_void_0\.png: expected an image",
    ),
    "bad_leaves": (
        lambda at: change_line(at.pred / "bad_leaves_pred.txt", "bad_", "../images/bad_"),
        r"bad_leaves_pred\.txt, line 1: expected a file inside .*, got '\.\./images/bad_leaves_0",
    ),
    "bad_score": (
        lambda at: change_line(at.pred / "bad_score_pred.txt", "0.110", "high"),
        r"bad_score_pred\.txt, line 2: expected a score \(a number\), got 'high'",
    ),
    "bad_no_image": (
        lambda at: (at.images / "bad_no_image.png").unlink(),
        r"expected an image bad_no_image\.\* or bad_no_image_leftImg8bit\.\*",
    ),
    "bad_twice": (
        lambda at: Image.fromarray(noise()).save(at.images / "bad_twice.jpg"),
        r"expected one image with the stem 'bad_twice', found 2: bad_twice\.jpg, bad_twice\.png",
    ),
    "bad_empty": (
        lambda at: (at.pred / "bad_empty_pred.txt").write_bytes(b""),
        r"bad_empty_pred\.txt: expected lines 'file label score', got an empty file",
    ),
    "bad_image": (
        lambda at: cut(at.images / "bad_image.png"),
        r"bad_image\.png: expected a readable image, got: .*truncated",
    ),
}

NOTES = {
    "odd_alpha": "alpha channel dropped",
    "odd_cmyk": "CMYK converted to RGB without a colour profile",
    "odd_deep": "16 bits per channel: the upper 8 are used",
    "odd_stored": "EXIF orientation 6 ignored: the masks fit the stored pixels",
    "odd_turned": "EXIF orientation 6 applied",
}


def add_odd_images(pred, images):
    for stem in ("odd_alpha", "odd_cmyk", "odd_deep", "odd_grey", "odd_stored"):
        add_prediction(pred, stem)
    add_prediction(pred, "odd_turned", size=SIZE[::-1])
    Image.fromarray(np.dstack([noise(), disc()])).save(images / "odd_alpha.png")
    Image.fromarray(noise()).convert("CMYK").save(images / "odd_cmyk.jpg")
    cv2.imwrite(str(images / "odd_deep.png"), noise().astype(np.uint16) * 257)
    Image.fromarray(noise()[..., 0]).save(images / "odd_grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    for stem in ("odd_stored", "odd_turned"):
        Image.fromarray(noise()).save(images / f"{stem}.jpg", exif=exif)


def test_what_is_wrong_in_a_folder_is_said_and_the_rest_is_done(start, bpr, tmp_path):
    pred, images, out = tmp_path / "pred", tmp_path / "images", tmp_path / "out"
    for stem in [*DAMAGES, "good_a", "good_b"]:
        add_prediction(pred, stem)
        add_image(images, stem)
    shutil.copytree(pred, tmp_path / "repaired")
    shutil.copytree(images, tmp_path / "repaired_images")
    for damage, _ in DAMAGES.values():
        damage(At(pred, images))
    add_odd_images(pred, images)

    done = Done.wait(start(pred, "--images", images, "--out", out))
    assert done.code == 1
    assert done.counts == (13, 18, 0, 5)
    left = [line for line in done.stderr.splitlines() if line.startswith("left as it is: ")]
    assert (len(done.failed), len(left)) == (5, 5)
    for stem, (_, reason) in DAMAGES.items():
        (line,) = [line for line in (*done.failed, *left) if f" {stem}_pred.txt" in line]
        assert re.search(reason, line), line
    written = content(out)
    assert written.pop("bad_empty_pred.txt") == b""
    failed = ("bad_no_image", "bad_twice", "bad_empty", "bad_image", "bad_leaves")
    assert not any(name.startswith(failed) for name in written)
    assert written["bad_cut_1.png"] == (pred / "bad_cut_1.png").read_bytes()
    assert written["bad_cut_0.png"] != (pred / "bad_cut_0.png").read_bytes()
    expected = {name for name in content(pred) if not name.startswith(failed)}
    assert written.keys() == expected

    report = json.loads((out / "report.json").read_text())
    assert report["images"] == {"total": 18, "refined": 13, "already_done": 0, "failed": 5}
    assert [f"failed: {f['image']}: {f['reason']}" for f in report["failures"]] == done.failed
    noted = {note["image"].removesuffix("_pred.txt"): note["note"] for note in report["notes"]}
    assert {stem: note for stem, note in noted.items() if stem.startswith("odd")} == NOTES

    # repaired, a rerun does what is missing and nothing else
    (images / "bad_twice.jpg").unlink()
    for stem in DAMAGES:
        for source in (tmp_path / "repaired").glob(f"{stem}_*"):
            shutil.copy(source, pred)
        shutil.copy(tmp_path / f"repaired_images/{stem}.png", images)
    done = bpr(pred, "--images", images, "--out", out)
    assert (done.code, done.failed) == (0, [])
    assert done.counts == (10, 18, 8, 0)
    assert content(out).keys() == content(pred).keys()
    assert_whole(out, pred)
    good = {name: data for name, data in written.items() if not name.startswith("bad")}
    assert {name: content(out)[name] for name in good} == good
    report = json.loads((out / "report.json").read_text())
    assert report["images"] == {"total": 18, "refined": 10, "already_done": 8, "failed": 0}
    assert report["failures"] == []
    assert len(report["notes"]) == len(NOTES)


# the other two kinds of input


def test_a_coco_entry_that_lies_costs_only_itself(bpr, tmp_path):
    images, coarse, out = tmp_path / "images", tmp_path / "coarse.json", tmp_path / "out.json"
    records, names = [], []
    for number in (3, 1, 2):
        add_image(images, f"photo{number}")
        names.append({"id": number, "file_name": f"photo{number}.png"})
        records += [
            {
                "id": 10 * number + index,
                "image_id": number,
                "mine": {"text": "ä", "list": [1, None]},
                "segmentation": rle.encode(Mask.from_array(disc(index))),
                "score": index / 3,
                "area": 1,
            }
            for index in range(2)
        ]
    records.append({"image_id": 1, "segmentation": [[10, 10, 50, 10, 50, 40]], "bbox": [0] * 4})
    (tmp_path / "images.json").write_text(json.dumps({"images": names}))
    records[2]["segmentation"]["size"] = [120, 160]
    coarse.write_text(json.dumps(records))
    arguments = (coarse, "--images", images, "--images-json", tmp_path / "images.json")

    done = bpr(*arguments, "--out", out)
    assert done.code == 1
    assert done.counts == (3, 3, 0, 0)
    assert re.search(
        r"left as it is: 1, entry 2: segmentation: expected RLE size \[60, 80\], got \[120, 160\]",
        done.stderr,
    )
    first = json.loads(out.read_text())
    assert first[2] == records[2]
    assert first[3]["segmentation"] != records[3]["segmentation"]

    records[2]["segmentation"]["size"] = list(SIZE)
    coarse.write_text(json.dumps(records))
    done = bpr(*arguments, "--out", out)
    assert done.code == 0
    assert done.counts == (1, 3, 2, 0)
    second = json.loads(out.read_text())
    assert [n for n, (a, b) in enumerate(zip(first, second, strict=True)) if a != b] == [2]
    changed = 0
    for before, after in zip(records, second, strict=True):
        assert list(after) == list(before)
        for name in before:
            if name not in ("segmentation", "area", "bbox"):
                assert after[name] == before[name]
        mask = rle.decode(after["segmentation"], SIZE)
        changed += np.count_nonzero(
            mask.to_array() != rle.decode(before["segmentation"], SIZE).to_array()
        )
        if "area" in after:
            assert after["area"] == mask.area
    assert changed > 100
    assert (tmp_path / "out.report.json").exists()


def test_one_image_with_masks_gives_one_png_for_each(bpr, tmp_path):
    folder = tmp_path / "ein Ördner mit Löchern"  # names that shells and codecs stumble over
    add_image(folder, "photo")
    names = ["first mask.png", "zweite.bmp", "第三.png"]
    for index, name in enumerate(names):
        Image.fromarray(disc(index)).save(folder / name)
    out = folder / "out"
    done = bpr(folder / "photo.png", "--masks", *(folder / n for n in names), "--out", out)
    assert done.code == 0
    assert done.counts == (1, 1, 0, 0)
    assert sorted(content(out)) == sorted(["first mask.png", "zweite.png", "第三.png"])
    for name in names:
        refined = read_mask(out / Path(name).with_suffix(".png").name)
        assert refined.shape == SIZE
        assert (refined != read_mask(folder / name)).any()


# runs that end early


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder of 30 small images that take a few seconds of real work."""
    root = tmp_path_factory.mktemp("many")
    for index in range(30):
        folder = root / "pred" / ("city" if index % 3 else "")
        add_prediction(folder, f"{index:02}", num_masks=3)
        add_image(root / "images", f"{index:02}")
    return root


def arguments_of(many, out):
    return (many / "pred", "--images", many / "images", "--out", out, "--nms-iou", "0.75")


@pytest.fixture(scope="module")
def uninterrupted(many, weights, tmp_path_factory):
    """What a run over `many` writes when nothing happens to it."""
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    assert main(["refine", *map(str, arguments_of(many, out)), *options(weights)]) == 0
    return content(out)


def end_after(process, num_images, out, how):
    """Send a signal once so many images are done; the process must still have work to do."""
    deadline = time.monotonic() + 120
    while len(list(out.rglob("*_pred.txt"))) < num_images:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(how)


@needs_signals
def test_killed_and_interrupted_runs_leave_whole_files_and_are_completed(
    start, bpr, many, uninterrupted, tmp_path
):
    out = tmp_path / "out"
    process = start(*arguments_of(many, out))
    end_after(process, 3, out, signal.SIGKILL)
    assert Done.wait(process).code == -signal.SIGKILL
    assert_whole(out, many / "pred")
    killed = content(out)
    assert 0 < len(killed) < len(uninterrupted)

    process = start(*arguments_of(many, out))
    end_after(process, 12, out, signal.SIGINT)
    interrupted = Done.wait(process)
    assert interrupted.code == 130
    assert interrupted.stderr.endswith(
        "bpr refine: interrupted. Finished work is kept. Run the same command again to resume.\n"
    )
    assert_whole(out, many / "pred")
    assert len(killed) < len(content(out)) < len(uninterrupted)
    assert not list((out / ".bpr").glob("*.partial"))

    completed = bpr(*arguments_of(many, out))
    assert completed.code == 0
    refined, total, already_done, failed = completed.counts
    assert (total, failed) == (30, 0)
    assert already_done >= 6  # of 12: those on their way to the journal are done again
    assert refined + already_done == 30
    assert content(out) == uninterrupted


def test_a_run_on_a_full_disk_says_so_and_is_completed_when_there_is_room(
    bpr, many, uninterrupted, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        out = disk / "out"
        done = bpr(*arguments_of(many, out))
        assert done.code == 1
        assert re.search(
            rf"^bpr refine: cannot use {out}\S+: No space left on device\.$",
            done.stderr,
            re.MULTILINE,
        )
        assert_whole(out, many / "pred")
        assert 0 < len(content(out)) < len(uninterrupted)
        assert not list((out / ".bpr").glob("*.partial"))
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        done = bpr(*arguments_of(many, out))
        assert done.code == 0
        assert done.counts[2] > 0
        assert content(out) == uninterrupted
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# wrong commands: the function behind `bpr` itself, a process for each would take minutes


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A good folder in the current folder, and things that are none."""
    monkeypatch.chdir(tmp_path)
    add_prediction(tmp_path / "pred", "a")
    add_image(tmp_path / "images", "a")
    (tmp_path / "void").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "results.json").write_text("[]")
    add_prediction(tmp_path / "taken", "a")
    return tmp_path


WRONG = {
    "missing --images=images --out=out": "missing: expected predictions, found no file or folder",
    "pred --out=out": "--images: expected the folder of the images of pred, got none",
    "results.json --out=out": "--images: expected the folder of the images of results.json",
    "pred --images=missing --out=out": "missing: expected a folder of images, found none",
    "pred --images=void --out=out": "void: expected images (",
    "pred --images=file --out=out": "file: expected a folder of images, got a file",
    "void --images=images --out=out": "void: expected masks or label files (cityscapes, coco",
    "pred --images=images --out=pred": "pred: expected another folder than the input pred",
    "pred --images=images --out=./void/../pred": "expected another folder than the input pred",
    "pred --images=images --out=images": "images: expected another folder than the input images",
    "pred --images=images --out=file": "file: expected a folder for the results, got a file",
    "pred --images=images --out=taken": "a_pred.txt: exists, but not from a run that can be",
    "images/a.png --images=images --out=out": "for one image, name its masks with --masks",
    "other.json --images=images --out=o.json": "other.json: expected COCO results",
    "results.json --images=images --out=results.json": "expected another file than the results",
    "results.json --images=images --out=void": "void: expected a json file for COCO results",
    "pred --images=images --images-json=other.json --out=out": "--images-json: expected a COCO",
    "images/a.png --masks pred/a_0.png pred/a_0.png --out=out": "got a_0.png twice",
    "images/a.png --masks pred/a_0.png --out=pred": "expected another place than that of",
    "pred --masks pred/a_0.png --out=out": "expected the masks of one image, got the folder pred",
    "pred --images=images --out=": "argument --out: expected a path, got nothing",
    "pred --images= --out=out": "argument --images: expected a path, got nothing",
    "pred --images=images --out=out --patch-size=63": "expected an even int in 2..1024",
    "pred --images=images --out=out --patch-size=-64": "expected an even int in 2..1024",
    "pred --images=images --out=out --patch-size=big": "expected an even number or auto",
    "pred --images=images --out=out --patch-size=auto --compat": "expected a number with compat",
    "pred --images=images --out=out --nms-iou=0": "nms_iou: expected a number in (0, 1]",
    "pred --images=images --out=out --nms-iou=nan": "nms_iou: expected a number in (0, 1]",
    "pred --images=images --out=out --padding=-1": "padding: expected an int in 0..1024",
    "pred --images=images --out=out --batch-size=0": "batch_size: expected an int > 0",
    "pred --images=images --out=out --weights=nothing": "expected a file or one of the shipped",
    "pred --images=images --out=out --weights=a.pth": "a.pth: expected a file with weights",
    "pred --images=images --out=out --backend=tpu": "invalid choice: 'tpu'",
    "pred --images=images": "the following arguments are required: --out",
    "--images=images --out=out": "the following arguments are required: PRED",
    "pred --images=images --out=out --fast": "unrecognized arguments: --fast",
}


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_command_is_answered_by_a_sentence_and_2(small, weights, capsys, command):
    arguments = command.split()
    if "--weights" not in command and "--backend" not in command:
        arguments += options(weights)
    before = sorted(small.rglob("*"))
    try:
        code = main(["refine", *arguments])
    except SystemExit as error:  # argparse
        code = error.code
    said = capsys.readouterr().err
    assert code == 2
    assert WRONG[command] in said
    assert said.splitlines()[-1].startswith(("bpr refine: ", "bpr: error: "))
    assert sorted(small.rglob("*")) == before


@pytest.mark.parametrize("arguments", [[], ["refined"], ["--", "refine"]])
def test_bpr_without_a_known_command_says_what_there_is(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: bpr")


def test_a_run_with_other_settings_is_not_continued_unasked(small, weights, capsys):
    arguments = ["refine", "pred", "--images", "images", "--out", "out", *options(weights)]
    assert main(arguments) == 0
    before = content(small / "out")
    assert main([*arguments, "--patch-size", "64"]) == 2
    said = capsys.readouterr().err
    assert "settings was {'patch_size': 32" in said
    assert "choose another place or add --overwrite" in said
    assert content(small / "out") == before
    assert main([*arguments, "--patch-size", "64", "--overwrite"]) == 0
    assert content(small / "out") != before
    assert INPUT_SIZE == 32
