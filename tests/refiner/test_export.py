"""Exported models say what torch says, run by runtimes that know nothing of us."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.quality import read_pairs
from pipeline.demo_scenes import load_demo_scenes
from pipeline.images import read_image
from pipeline.instance import Instance, Prediction
from pipeline.refine import merge, plan, predict
from pipeline.settings import PatchSettings
from refiner.checkpoints import load_model
from refiner.export import describe
from refiner.openvino_predictor import import_openvino
from refiner.torch_predictor import TorchPredictor
from scripts.main import main
from tests.networks import INPUT_SIZE, save_random_network

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


class OnnxRuntime:
    """An exported .onnx under ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.input_size = self.session.get_inputs()[0].shape[1]
        self.metadata = self.session.get_modelmeta().custom_metadata_map

    def __call__(self, patches):
        return self.session.run(["logits"], {"patches": patches})[0]


class OpenVINO:
    """An exported .xml under OpenVINO, in float32."""

    def __init__(self, path: Path) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        model = core.read_model(path)
        self.input_size = model.input(0).partial_shape[1].get_length()
        self.metadata = {
            name: model.get_rt_info(["bpr", name]).astype(str)
            for name in model.get_rt_info("bpr").value
        }
        precision = openvino.properties.hint.inference_precision
        self.compiled = core.compile_model(model, "CPU", {precision: openvino.Type.f32})

    def __call__(self, patches):
        return self.compiled([patches])[0]


RUNTIMES = {"onnx": (".onnx", OnnxRuntime), "openvino": (".xml", OpenVINO)}


def exported(kind, weights, folder):
    suffix, runtime = RUNTIMES[kind]
    out = folder / f"model{suffix}"
    assert main(["export-weights", str(weights), str(out), "--format", kind]) == 0
    return runtime(out)


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    return save_random_network(tmp_path_factory.mktemp("export") / "random.safetensors")


@pytest.mark.parametrize("kind", RUNTIMES)
def test_logits_are_those_of_torch_for_any_number_of_patches(kind, random_weights, tmp_path):
    runtime = exported(kind, random_weights, tmp_path)
    model = load_model(random_weights)
    reference = TorchPredictor(model.network, INPUT_SIZE)
    patches = np.random.default_rng(0).integers(0, 256, (9, INPUT_SIZE, INPUT_SIZE, 4), np.uint8)
    patches[..., 3] &= 1
    for count in (1, 2, 9):
        torch.testing.assert_close(
            torch.from_numpy(np.array(runtime(patches[:count]))),
            torch.from_numpy(reference(patches[:count])),
            atol=1e-3,  # of logits with a standard deviation of 8
            rtol=1e-4,
        )
    assert runtime.metadata == describe(model)
    assert runtime.metadata["weights_sha256"] == model.sha256
    assert runtime.metadata["patch_size"] == str(INPUT_SIZE)


def differing_share(first, second, plans):
    """Pixels in which masks differ, by those in the masks' windows."""
    differing = pixels = 0
    for one, other in zip(predict(plans, first), predict(plans, second), strict=True):
        masks = zip(merge(one).instances, merge(other).instances, strict=True)
        for a, b in masks:
            differing += np.count_nonzero(a.mask.to_array() != b.mask.to_array())
            pixels += a.mask.bitmap.size
    return differing / pixels


@pytest.mark.parametrize("kind", RUNTIMES)
def test_the_shipped_weights_give_the_same_masks_in_other_runtimes(kind, tmp_path):
    model = load_model("hrnet18s")
    scene = load_demo_scenes()[0]
    coarse = Prediction(scene.coarse[0].size, tuple(Instance(m, 0, 1.0) for m in scene.coarse))
    plans = [plan(scene.image, coarse, PatchSettings(nms_iou=0.25))]
    torch_itself = TorchPredictor(model.network, model.config.input_size)
    assert differing_share(torch_itself, exported(kind, "hrnet18s", tmp_path), plans) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNTIMES)
def test_on_all_validation_photographs_too(kind, photographs, tmp_path):
    model = load_model("hrnet18s")
    torch_itself = TorchPredictor(model.network, model.config.input_size)
    for errors in ("maskhead", "polygon"):
        plans = [
            plan(
                read_image(pair.image).pixels,
                Prediction(pair.mask.size, (Instance(pair.mask, 0, 1.0),)),
                PatchSettings(nms_iou=0.25),
            )
            for pair in read_pairs(photographs / "val_predictions" / errors, photographs / "val")
        ]
        assert differing_share(torch_itself, exported(kind, "hrnet18s", tmp_path), plans) <= 1e-4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing", "a.onnx", "--format", "onnx"], "nothing"),
        (["hrnet18s", "a.pt", "--format", "onnx"], "a.pt: expected a name that ends with .onnx"),
        (["hrnet18s", "a.onnx", "--format", "openvino"], "expected a name that ends with .xml"),
    ],
)
def test_a_wrong_call_is_one_line_and_writes_nothing(
    arguments, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["export-weights", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
