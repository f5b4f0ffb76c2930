import numpy as np
import pytest
import torch

from bpr.refiner.device_network import DeviceNetwork
from bpr.refiner.predictor import load_predictor
from bpr.refiner.torch_predictor import TorchPredictor

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]


def some_patches(count):
    patches = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 4), dtype=np.uint8)
    patches[..., 3] %= 2
    return patches


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [0, 1, 8, 11])
def test_it_gives_the_logits_of_the_plain_predictor(network, device, count):
    patches = some_patches(count)
    expected = TorchPredictor(network, 64)(patches)
    found = DeviceNetwork(network, 64, device, bfloat16=False)(patches)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(initial=0))


@pytest.mark.parametrize("device", DEVICES)
def test_results_stay_after_the_next_call(network, device):
    on_device = DeviceNetwork(network, 64, device, bfloat16=False)
    patches = torch.from_numpy(some_patches(3)).to(device)
    first = on_device.run(patches)
    kept = first.clone()
    on_device.run(patches.flip(0))
    assert torch.equal(first, kept)


def test_bfloat16_gives_nearly_the_same_logits(network):
    patches = some_patches(8)
    exact = DeviceNetwork(network, 64, "cpu", bfloat16=False)(patches)
    rounded = DeviceNetwork(network, 64, "cpu", bfloat16=True)(patches)
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).mean() < 0.05 * exact.std()


def test_bfloat16_of_torch_can_be_asked_for(weights):
    predictor = load_predictor(weights, "cpu", "torch-bf16")
    assert predictor.backend == "torch-bf16"
    assert predictor.on_device is None  # a CPU has nothing to carry to a device
    assert predictor(some_patches(2)).shape == (2, 64, 64)
