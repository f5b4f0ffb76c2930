"""The U-Net that refines in passes: its resolution, its file, its training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bpr.refiner.checkpoints import load_model, save_model
from bpr.refiner.model_config import ModelConfig
from bpr.refiner.network import object_logits
from bpr.refiner.predictor import load_predictor
from bpr.refiner.torch_predictor import TorchPredictor, fold_batch_norms
from bpr.refiner.unet import CHANNELS, PatchUNet, normalise, start_from_imagenet
from bpr.refiner.unet_training import UNetRecipe, UNetTrainer

SIDE = 64


def patches(count=4, seed=0):
    """Noise, with masks of 0 and 1."""
    batch = np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, CHANNELS), np.uint8)
    batch[..., 3] %= 2
    return batch


def network(seed=0):
    """Random weights whose batch norms are not the identity."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        unet = PatchUNet()
        for module in unet.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        return unet.eval()


def config(**changes):
    return ModelConfig(architecture="unet-lite0", input_size=SIDE, patch_size="passes", **changes)


def test_logits_have_the_resolution_of_the_patches():
    with torch.inference_mode():
        logits = network()(normalise(torch.from_numpy(patches())))

    assert logits.shape == (4, SIDE, SIDE)


def test_inputs_are_between_minus_one_and_one():
    batch = torch.zeros((1, SIDE, SIDE, CHANNELS), dtype=torch.uint8)
    batch[0, 0, 0] = torch.tensor([255, 255, 255, 1, 255, 255, 255])

    inputs = normalise(batch)

    assert inputs[0, :, 0, 0].tolist() == [1] * CHANNELS
    assert inputs[0, :, 1, 1].tolist() == [-1] * CHANNELS


def test_folded_batch_norms_keep_their_activations():
    unet = network()
    batch = torch.from_numpy(patches())

    with torch.inference_mode():
        expected = object_logits(unet, batch)
        found = object_logits(fold_batch_norms(unet), batch)

    assert torch.allclose(found, expected, atol=1e-3)
    assert expected.std() > 0


def test_weights_come_back_from_their_file(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_model(path, network(), config(data="noise"), half=False)

    model = load_model(path)

    assert model.config.patch_size == "passes"
    assert model.config.channels == CHANNELS
    for name, value in network().state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(model.network.state_dict()[name], value)


@pytest.mark.parametrize("backend", ["openvino", "torch-bf16"])
def test_other_runtimes_agree_with_torch(tmp_path, backend):
    path = tmp_path / "mine.safetensors"
    save_model(path, network(), config(), half=False)
    expected = load_predictor(path, device="cpu", backend="torch")(patches(5))

    found = load_predictor(path, device="cpu", backend=backend)(patches(5))

    spread = expected.std()
    assert np.abs(found - expected).mean() < (0.05 if "bf16" in backend else 1e-4) * spread


def test_patches_of_another_kind_of_network_are_refused():
    predictor = TorchPredictor(network(), SIDE)

    with pytest.raises(ValueError, match=f"64, 64, {CHANNELS}"):
        predictor(patches()[..., :4].copy())


def test_imagenet_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match="expected 296 tensors"):
        start_from_imagenet(network(), {"a": torch.zeros(1)})


def colours_are_the_object(count=8, seed=0):
    """Patches whose object is what is bright, with a mask that is wrong in places."""
    rng = np.random.default_rng(seed)
    targets = np.zeros((count, SIDE, SIDE), np.uint8)
    for target in targets:
        x, y = rng.integers(8, 30, 2)
        target[y : y + 26, x : x + 26] = 1
    batch = np.zeros((count, SIDE, SIDE, CHANNELS), np.uint8)
    batch[..., :3] = np.where(targets[..., None] == 1, 220, 30)
    batch[..., 3] = np.roll(targets, 5, axis=2)
    batch[..., 4:6] = np.where(targets[..., None] == 1, 250, 5)
    return torch.from_numpy(batch), torch.from_numpy(targets)


@pytest.mark.slow
def test_training_learns_and_resumes_where_it_stopped(tmp_path):
    recipe = UNetRecipe(steps=20, falling_steps=1, warmup_steps=3, log_every=10, average_decay=0.8)
    longer = replace(recipe, steps=30, falling_steps=10)
    batches = [colours_are_the_object(seed=number) for number in range(30)]
    rows = []
    trainer = UNetTrainer(network(), recipe, tmp_path, {"seed": 0})
    trainer.run(batches[:20], rows.append)
    assert trainer.step == 20

    with pytest.raises(ValueError, match="seed was 0, is 1"):
        UNetTrainer(network(1), longer, tmp_path, {"seed": 1})
    resumed = UNetTrainer(network(1), longer, tmp_path, {"seed": 0})
    assert resumed.step == 20
    average = resumed.run(batches[20:], rows.append)

    assert resumed.step == 30
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    batch, targets = colours_are_the_object(seed=99)
    with torch.inference_mode():
        right = ((object_logits(average, batch) > 0) == (targets == 1)).float().mean()
    assert right > 0.95


def test_the_rate_rises_stays_and_falls():
    recipe = UNetRecipe(steps=100, falling_steps=40, warmup_steps=10, learning_rate=1.0)

    assert recipe.rate_at(0) == pytest.approx(0.1)
    assert recipe.rate_at(50) == pytest.approx(1.0)
    assert recipe.rate_at(80) == pytest.approx(0.5)
    assert recipe.rate_at(100) == pytest.approx(0.0)
