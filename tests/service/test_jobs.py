"""Jobs: the files that `bpr refine` writes, whatever happens to the service in the meantime."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

import bpr
from bpr.pipeline.formats.images import encode_mask, encode_png
from bpr.refiner.predictor import load_predictor
from bpr.service.client import JobFailed, ServiceError
from bpr.service.jobs.store import JobStore
from tests.service.conftest import Scene
from tests.service.services import ROOT, bpr_serve, connected, read_all, running, until
from tests.service.test_impatience import SLOW_HEAD
from tests.service.test_protection import problem

OWN_REPORTS = ("elapsed_s", "source", "images")  # how often it was begun, where and how fast


NETWORK = {"weights": "tiny", "backend": "openvino", "device": "cpu"}  # starts without PyTorch
FLAGS = [word for name, value in NETWORK.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def tiny():
    return load_predictor(**NETWORK)


@pytest.fixture(scope="module")
def jobs(tiny, tmp_path_factory):
    with running(tiny, jobs_folder=tmp_path_factory.mktemp("jobs"), **NETWORK) as service:
        yield service


@pytest.fixture(scope="module")
def narrow(tiny, tmp_path_factory):
    """A service that takes small archives alone, and its folder of jobs."""
    folder = tmp_path_factory.mktemp("outside") / "jobs"
    limits = {"max_job_unpacked_bytes": 2_000_000, "max_job_files": 30}
    with running(tiny, jobs_folder=folder, **limits, **NETWORK) as service:
        yield service, folder


def zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return buffer.getvalue()


def archive(**files: bytes | str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)
    return buffer.getvalue()


def write_cityscapes(folder: Path, num_images: int) -> None:
    """Images with three objects each, as a Cityscapes prediction folder."""
    for name in ("images", "predictions"):
        (folder / name).mkdir(parents=True)
    for number in range(num_images):
        scene, lines = Scene(number % 7), ""
        (folder / f"images/a{number:04}.png").write_bytes(encode_png(scene.image))
        for index, mask in enumerate(scene.masks):
            name = f"a{number:04}_{index}.png"
            (folder / "predictions" / name).write_bytes(encode_mask(mask))
            lines += f"{name} {24 + index} 0.9\n"
        (folder / f"predictions/a{number:04}_pred.txt").write_text(lines)


def write_coco(folder: Path, num_images: int) -> None:
    (folder / "images").mkdir(parents=True)
    records = []
    for number in range(num_images):
        scene = Scene(number)
        (folder / f"images/{number}.png").write_bytes(encode_png(scene.image))
        records += [{**record, "image_id": number} for record in scene.records]
    (folder / "results.json").write_text(json.dumps(records))


def refined_by_command(out: Path, *arguments: str) -> dict[str, bytes]:
    """What `bpr refine` writes, by relative path."""
    command = [sys.executable, "-m", "bpr", "refine", *arguments, "--out", str(out), "--quiet"]
    subprocess.run([*command, *FLAGS], cwd=ROOT, check=True)
    folder = out.parent if out.suffix else out
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def wait(service, job_id: str, seconds: float = 120.0) -> dict:
    end = time.monotonic() + seconds
    while True:
        job = service.client.get(f"/jobs/{job_id}").json()
        if job["status"] in ("done", "failed"):
            return job
        assert time.monotonic() < end, job
        time.sleep(0.1)


def result(service, job_id: str) -> dict[str, bytes]:
    answer = service.client.get(f"/jobs/{job_id}/result")
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as made:
        return {name: made.read(name) for name in made.namelist()}


def assert_same(found: dict[str, bytes], want: dict[str, bytes]) -> None:
    assert set(found) == set(want)
    for name, content in want.items():
        if name.endswith("report.json"):
            ours, theirs = json.loads(found[name]), json.loads(content)
            for key in OWN_REPORTS:
                ours.pop(key), theirs.pop(key)
            assert ours == theirs
        else:
            assert found[name] == content, name


def send(service, *parts, **more) -> dict:
    answer = service.client.post("/jobs", files=list(parts), **more)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"
    return answer.json()


def test_a_zip_gives_the_files_that_bpr_refine_writes(jobs, tmp_path):
    write_cityscapes(tmp_path / "in", 3)
    want = refined_by_command(
        tmp_path / "out", str(tmp_path / "in/predictions"), "--images",
        str(tmp_path / "in/images"),
    )  # fmt: skip
    sent = [("predictions", ("p.zip", zipped(tmp_path / "in/predictions"))),
            ("images", ("i.zip", zipped(tmp_path / "in/images")))]  # fmt: skip
    job = send(jobs, *sent)
    assert (job["status"], job["result"]) == ("queued", None)
    done = wait(jobs, job["id"])
    assert (done["status"], done["images"], done["images_done"]) == ("done", 3, 3)
    assert (done["images_failed"], done["ahead"], done["seconds_left"]) == (0, 0, None)
    assert done["result"] == f"/jobs/{job['id']}/result"
    assert_same(result(jobs, job["id"]), want)
    # both folders in one archive
    both = send(jobs, ("predictions", ("all.zip", zipped(tmp_path / "in"))))
    assert wait(jobs, both["id"])["status"] == "done"
    assert_same(result(jobs, both["id"]), want)


def test_a_coco_json_keeps_its_name_and_fields(jobs, tmp_path):
    write_coco(tmp_path / "in", 2)
    arguments = (str(tmp_path / "in/results.json"), "--images", str(tmp_path / "in/images"))
    want = refined_by_command(tmp_path / "out/results.json", *arguments)
    content = (tmp_path / "in/results.json").read_bytes()
    files = [("images", (p.name, p.read_bytes())) for p in (tmp_path / "in/images").iterdir()]
    job = send(jobs, ("predictions", ("results.json", content)), *files)
    assert wait(jobs, job["id"])["images_done"] == 2
    assert_same(result(jobs, job["id"]), want)


def test_one_image_may_have_more_instances_than_a_request(tiny, scene, tmp_path):
    settings = {"jobs_folder": tmp_path, "max_instances": 2, **NETWORK}
    with running(tiny, **settings) as service:
        assert service.refine(scene.mask_parts).status_code == 413
        by_masks = send(service, *scene.mask_parts)
        by_map = send(service, *scene.map_parts)
        records = [{k: v for k, v in record.items() if k != "image_id"} for record in scene.records]
        content = json.dumps(records).encode()
        by_json = send(service, scene.image_part, ("instances", ("found.json", content)))
        assert [wait(service, job["id"])["status"] for job in (by_masks, by_map, by_json)] == [
            "done"
        ] * 3
        masks = result(service, by_masks["id"])
        assert set(masks) == {"scene.report.json", "0.png", "1.png", "2.png"}
        assert set(result(service, by_map["id"])) == {"scene.report.json", "map.png"}
        refined = json.loads(result(service, by_json["id"])["found.json"])
    with running(tiny) as service:
        want = service.refine(scene.coco_parts).json()["instances"]
    assert any(w["changed_pixels"] for w in want)
    assert [r["segmentation"] for r in refined] == [w["segmentation"] for w in want]
    assert [r["note"] for r in refined] == [r["note"] for r in records]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (archive(**{"../x.png": b"a"}), "names inside of the archive"),
        (archive(**{"/etc/x.png": b"a"}), "names inside of the archive"),
        (archive(**{"a\\..\\..\\x.png": b"a"}), "names inside of the archive"),
        (archive(**{"a.png": b"a", "a.png/b.png": b"b"}), "files or folders"),
        (archive(**{"a\nb.png": b"a"}), "plain names"),
        (archive(**{"a.png": b"\0" * 3_000_000}), "fewer bytes"),
        (archive(**{f"{k}.png": b"" for k in range(40)}), "fewer files"),
        (archive(**{"a.png": b"abcd"})[:60], "expected a zip archive"),
        (archive(**{"readme.md": b"nothing"}), "expected masks or label files"),
        (archive(**{"a_pred.txt": b"m.png 1 1\n"}), "images: expected"),
    ],
    ids=[
        "above",
        "absolute",
        "backslashes",
        "both",
        "name",
        "bytes",
        "files",
        "cut",
        "odd",
        "alone",
    ],
)
def test_an_archive_that_is_an_attack_fails_in_words(narrow, content, words):
    service, folder = narrow
    job = send(service, ("predictions", ("p.zip", content)))
    done = wait(service, job["id"])
    assert done["status"] == "failed"
    assert words in done["detail"]
    assert str(folder) not in done["detail"]
    assert "is failed" in problem(service.client.get(f"/jobs/{job['id']}/result"), 409)
    left = {path.name for path in (folder / job["id"]).iterdir()}
    assert left <= {"spec.json", "lock", "stderr.txt"}
    assert not list(folder.rglob("x.png"))


def test_what_cannot_be_a_job_is_refused_at_once(jobs, scene):
    zip_part = ("predictions", ("p.zip", archive(a=b"")))
    for parts, status, words in (
        ([scene.image_part], 400, "one image and one of"),
        ([scene.image_part, zip_part], 400, "got both"),
        ([("images", ("i.zip", b"PK"))], 400, "predictions: expected one file, got 0"),
        ([("wrong", ("i.zip", b"PK"))], 400, "got 'wrong'"),
        ([("predictions", ("p.tar", b"ustar"))], 415, "a zip archive or a COCO json"),
    ):
        assert words in problem(jobs.client.post("/jobs", files=parts), status)
    wrong = jobs.client.post("/jobs?format=tiff", files=[zip_part])
    assert "format: expected one of" in problem(wrong, 400)
    assert "multipart/form-data or" in problem(jobs.client.post("/jobs", content=b"x"), 415)
    assert "none: upload" in problem(jobs.client.post("/jobs", json={"predictions": "s3://a"}), 400)
    for path in ("/jobs/none", "/jobs/none/result", "/jobs/..%2f.."):
        problem(jobs.client.get(path), 404)


def test_limits_hold_before_a_job_is_stored(tiny, tmp_path):
    settings = {"max_job_bytes": 100_000, "max_jobs": 1, **NETWORK}
    with running(tiny, jobs_folder=tmp_path, **settings) as service:
        large = ("predictions", ("p.zip", b"PK" + b"\0" * 200_000))
        assert "at most 100000 bytes" in problem(service.client.post("/jobs", files=[large]), 413)
        write_cityscapes(tmp_path / "in", 1)
        small = ("predictions", ("p.zip", zipped(tmp_path / "in")))
        first = send(service, small)
        refused = service.client.post("/jobs", files=[small])
        assert "1 unfinished jobs" in problem(refused, 429)
        assert int(refused.headers["retry-after"]) > 0
        wait(service, first["id"])
        send(service, small)
    folders = [path for path in tmp_path.iterdir() if path.is_dir() and path.name != "in"]
    assert len(folders) == 2  # refused jobs leave no folder


def test_a_job_belongs_to_its_key(tiny, tmp_path):
    keys = tmp_path / "keys.toml"
    keys.write_text('[ada]\nkey = "a"\n[bob]\nkey = "b"\n')
    settings = {"jobs_folder": tmp_path / "jobs", "api_keys_file": keys, **NETWORK}
    write_cityscapes(tmp_path / "in", 1)
    part = ("predictions", ("p.zip", zipped(tmp_path / "in")))
    with running(tiny, **settings) as service:
        problem(service.client.post("/jobs", files=[part]), 401)
        job = send(service, part, headers={"X-API-Key": "a"})
        path = f"/jobs/{job['id']}"
        problem(service.client.get(path), 401)
        for method in ("GET", "DELETE"):
            answer = service.client.request(method, path, headers={"X-API-Key": "b"})
            assert "that you have sent" in problem(answer, 404)
        assert service.client.get(path, headers={"X-API-Key": "a"}).status_code == 200


def test_a_job_can_be_cancelled_and_a_result_deleted(tiny, tmp_path):
    write_cityscapes(tmp_path / "in", 200)
    part = ("predictions", ("p.zip", zipped(tmp_path / "in")))
    with running(tiny, jobs_folder=tmp_path / "jobs", **NETWORK) as service:
        first, second = send(service, part), send(service, part)
        assert service.client.get(f"/jobs/{second['id']}").json()["ahead"] == 1
        until(lambda: (service.client.get(f"/jobs/{first['id']}").json()["images_done"]) > 0, 60)
        running_job = service.client.get(f"/jobs/{first['id']}").json()
        assert running_job["status"] == "running"
        assert running_job["images"] == 200
        assert running_job["seconds_left"] > 0
        assert "is running" in problem(service.client.get(f"/jobs/{first['id']}/result"), 409)
        for job in (second, first):
            assert service.client.delete(f"/jobs/{job['id']}").status_code == 204
            problem(service.client.get(f"/jobs/{job['id']}"), 404)
            until(lambda job=job: not (tmp_path / "jobs" / job["id"]).exists(), 30)
        small = tmp_path / "small"
        write_cityscapes(small, 1)
        third = send(service, ("predictions", ("p.zip", zipped(small))))
        assert wait(service, third["id"])["status"] == "done"
        assert service.client.delete(f"/jobs/{third['id']}").status_code == 204
        assert not (tmp_path / "jobs" / third["id"]).exists()


def kill_and_compare(tmp_path, num_images: int, kills: int, seconds: float) -> None:
    """Kill the service at random moments of a job; the end must not tell."""
    write_cityscapes(tmp_path / "in", num_images)
    want = refined_by_command(
        tmp_path / "out", str(tmp_path / "in/predictions"), "--images",
        str(tmp_path / "in/images"),
    )  # fmt: skip
    rng = np.random.default_rng(num_images)
    job_id, done = None, 0
    for _ in range(kills):
        with bpr_serve(*FLAGS, "--jobs-folder", str(tmp_path / "jobs")) as service:
            if job_id is None:
                job_id = send(service, ("predictions", ("p.zip", zipped(tmp_path / "in"))))["id"]

            def progress(service=service, path=f"/jobs/{job_id}"):
                return service.client.get(path).json()["images_done"]

            goal = min(done + 1 + rng.integers(0, num_images // (kills + 1)), num_images - 1)
            until(lambda goal=goal: progress() >= goal, seconds)
            done = progress()
            service.process.send_signal(signal.SIGKILL)
            service.process.wait(60)
    with bpr_serve(*FLAGS, "--jobs-folder", str(tmp_path / "jobs")) as service:
        end = wait(service, job_id, seconds)
        assert (end["status"], end["images_done"]) == ("done", num_images)
        found = result(service, job_id)
    report = json.loads(found["report.json"])
    assert report["images"]["already_done"] > 0
    assert_same(found, want)


def test_a_job_survives_kill_9_of_the_service(tmp_path):
    kill_and_compare(tmp_path, num_images=60, kills=2, seconds=120)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_job_of_2000_images_survives_kill_9_of_the_service(tmp_path):
    kill_and_compare(tmp_path, num_images=2000, kills=4, seconds=1500)


def test_sigterm_leaves_a_job_for_the_next_service(tmp_path):
    write_cityscapes(tmp_path / "in", 100)
    with bpr_serve(*FLAGS, "--jobs-folder", str(tmp_path / "jobs")) as service:
        job = send(service, ("predictions", ("p.zip", zipped(tmp_path / "in"))))
        path = f"/jobs/{job['id']}"
        until(lambda: service.client.get(path).json()["images_done"] > 0, 60)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0
    assert [row.status for row in JobStore(tmp_path / "jobs").unfinished()] == ["queued"]
    with bpr_serve(*FLAGS, "--jobs-folder", str(tmp_path / "jobs")) as service:
        assert wait(service, job["id"])["status"] == "done"


def test_a_process_that_always_dies_ends_its_job(tiny, tmp_path):
    write_cityscapes(tmp_path / "in", 50)
    part = ("predictions", ("p.zip", zipped(tmp_path / "in")))
    with running(tiny, jobs_folder=tmp_path / "jobs", **NETWORK) as service:
        job = send(service, part)

        def worker():
            found = subprocess.run(
                ["pgrep", "-f", f"jobs.run .*{job['id']}"], capture_output=True, text=True
            ).stdout.split()
            return int(found[0]) if found else None

        for deaths in range(1, 4):
            until(worker, 60)
            os.kill(worker(), signal.SIGKILL)
            row = JobStore(tmp_path / "jobs")
            until(lambda deaths=deaths, row=row: row.find(job["id"]).deaths >= min(deaths, 2), 60)
        ended = wait(service, job["id"])
    assert ended["status"] == "failed"
    assert "died 3 times" in ended["detail"]


def test_old_results_are_deleted(tiny, tmp_path):
    write_cityscapes(tmp_path / "in", 1)
    settings = {"jobs_folder": tmp_path / "jobs", **NETWORK}
    with running(tiny, **settings) as service:
        job = send(service, ("predictions", ("p.zip", zipped(tmp_path / "in"))))
        wait(service, job["id"])
    with running(tiny, **settings, job_days=1e-9) as service:
        until(lambda: service.client.get(f"/jobs/{job['id']}").status_code == 404, 30)
        assert not (tmp_path / "jobs" / job["id"]).exists()


def test_a_slow_upload_of_a_job_is_cut_off_and_leaves_nothing(tiny, tmp_path):
    settings = {"jobs_folder": tmp_path, **NETWORK}
    with running(tiny, **settings) as service, connected(service) as connection:
        connection.sendall(SLOW_HEAD.replace(b"/refine", b"/jobs"))
        assert read_all(connection).startswith(b"HTTP/1.1 408 ")
        until(lambda: not [path for path in tmp_path.iterdir() if path.is_dir()])


def test_a_folder_that_is_another_things_is_said(tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"something else, of more than sixteen bytes")
    with pytest.raises(ValueError, match="jobs_folder: expected a folder"):
        JobStore(tmp_path)


def test_the_client_sends_folders_waits_and_saves(jobs, tmp_path):
    write_cityscapes(tmp_path / "in", 3)
    want = refined_by_command(
        tmp_path / "out", str(tmp_path / "in/predictions"), "--images", str(tmp_path / "in/images")
    )
    seen = []
    with bpr.Client(jobs.url) as client:
        job = client.jobs.send(tmp_path / "in/predictions", tmp_path / "in/images")
        done = client.jobs.get(job.id).wait(seen.append)
        assert done["images_done"] == 3
        assert seen[-1] == done
        files = job.save(tmp_path / "saved")
        assert_same(
            {p.relative_to(tmp_path / "saved").as_posix(): p.read_bytes() for p in files}, want
        )
        job.delete()
        with pytest.raises(ServiceError, match="expected the id of a job"):
            job.state()
        (tmp_path / "notes.json").write_text('{"a": 1}')
        failing = client.jobs.send(tmp_path / "notes.json", [tmp_path / "in/images/a0000.png"])
        with pytest.raises(JobFailed, match=r"notes\.json"):
            failing.wait()
        with pytest.raises(ServiceError, match="is failed"):
            failing.save(tmp_path / "nothing")
        with pytest.raises(ServiceError, match="job_stores"):
            client.jobs.send_places("s3://bucket/results.json")
