import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bpr.refiner.network import object_logits
from bpr.refiner.predictor import load_predictor
from bpr.refiner.torch_predictor import TorchPredictor, fold_batch_norms

ROOT = Path(__file__).parents[2]
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
    with pytest.raises(ValueError, match="device: expected auto, cpu, cuda or mps, got 'tpu'"):
        load_predictor(device="tpu")
    with pytest.raises(ValueError, match=r"backend: expected auto, torch, .* got 'tvm'"):
        load_predictor(device="cpu", backend="tvm")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an Apple GPU")
def test_asking_for_a_missing_apple_gpu_is_refused():
    with pytest.raises(ValueError, match="device: expected an Apple GPU"):
        load_predictor(device="mps")


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs an Apple GPU")
def test_an_apple_gpu_predicts_what_the_cpu_predicts(network, patches):
    expected = TorchPredictor(network, 64, "cpu")(patches)
    found = TorchPredictor(network, 64, "mps")(patches)
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


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
    expected = {"openvino", "openvino-bf16"} if HAS_OPENVINO else {"torch"}
    assert load_predictor(weights, device="cpu").backend in expected


def test_auto_takes_no_bfloat16_where_exact_results_are_asked_for(weights):
    expected = "openvino" if HAS_OPENVINO else "torch"
    assert load_predictor(weights, device="cpu", exact=True).backend == expected


@pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")
class TestOpenVINO:
    """What holds of it beyond what holds of every predictor."""

    @pytest.mark.parametrize("backend", ["openvino", "openvino-bf16"])
    def test_neither_batches_nor_threads_change_a_patch(self, weights, backend):
        random = np.random.default_rng(1)
        patches = random.integers(0, 2, (35, 64, 64, 4), dtype=np.uint8)
        one = load_predictor(weights, "cpu", backend, num_threads=1)
        three = load_predictor(weights, "cpu", backend, num_threads=3)
        expected = one(patches)
        np.testing.assert_array_equal(three(patches), expected)
        for count in (1, 8, 17):
            np.testing.assert_array_equal(three(patches[:count]), expected[:count])
        np.testing.assert_array_equal(three(patches[20:]), expected[20:])

    def test_a_signal_finds_its_handler_after_predictors_are_gone(self, weights):
        """In a process of its own: what fails here is the process."""
        code = (
            "import signal, sys; from bpr.refiner.predictor import load_predictor; "
            "first = load_predictor(sys.argv[1], 'cpu', 'openvino'); "
            "second = load_predictor(sys.argv[1], 'cpu', 'openvino'); "
            "del first; del second; "
            "signal.signal(signal.SIGINT, lambda *_: print('handled')); "
            "signal.raise_signal(signal.SIGINT)"
        )
        command = [sys.executable, "-c", code, str(weights)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr

    def test_bfloat16_changes_one_mask_pixel_in_a_thousand_at_most(self):
        """On a photograph-like edge with bundled weights, whose logits mean something."""
        random = np.random.default_rng(2)
        exact = load_predictor("hrnet18s", backend="openvino", device="cpu")
        faster = load_predictor("hrnet18s", backend="openvino-bf16", device="cpu")
        side = exact.input_size
        y, x = np.mgrid[:side, :side] - side // 2
        patches = np.empty((32, side, side, 4), np.uint8)
        for patch in patches:
            angle, shift, wrong = random.uniform(0, 2 * np.pi), *random.normal(0, 4, 2)
            distance = np.cos(angle) * x + np.sin(angle) * y - shift
            colours = random.integers(0, 256, (2, 3))
            patch[..., :3] = colours[(distance > 0).astype(int)] // 2 + 50
            patch[..., :3] += random.integers(0, 20, (side, side, 3), dtype=np.uint8)
            patch[..., 3] = distance > wrong
        expected = exact(patches) > 0
        assert np.mean(expected != (patches[..., 3] > 0)) > 0.01  # it does redraw them
        assert np.mean(expected != (faster(patches) > 0)) <= 1e-3

    def test_a_model_comes_from_the_cache_the_second_time(self, weights, patches, monkeypatch):
        first = load_predictor(weights, "cpu", "openvino")
        monkeypatch.setattr("bpr.refiner.checkpoints.load_model", None)  # nothing may call it
        second = load_predictor(weights, "cpu", "openvino")
        assert second.config == first.config
        assert second.weights_sha256 == first.weights_sha256
        np.testing.assert_array_equal(second(patches), first(patches))

    @pytest.mark.parametrize("damage", ["model.xml", "model.bin", "config.json", "folder"])
    def test_a_damaged_or_unwritable_cache_is_done_without(
        self, weights, patches, tmp_path, monkeypatch, damage
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        expected = load_predictor(weights, "cpu", "openvino")(patches)
        (folder,) = (tmp_path / "bpr/openvino").iterdir()
        if damage == "folder":
            monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "model.xml"))
        else:
            (folder / damage).write_bytes((folder / damage).read_bytes()[:100])
        found = load_predictor(weights, "cpu", "openvino")(patches)
        np.testing.assert_array_equal(found, expected)

    def test_a_cached_model_needs_no_torch(self, weights):
        load_predictor(weights, "cpu", "openvino")
        code = (
            "import sys; from bpr.refiner.predictor import load_predictor; "
            "load_predictor(sys.argv[1], 'cpu', 'auto'); assert 'torch' not in sys.modules"
        )
        command = [sys.executable, "-c", code, str(weights)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
