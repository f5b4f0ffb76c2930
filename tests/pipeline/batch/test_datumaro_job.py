"""Datumaro as the bridge to VOC and others. Its libraries are heavy: see CONTRIBUTING.md."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.batch.engine import InThisProcess
from bpr.pipeline.batch.open_job import JobRequest, open_job
from bpr.pipeline.batch.run_batch import run_batch
from bpr.pipeline.host import HostRunner
from bpr.pipeline.predictor import KeepCoarse
from bpr.pipeline.settings import PatchSettings
from bpr.scripts.main import main

SIZE = (60, 80)


class Grown:
    """Sees every object one pixel larger than it is."""

    input_size = 64

    def __call__(self, patches):
        inside = [cv2.dilate(patch[..., 3], np.ones((7, 7), np.uint8)) for patch in patches]
        return np.where(np.stack(inside) > 0, 20, -20).astype(np.float32)


@pytest.mark.filterwarnings("ignore")
def test_without_datumaro_its_installation_is_named(tmp_path):
    try:
        import datumaro  # noqa: F401
    except ModuleNotFoundError:
        request = JobRequest(pred=tmp_path, out=tmp_path / "o", format="datumaro")
        with pytest.raises(ValueError, match=r"pip install 'bpr-refine\[datumaro\]'"):
            open_job(request)


def data_set(datumaro, folder):
    """Two masks, and a data set of Datumaro with them on one photograph."""
    masks = [cv2.circle(np.zeros(SIZE, np.uint8), (x, 30), 14, 1, -1) for x in (20, 60)]
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    annotations = [
        datumaro.Mask(image=mask > 0, label=1 + n, group=n + 1, id=n + 1)
        for n, mask in enumerate(masks)
    ]
    media = datumaro.Image.from_file(str(folder / "a.png"))
    item = datumaro.DatasetItem(id="a", subset="train", media=media, annotations=annotations)
    categories = ["background", "cup", "spoon"]
    made = datumaro.Dataset.from_iterable([item], categories=categories)
    return masks, made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["voc", "datumaro"])
@pytest.mark.parametrize("predictor", [KeepCoarse(64), Grown()])
def test_a_data_set_keeps_its_labels_and_ids(tmp_path, kind, predictor):
    datumaro = pytest.importorskip("datumaro")
    masks, made = data_set(datumaro, tmp_path)
    made.export(str(tmp_path / "in"), kind, save_media=True)
    request = JobRequest(pred=tmp_path / "in", out=tmp_path / "out", format=f"datumaro:{kind}")
    progress = run_batch(
        open_job(request).job,
        InThisProcess(HostRunner(predictor)),
        PatchSettings(patch_size=24),
        {},
    )
    assert (progress.done, progress.instances) == (1, 2)
    before, after = (
        next(iter(datumaro.Dataset.import_from(str(tmp_path / name), kind))).annotations
        for name in ("in", "out")
    )
    for old, new, mask in zip(before, after, masks, strict=True):
        assert (new.label, new.group, new.type) == (old.label, old.group, old.type)
        grown = np.count_nonzero(np.asarray(new.image) != mask)
        assert (grown > 50) == isinstance(predictor, Grown)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_evaluate_reads_what_datumaro_converts_to_coco(tmp_path, capsys):
    datumaro = pytest.importorskip("datumaro")
    _, made = data_set(datumaro, tmp_path)
    made.export(str(tmp_path / "voc"), "voc", save_media=True)
    found = datumaro.Dataset.import_from(str(tmp_path / "voc"), "voc")
    found.export(
        str(tmp_path / "coco"), "coco_instances", save_media=True, segmentation_mode="polygons"
    )
    (truth,) = (tmp_path / "coco/annotations").glob("*.json")
    report = tmp_path / "report"
    words = ["evaluate", str(truth), "--ground-truth", str(truth), "--out", str(report)]
    assert main(words) == 0, capsys.readouterr().err
    run = json.loads((report / "report.json").read_text())["runs"][0]
    assert run["average_precision"]["AP"] == pytest.approx(1)
