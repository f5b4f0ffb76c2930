import importlib.util

import numpy as np
import pytest
import torch

from refiner.network import object_logits
from refiner.predictor import TorchPredictor, fold_batch_norms, load_predictor

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
BACKENDS = [
    "torch",
    pytest.param(
        "openvino",
        marks=pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed"),
    ),
]


@pytest.fixture(scope="module", params=BACKENDS)
def predictor(request, weights):
    return load_predictor(weights, device="cpu", backend=request.param)


def _expected(network, patches):
    with torch.inference_mode():
        return object_logits(network, torch.from_numpy(patches)).numpy()


def test_a_predictor_says_what_it_runs(predictor, weights):
    assert predictor.input_size == 64
    assert predictor.name == "small"
    assert predictor.config.data == "noise"
    assert len(predictor.weights_sha256) == 64
    assert predictor.backend in ("torch", "openvino")


def test_a_predictor_gives_the_networks_logits(predictor, network, patches):
    expected = _expected(network, patches)
    found = predictor(patches)
    assert found.dtype == np.float32
    assert found.shape == (3, 64, 64)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_an_empty_batch_gives_no_logits(predictor):
    assert predictor(np.zeros((0, 64, 64, 4), np.uint8)).shape == (0, 64, 64)


def test_the_other_patches_of_a_batch_do_not_change_a_patch(predictor, patches):
    together = predictor(patches)
    alone = np.concatenate([predictor(patch[None]) for patch in patches])
    assert np.abs(together - alone).max() <= 1e-5 * np.abs(together).max()


def test_results_stay_after_the_next_call(predictor, patches):
    first = predictor(patches)
    kept = first.copy()
    predictor(patches[::-1])
    np.testing.assert_array_equal(first, kept)


def test_read_only_and_strided_patches_are_taken(predictor, patches):
    expected = predictor(np.ascontiguousarray(patches[::2]))
    patches.setflags(write=False)
    np.testing.assert_array_equal(predictor(patches[::2]), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 32, 32, 4), np.uint8),
        np.zeros((2, 64, 64, 3), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((2, 64, 64, 4), np.float32),
    ],
)
def test_other_shapes_and_types_are_refused(predictor, wrong):
    with pytest.raises(ValueError, match=r"patches: expected uint8 of shape \(N, 64, 64, 4\), got"):
        predictor(wrong)


def test_folding_leaves_no_batch_norm_and_the_given_network_as_it_was(network, patches):
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    folded = fold_batch_norms(network)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_folding_uses_the_statistics_of_training(network, patches):
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    expected = _expected(network, patches)
    found = TorchPredictor(network, 64, "cpu")(patches)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_an_input_size_that_the_network_cannot_take_is_refused(network):
    with pytest.raises(ValueError, match="input_size: expected a multiple of 32 > 0, got 48"):
        TorchPredictor(network, 48, "cpu")


def test_unknown_devices_and_backends_are_refused():
    with pytest.raises(ValueError, match="device: expected auto, cpu or cuda, got 'tpu'"):
        load_predictor(device="tpu")
    with pytest.raises(ValueError, match="backend: expected auto, torch or openvino, got 'tvm'"):
        load_predictor(device="cpu", backend="tvm")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_asking_for_a_missing_gpu_is_refused():
    with pytest.raises(ValueError, match="device: expected a CUDA GPU"):
        load_predictor(device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_logits_of_the_cpu(weights, network, patches):
    found = load_predictor(weights, device="cuda")(patches)
    expected = _expected(network, patches)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.skipif(HAS_OPENVINO, reason="openvino is installed")
def test_asking_for_openvino_says_how_to_install_it():
    with pytest.raises(ValueError, match="pip install openvino"):
        load_predictor(device="cpu", backend="openvino")


def test_a_cpu_uses_openvino_where_it_is_installed(weights):
    expected = "openvino" if HAS_OPENVINO else "torch"
    assert load_predictor(weights, device="cpu").backend == expected
