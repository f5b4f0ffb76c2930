"""Exported models say what torch says, run by runtimes that know nothing of us."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import read_pairs
from bpr import __version__
from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.formats.images import read_image
from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Instance, Prediction, differing_pixels
from bpr.pipeline.refine import merge, plan, predict
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.checkpoints import load_model
from bpr.refiner.export import describe
from bpr.refiner.openvino_predictor import import_openvino, openvino_core
from bpr.refiner.torch_predictor import TorchPredictor
from bpr.scripts.main import main
from tests.networks import INPUT_SIZE, save_random_network

ROOT = Path(__file__).parents[2]

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
        core = openvino_core()
        model = core.read_model(path)
        self.input_size = model.input(0).partial_shape[1].get_length()
        self.metadata = {
            name: model.get_rt_info(["bpr", name]).astype(str)
            for name in model.get_rt_info("bpr").value
        }
        precision = openvino.properties.hint.inference_precision
        self.compiled = core.compile_model(model, "CPU", {precision: openvino.Type.f32})

    def __call__(self, patches):
        return self.compiled({"patches": patches})["logits"]


RUNTIMES = {"onnx": (".onnx", OnnxRuntime), "openvino": (".xml", OpenVINO)}


def exported(kind, weights, folder):
    suffix, runtime = RUNTIMES[kind]
    out = folder / f"model{suffix}"
    assert main(["export-weights", str(weights), str(out), "--format", kind]) == 0
    return runtime(out)


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    return save_random_network(tmp_path_factory.mktemp("export") / "random.safetensors")


@pytest.fixture(scope="module")
def shipped():
    return load_model("hrnet18s")


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory):
    """The shipped weights, exported."""
    folder = tmp_path_factory.mktemp("shipped")
    return {kind: exported(kind, "hrnet18s", folder) for kind in RUNTIMES}


@pytest.mark.parametrize("kind", RUNTIMES)
def test_logits_are_those_of_torch_for_any_number_of_patches(kind, shipped, runtimes):
    side = shipped.config.input_size
    reference = TorchPredictor(shipped.network, side)
    patches = np.random.default_rng(0).integers(0, 256, (5, side, side, 4), np.uint8)
    patches[..., 3] &= 1
    for count in (0, 1, 5):
        logits = np.array(runtimes[kind](patches[:count]))
        assert logits.dtype == np.float32
        assert logits.shape == (count, side, side)
        np.testing.assert_allclose(logits, reference(patches[:count]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", RUNTIMES)
def test_any_input_size_is_exported(kind, random_weights, tmp_path):
    runtime = exported(kind, random_weights, tmp_path)
    reference = TorchPredictor(load_model(random_weights).network, INPUT_SIZE)
    patches = np.random.default_rng(0).integers(0, 256, (3, INPUT_SIZE, INPUT_SIZE, 4), np.uint8)
    patches[..., 3] &= 1
    # of logits with a standard deviation of 8
    np.testing.assert_allclose(runtime(patches), reference(patches), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", RUNTIMES)
def test_a_model_says_what_it_is(kind, shipped, runtimes):
    metadata = runtimes[kind].metadata
    assert metadata == describe(shipped, f"bpr {__version__}")
    assert metadata["weights_sha256"] == shipped.sha256
    assert metadata["input_size"] == str(runtimes[kind].input_size)
    assert metadata["patch_size"] == "auto"
    assert "DAVIS" in metadata["data"]
    assert "on-commercial" in metadata["licence"]


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch, random_weights):
    text = (ROOT / "docs/export.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    out = ["hrnet18s.onnx", "--format", "onnx"]
    assert main(["export-weights", str(random_weights), *out]) == 0
    names = {}
    exec(example, names)
    assert names["refined"].shape == (8, INPUT_SIZE, INPUT_SIZE)
    for key in names["about"]:
        assert f"`{key}`" in text


def test_a_fixed_patch_size_is_said_in_pixels(random_weights):
    assert describe(load_model(random_weights), "")["patch_size"] == str(INPUT_SIZE)


def test_the_same_weights_give_the_same_onnx_file(random_weights, tmp_path):
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for out in (first, second):
        assert main(["export-weights", str(random_weights), str(out), "--format", "onnx"]) == 0
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("kind", RUNTIMES)
def test_an_export_replaces_an_older_one_and_leaves_nothing_else(kind, random_weights, tmp_path):
    out = tmp_path / f"model{RUNTIMES[kind][0]}"
    for path in (out, out.with_suffix(".bin")) if kind == "openvino" else (out,):
        path.write_bytes(b"older")
    exported(kind, random_weights, tmp_path)
    names = {"onnx": ["model.onnx"], "openvino": ["model.bin", "model.xml"]}[kind]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def validation_plans(photographs, errors, settings):
    """Plans of single instances of the validation photographs."""
    for pair in read_pairs(photographs / "val_predictions" / errors, photographs / "val"):
        prediction = Prediction(pair.mask.size, (Instance(mask=pair.mask, label=0, score=1.0),))
        yield plan(read_image(pair.image).pixels, prediction, settings)


def settings_of(model, nms_iou=0.25):
    return PatchSettings(
        patch_size=model.config.patch_size, padding=model.config.padding, nms_iou=nms_iou
    )


def differing_shares(model, runtimes, plans):
    """By runtime: pixels in which masks differ from those of torch, by those in their windows."""
    plans = list(plans)

    def masks(predictor):
        return [
            instance.mask
            for answer in predict(plans, HostRunner(predictor))
            for instance in merge(answer).instances
        ]

    expected = masks(TorchPredictor(model.network, model.config.input_size))
    coarse = [instance.mask for planned in plans for instance in planned.prediction.instances]
    assert sum(map(differing_pixels, expected, coarse)) > 0
    pixels = sum(mask.bitmap.size for mask in expected)
    return {
        kind: sum(map(differing_pixels, masks(runtime), expected)) / pixels
        for kind, runtime in runtimes.items()
    }


def assert_same_masks(shares):
    assert all(share <= 1e-4 for share in shares.values()), shares


def test_masks_of_the_demo_are_those_of_torch(shipped, runtimes):
    plans = []
    for scene in load_demo_scenes():
        instances = tuple(Instance(mask=mask, label=0, score=1.0) for mask in scene.coarse)
        coarse = Prediction(scene.coarse[0].size, instances)
        plans.append(plan(scene.image, coarse, settings_of(shipped)))
    assert_same_masks(differing_shares(shipped, runtimes, plans))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("errors", ["maskhead", "polygon"])
def test_masks_of_all_validation_photographs_are_those_of_torch(
    errors, shipped, runtimes, photographs
):
    plans = validation_plans(photographs, errors, settings_of(shipped, PatchSettings.nms_iou))
    shares = differing_shares(shipped, runtimes, plans)
    print(errors, shares)
    assert_same_masks(shares)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing", "a.onnx", "--format", "onnx"], "nothing"),
        (["missing.safetensors", "a.onnx", "--format", "onnx"], "missing.safetensors: expected"),
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


@pytest.mark.parametrize("kind", RUNTIMES)
@pytest.mark.parametrize("place", ["below a file", "is a folder"])
def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(
    kind, place, random_weights, tmp_path, capsys
):
    out = tmp_path / "here" / f"model{RUNTIMES[kind][0]}"
    if place == "below a file":
        (tmp_path / "here").write_text("a file")
    else:
        out.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    assert main(["export-weights", str(random_weights), str(out), "--format", kind]) == 2
    said = capsys.readouterr().err
    assert "here" in said
    assert said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_package_that_is_not_installed_is_named(random_weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    out = tmp_path / "model.onnx"
    assert main(["export-weights", str(random_weights), str(out), "--format", "onnx"]) == 2
    said = capsys.readouterr().err
    assert "pip install 'bpr-refine[export]'" in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
