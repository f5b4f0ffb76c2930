"""The ONNX files in the package hold the weights of the safetensors beside them."""

import shutil

import numpy as np
import pytest

from bpr._weight_files import file_sha256, shipped_names
from bpr.refiner.checkpoints import load_model
from bpr.refiner.model_config import SHIPPED
from bpr.refiner.onnx_model import read_onnx
from bpr.refiner.openvino_model import convert, load_converted
from bpr.refiner.openvino_predictor import OpenVINOPredictor
from bpr.refiner.weights_info import read_weights_info

NAMES = shipped_names(SHIPPED)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_onnx_file_is_that_of_the_weights_beside_it(name):
    found = read_onnx(SHIPPED / f"{name}.onnx")
    expected = load_model(name)
    assert (found.name, found.sha256, found.config) == (name, expected.sha256, expected.config)
    assert found.sha256 == file_sha256(SHIPPED / f"{name}.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_its_logits_are_those_of_the_network_that_torch_converts(name):
    expected = load_model(name)
    side = expected.config.input_size
    shape = (2, side, side, expected.network.channels)
    patches = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    patches[..., 3] &= 1
    run = [
        OpenVINOPredictor(model, side, num_threads=1)
        for model in (load_converted(name).model, convert(expected.network, side))
    ]
    np.testing.assert_allclose(run[0](patches), run[1](patches), rtol=0, atol=2e-5)


@pytest.mark.parametrize("weights", [*NAMES, *SHIPPED.glob("*.onnx")], ids=str)
def test_what_a_file_says_about_itself_is_what_loading_it_says(weights):
    info, loaded = read_weights_info(weights), load_converted(weights)
    assert (info.name, info.sha256, info.config) == (loaded.name, loaded.sha256, loaded.config)


def test_what_a_file_of_ones_own_says(tmp_path):
    saved = tmp_path / "own.safetensors"
    shutil.copy(SHIPPED / f"{NAMES[0]}.safetensors", saved)
    info, loaded = read_weights_info(saved), load_model(saved)
    assert (info.name, info.sha256, info.config) == (loaded.name, loaded.sha256, loaded.config)


@pytest.mark.parametrize("content", [b"", b"not ONNX", "cut"])
def test_a_damaged_file_is_refused(content, tmp_path):
    path = tmp_path / "damaged.onnx"
    shipped = (SHIPPED / f"{NAMES[0]}.onnx").read_bytes()
    path.write_bytes(shipped[: len(shipped) // 2] if content == "cut" else content)
    with pytest.raises(ValueError, match=r"damaged\.onnx: expected"):
        load_converted(path)


def test_an_onnx_file_of_another_program_is_refused(tmp_path):
    import onnx

    nodes = [onnx.helper.make_node("Identity", ["a"], ["b"])]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "ab"]
    graph = onnx.helper.make_graph(nodes, "other", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph, ir_version=8), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx: expected an ONNX file of `bpr export"):
        load_converted(tmp_path / "other.onnx")
