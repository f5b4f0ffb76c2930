"""docs/service.md and docs/jobs.md: commands and programs run, the table has every setting."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.formats import rle
from bpr.pipeline.formats.images import encode_mask, encode_png
from bpr.refiner.predictor import load_predictor
from bpr.service.settings import ServiceSettings
from tests.service.services import ROOT, running
from tests.service.test_jobs import NETWORK, write_cityscapes, zipped

PAGE = (ROOT / "docs/service.md").read_text(encoding="utf-8")
JOBS_PAGE = (ROOT / "docs/jobs.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE + JOBS_PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(scene, tmp_path):
    (tmp_path / "photo.png").write_bytes(encode_png(scene.image))
    (tmp_path / "cup.png").write_bytes(encode_mask(scene.masks[0]))
    (tmp_path / "spoon.png").write_bytes(encode_mask(scene.masks[1]))
    (tmp_path / "map.png").write_bytes(encode_png(scene.map_values))
    (tmp_path / "results.json").write_text(json.dumps(scene.records))
    return tmp_path


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_commands_run(service, scene, folder):
    (commands,) = (block for block in blocks("sh") if "E/refine" in block)
    environment = {**os.environ, "SERVICE": service.url}
    subprocess.run(["sh", "-e", "-c", commands], cwd=folder, env=environment, check=True)
    answer = json.loads((folder / "refined.json").read_text())
    want = service.refine(scene.mask_parts[:3]).json()
    assert answer["instances"] == want["instances"]
    with Image.open(folder / "refined.png") as file:
        assert set(np.unique(np.array(file))) == {0, 7, 255, 300}
    with zipfile.ZipFile(io.BytesIO((folder / "refined.zip").read_bytes())) as archive:
        assert "photo_pred.txt" in archive.namelist()


@pytest.fixture
def job_folder(tmp_path):
    write_cityscapes(tmp_path, 2)
    for name in ("predictions", "images"):
        (tmp_path / f"{name}.zip").write_bytes(zipped(tmp_path / name))
    return tmp_path


@pytest.fixture(scope="module")
def jobs_service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    with running(load_predictor(**NETWORK), jobs_folder=folder, **NETWORK) as service:
        yield service


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_commands_of_a_job_run(jobs_service, job_folder):
    (commands,) = (block for block in blocks("sh") if "E/jobs" in block)
    environment = {**os.environ, "SERVICE": jobs_service.url}
    subprocess.run(["sh", "-e", "-c", commands], cwd=job_folder, env=environment, check=True)
    with zipfile.ZipFile(job_folder / "result.zip") as archive:
        assert "a0001_pred.txt" in archive.namelist()
    job_id = json.loads((job_folder / "job.json").read_text())["id"]
    assert jobs_service.client.get(f"/jobs/{job_id}").status_code == 404


def test_the_python_client_of_jobs_runs(jobs_service, job_folder):
    (program,) = (block for block in blocks("python") if "client.jobs" in block)
    environment = {**os.environ, "SERVICE": jobs_service.url}
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=job_folder, env=environment, check=True)
    assert (job_folder / "refined/a0001_pred.txt").exists()


def test_the_python_client_of_kserve_runs(service):
    pytest.importorskip("tritonclient.http")
    (program,) = (block for block in blocks("python") if "tritonclient" in block)
    environment = {**os.environ, "SERVICE": service.url, "MODEL": "random"}
    check = "\nassert logits.shape == (8, side, side)\n"
    subprocess.run([sys.executable, "-c", program + check], env=environment, check=True)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_command_of_a_detector_runs(predictor, detector, folder):
    (command,) = (block for block in blocks("sh") if "E/segment" in block)
    with running(predictor, detector=detector) as service:
        environment = {**os.environ, "SERVICE": service.url}
        subprocess.run(["sh", "-e", "-c", command], cwd=folder, env=environment, check=True)
    assert json.loads((folder / "found.json").read_text())["instances"]


def test_the_python_client_runs(service, scene, folder):
    (program,) = (block for block in blocks("python") if "client.refine" in block)
    check = "import numpy\nnumpy.save('cup.npy', cup)\nnumpy.save('spoon.npy', spoon)\n"
    environment = {**os.environ, "SERVICE": service.url}
    subprocess.run([sys.executable, "-c", program + check], cwd=folder, env=environment, check=True)
    want = service.refine(scene.mask_parts[:3]).json()["instances"]
    for name, item in zip(("cup", "spoon"), want, strict=True):
        mask = rle.decode(item["segmentation"], scene.image.shape[:2])
        np.testing.assert_array_equal(np.load(folder / f"{name}.npy"), mask.to_array())


def test_every_setting_is_in_the_table():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \| [^|]* \|$", PAGE, re.MULTILINE))
    assert list(rows) == list(ServiceSettings.model_fields)
    for name, field in ServiceSettings.model_fields.items():
        assert (field.description or "") in rows[name]
