import numpy as np
import pytest
import torch
from torch.nn import functional

from bpr.refiner.checkpoints import load_model
from bpr.refiner.network import PatchNetwork, normalise, object_logits, upsample


@pytest.mark.parametrize(
    ("architecture", "count"), [("hrnet18s", 3_935_278), ("hrnet48", 65_846_978)]
)
def test_the_networks_have_as_many_parameters_as_the_reference(architecture, count):
    with torch.device("meta"):
        network = PatchNetwork(architecture)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match="expected one of hrnet18xs, hrnet18s, hrnet48, got"):
        PatchNetwork("resnet50")


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_logits_come_at_a_quarter_of_the_resolution(network, size):
    with torch.inference_mode():
        assert network(torch.zeros(2, 4, size, size)).shape == (2, 2, size // 4, size // 4)


def test_the_memory_format_does_not_change_the_logits(network):
    inputs = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(inputs)
        network = network.to(memory_format=torch.channels_last)
        found = network(inputs.to(memory_format=torch.channels_last))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_autocast_on_a_cpu_computes_in_bfloat16(network):
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(torch.zeros(1, 4, 64, 64))
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


def test_the_classifier_starts_small_and_without_bias(network):
    assert network.head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not network.head.classifier.bias.any()


def test_the_mask_starts_with_pytorchs_default_for_a_convolution_of_its_own(network):
    mask = network.backbone.conv1.weight[:, 3]
    assert mask.abs().max() <= 1 / 3
    assert mask.std().item() == pytest.approx(1 / 3 / 3**0.5, rel=0.1)


def test_normalising_maps_the_mask_to_minus_one_and_one():
    patch = torch.zeros(1, 2, 2, 4, dtype=torch.uint8)
    patch[0, 0, 1, 3] = 1
    assert normalise(patch)[0, 3].tolist() == [[-1, 1], [-1, -1]]


def test_every_pixel_of_a_patch_gets_the_difference_of_its_logits(network, patches):
    batch = torch.from_numpy(patches)
    with torch.inference_mode():
        both = upsample(network(normalise(batch)))
        difference = object_logits(network, batch)
    assert difference.shape == (3, 64, 64)
    error = (difference - (both[:, 1] - both[:, 0])).abs().max()
    assert error <= 1e-5 * difference.abs().max()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_normalised_colours_are_the_references_bit_for_bit(golden, index):
    with np.load(golden / "preprocess.npz") as recorded:
        rgb = recorded[f"resized_bgr_128_{index}"][..., ::-1]
        mask = recorded[f"resized_mask_128_{index}"]
        expected = recorded[f"image_tensor_128_{index}"]
    patch = torch.from_numpy(np.concatenate([rgb, mask[..., None]], axis=-1))
    found = normalise(patch[None])[0].numpy()
    np.testing.assert_array_equal(found[:3], expected)
    np.testing.assert_array_equal(found[3], 2 * mask.astype(np.float32) - 1)


def _inputs(recorded):
    mask = torch.from_numpy(recorded["input_mask"])[:, None].float()
    return torch.cat([torch.from_numpy(recorded["input_image"]), 2 * mask - 1], dim=1)


def _relative_error(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _probability_64(logits):
    """Ours: the difference of the logits to S, to 64 x 64, then the sigmoid."""
    difference = upsample(logits[:, 1:] - logits[:, :1])
    small = functional.interpolate(difference, (64, 64), mode="bilinear", align_corners=False)
    return small[:, 0].sigmoid().numpy()


def test_hrnet18s_gives_the_references_logits_and_probabilities(golden, published):
    network = load_model(published("hrnet18s")).network
    with np.load(golden / "net_hrnet18s_128.npz") as recorded:
        with torch.inference_mode():
            logits = network(_inputs(recorded))
        assert _relative_error(logits.numpy(), recorded["logits_stride4"]) <= 1e-4
        assert _relative_error(upsample(logits).numpy(), recorded["logits_full"]) <= 1e-4
        assert np.abs(_probability_64(logits) - recorded["prob_fg_64"]).max() <= 1e-4


def test_hrnet48_gives_the_references_logits_and_probabilities(golden, published):
    network = load_model(published("hrnet48")).network
    with np.load(golden / "net_hrnet48_256.npz") as recorded:
        with torch.inference_mode():
            logits = network(_inputs(recorded))
        assert _relative_error(logits.numpy(), recorded["logits_stride4"]) <= 1e-4
        assert np.abs(_probability_64(logits) - recorded["prob_fg_64"]).max() <= 1e-4


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_hrnet18s_gives_the_references_loss_gradients_and_statistics(golden, published, mode):
    network = load_model(published("hrnet18s")).network.train(mode == "train")
    with np.load(golden / "net_hrnet18s_128.npz") as file:
        recorded = dict(file)
    label = torch.from_numpy(recorded["label"]).long()
    logits = upsample(network(_inputs(recorded)))
    loss = functional.cross_entropy(logits, label)
    loss.backward()
    assert loss.item() == pytest.approx(float(recorded[f"loss_{mode}"]), rel=1e-4)
    accuracy = 100 * (logits.argmax(dim=1) == label).float().mean().item()
    assert accuracy == pytest.approx(float(recorded[f"acc_{mode}"]), abs=0.02)
    stem = network.backbone.conv1.weight.grad
    gradients = {
        "backbone.conv1.weight": stem[:, :3],
        "backbone.conv_mask.weight": stem[:, 3:],
        "backbone.bn1.weight": network.backbone.bn1.weight.grad,
        "decode_head.convs.0.conv.weight": network.head.conv.weight.grad,
        "decode_head.conv_seg.weight": network.head.classifier.weight.grad,
        "decode_head.conv_seg.bias": network.head.classifier.bias.grad,
    }
    for key, gradient in gradients.items():
        expected = float(recorded[f"grad_norm_{mode}/{key}"])
        assert gradient.norm().item() == pytest.approx(expected, rel=1e-3), key
    if mode == "train":
        norm = network.backbone.bn1
        for name in ("running_mean", "running_var"):
            found = getattr(norm, name).numpy()
            assert _relative_error(found, recorded[f"train_{name}/backbone.bn1"]) <= 1e-5
