"""The Python of README and docs runs, on objects of the real packages.

Packages that are not among the test requirements are tested where they are installed:

    pip install ultralytics transformers mmengine && pytest -m slow tests/docs/test_python.py
"""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bpr import load_refiner
from bpr.pipeline.demo.inputs import input_files
from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.formats import rle
from bpr.pipeline.instance import Mask
from tests.docs.pages import ROOT
from tests.docs.world import World
from tests.networks import save_random_network
from tests.pipeline.adapters.test_adapters import Instances

PAGE = (ROOT / "docs/masks-from.md").read_text(encoding="utf-8")
SECTIONS = {
    section.split("\n")[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for section in PAGE.split("\n## ")
}


@pytest.fixture(scope="module")
def refiner(tmp_path_factory):
    path = save_random_network(tmp_path_factory.mktemp("weights") / "random.safetensors")
    return load_refiner(path, "cpu", "torch")


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return World(tmp_path)


def run(section, world, refiner, **names):
    """Run the blocks of a section; returns what `refined` is after each."""
    found = []
    for block in SECTIONS[section]:
        space = {"image": world.image, "refiner": refiner, **names}
        exec(compile(block, section, "exec"), space)
        found.append(space)
    return found


def stack(world):
    return np.stack(world.coarse)


def check(array, world, refiner):
    np.testing.assert_array_equal(array, refiner(world.image, stack(world)))


def test_the_quick_start(world):
    page = (ROOT / "docs/quick-start.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for name, content in input_files(load_demo_scenes()).items():
        path = world.root / "bpr-demo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    space = {}
    exec(compile(block, "quick-start.md", "exec"), space)
    assert space["refined"].shape == space["masks"].shape
    assert space["refined"].dtype == np.bool_
    assert (space["refined"] != space["masks"]).any()


def test_supervision(world, refiner):
    sv = pytest.importorskip("supervision", reason="needs supervision")
    detections = sv.Detections(xyxy=sv.mask_to_xyxy(stack(world)), mask=stack(world))
    (space,) = run("supervision", world, refiner, detections=detections)
    check(space["refined"].mask, world, refiner)


def test_torchvision(world, refiner):
    output = {"masks": torch.from_numpy(stack(world)[:, None].astype(np.float32) * 0.9)}
    (space,) = run("torchvision", world, refiner, model=lambda _: [output], tensor=None)
    check(space["masks"].numpy()[:, 0], world, refiner)


def test_detectron2(world, refiner):
    masks = torch.from_numpy(stack(world))

    def predictor(image):
        np.testing.assert_array_equal(image[..., ::-1], world.image)
        return {"instances": Instances(masks.shape[1:], pred_masks=masks)}

    (space,) = run("detectron2", world, refiner, predictor=predictor)
    check(space["refined"]["instances"].pred_masks.numpy(), world, refiner)


def test_segment_anything(world, refiner):
    predictor = SimpleNamespace(predict=lambda **_: (stack(world), None, None))
    (space,) = run("Segment Anything", world, refiner, predictor=predictor, box=None)
    check(space["refined"], world, refiner)


def test_pycocotools(world, refiner):
    rles = [rle.encode(Mask.from_array(mask)) for mask in world.coarse]
    records = [{"segmentation": code, "id": 3} for code in rles]
    (space,) = run("pycocotools", world, refiner, rles=rles, records=records)
    got = [rle.decode(one["segmentation"], stack(world).shape[1:]) for one in space["refined"]]
    check(np.stack([mask.to_array() for mask in got]), world, refiner)


def test_arrays(world, refiner):
    (space,) = run("Arrays and tensors", world, refiner, masks=stack(world))
    check(space["refined"], world, refiner)


@pytest.mark.slow
def test_ultralytics(world, refiner):
    pytest.importorskip("ultralytics", reason="needs pip install ultralytics")
    from ultralytics.engine.results import Results

    boxes = torch.tensor([[1.0, 2, 30, 40, 0.9, 0], [1, 2, 30, 40, 0.8, 1]])
    results = Results(
        world.image[..., ::-1], "photo.jpg", {0: "cup", 1: "spoon"}, boxes,
        torch.from_numpy(stack(world).astype(np.uint8)),
    )  # fmt: skip
    (space,) = run("ultralytics (YOLO)", world, refiner, model=lambda _: [results])
    check(space["refined"].masks.data.bool().numpy(), world, refiner)


@pytest.mark.slow
def test_mmdetection(world, refiner):
    pytest.importorskip("mmengine", reason="needs pip install mmengine")
    from mmengine.structures import BaseDataElement, InstanceData

    sample = BaseDataElement(pred_instances=InstanceData(masks=torch.from_numpy(stack(world))))
    (space,) = run("mmdetection", world, refiner, model=None, inference_detector=lambda *_: sample)
    check(space["refined"].pred_instances.masks.numpy(), world, refiner)


@pytest.mark.slow
def test_transformers(world, refiner):
    transformers = pytest.importorskip("transformers", reason="needs pip install transformers")
    from transformers.models.mask2former import modeling_mask2former

    masks = torch.from_numpy(np.where(stack(world), 8.0, -8.0).astype(np.float32))[None]
    classes = torch.tensor([[[9.0, 0, -9], [0, 9, -9]]])
    outputs = modeling_mask2former.Mask2FormerForUniversalSegmentationOutput(
        class_queries_logits=classes, masks_queries_logits=masks
    )
    (space,) = run(
        "transformers", world, refiner,
        processor=transformers.Mask2FormerImageProcessor(), outputs=outputs,
    )  # fmt: skip
    segments = space["segments"]
    assert len(segments["segments_info"]) == 2
    want = refiner(world.image, segments["segmentation"].bool().numpy())
    np.testing.assert_array_equal(space["refined"]["segmentation"].bool().numpy(), want)


def test_every_section_with_python_is_run():
    tested = {
        "supervision", "ultralytics (YOLO)", "torchvision", "detectron2", "mmdetection",
        "transformers", "Segment Anything", "pycocotools", "Arrays and tensors",
        "FiftyOne",  # tests/pipeline/adapters/test_fiftyone.py; the App needs a database
    }  # fmt: skip
    assert {name for name, blocks in SECTIONS.items() if blocks} == {
        *tested,
        "# I have masks from ...",
    }
