"""docs/service.md: its commands and its program run, its table lists every setting."""

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
from bpr.service.settings import ServiceSettings
from tests.service.services import ROOT, running

PAGE = (ROOT / "docs/service.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


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
    (commands,) = (block for block in blocks("sh") if "/refine" in block)
    environment = {**os.environ, "SERVICE": service.url}
    subprocess.run(["sh", "-e", "-c", commands], cwd=folder, env=environment, check=True)
    answer = json.loads((folder / "refined.json").read_text())
    want = service.refine(scene.mask_parts[:3]).json()
    assert answer["instances"] == want["instances"]
    with Image.open(folder / "refined.png") as file:
        assert set(np.unique(np.array(file))) == {0, 7, 255, 300}
    with zipfile.ZipFile(io.BytesIO((folder / "refined.zip").read_bytes())) as archive:
        assert "photo_pred.txt" in archive.namelist()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_command_of_a_detector_runs(predictor, detector, folder):
    (command,) = (block for block in blocks("sh") if "/segment" in block)
    with running(predictor, detector=detector) as service:
        environment = {**os.environ, "SERVICE": service.url}
        subprocess.run(["sh", "-e", "-c", command], cwd=folder, env=environment, check=True)
    assert json.loads((folder / "found.json").read_text())["instances"]


def test_the_python_client_runs(service, scene, folder):
    (program,) = blocks("python")
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
