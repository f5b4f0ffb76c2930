import hashlib
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from bpr._weight_files import shipped_names
from bpr.refiner.checkpoints import convert_weights, import_mmseg, load_model, save_model
from bpr.refiner.model_config import SHIPPED, ModelConfig

CONFIG = ModelConfig(
    architecture="hrnet18s", input_size=64, patch_size=48, padding=4, data="squares", licence="CC0"
)


def published_like(network):
    """State dict of a network in the layout of the published checkpoints."""
    state = {}
    for key, tensor in network.state_dict().items():
        if key == "backbone.conv1.weight":
            state[key] = tensor[:, :3].clone()
            state["backbone.conv_mask.weight"] = tensor[:, 3:].clone()
        elif key.startswith("head.classifier."):
            state[key.replace("head.classifier", "decode_head.conv_seg")] = tensor
        elif key.startswith("head."):
            state[key.replace("head.", "decode_head.convs.0.", 1)] = tensor
        else:
            state[key] = tensor
    return state


@pytest.fixture
def saved(network, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, network, CONFIG)
    return path


def test_a_saved_model_loads_with_its_configuration_name_and_hash(saved):
    model = load_model(saved)
    assert model.config == CONFIG
    assert model.name == "model"
    assert model.sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert not model.network.training


def test_halving_rounds_the_convolutions_and_nothing_else(network, saved):
    stored = load_file(saved)
    loaded = load_model(saved).network.state_dict()
    for key, tensor in network.state_dict().items():
        assert loaded[key].dtype == tensor.dtype
        if tensor.ndim == 4:
            assert stored[key].dtype == torch.float16
            assert torch.equal(loaded[key], tensor.half().float())
        else:
            assert torch.equal(loaded[key], tensor)


def test_weights_saved_without_halving_come_back_exactly(network, tmp_path):
    save_model(tmp_path / "exact.safetensors", network, CONFIG, half=False)
    loaded = load_model(tmp_path / "exact.safetensors").network.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in network.state_dict().items())


def test_saving_a_loaded_model_gives_the_same_bytes(saved, tmp_path):
    model = load_model(saved)
    save_model(tmp_path / "again.safetensors", model.network, model.config)
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_channels_last_weights_are_saved_like_others(network, saved, tmp_path):
    save_model(tmp_path / "last.safetensors", network.to(memory_format=torch.channels_last), CONFIG)
    assert (tmp_path / "last.safetensors").read_bytes() == saved.read_bytes()


def test_a_loaded_network_can_be_trained(saved):
    network = load_model(saved).network.train()
    network(torch.randn(2, 4, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_loading_draws_no_random_numbers(saved):
    before = torch.random.get_rng_state()
    load_model(saved)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_failed_save_leaves_the_old_file_and_no_other(network, saved):
    old = saved.read_bytes()
    with torch.no_grad():
        network.head.conv.weight[0] = 1e6  # beyond float16
    with pytest.raises(ValueError, match=r"head\.conv\.weight: expected finite"):
        save_model(saved, network, CONFIG)
    assert saved.read_bytes() == old
    assert os.listdir(saved.parent) == [saved.name]


def test_saving_under_another_ending_or_architecture_is_refused(network, tmp_path):
    with pytest.raises(ValueError, match=r"expected a name ending in \.safetensors, got '\.pt'"):
        save_model(tmp_path / "model.pt", network, CONFIG)
    with pytest.raises(ValueError, match="expected a configuration of hrnet18s, got hrnet48"):
        save_model(tmp_path / "a.safetensors", network, replace(CONFIG, architecture="hrnet48"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architecture": "vgg"},
            "architecture: expected one of hrnet18xs, hrnet18s, hrnet48, unet-lite0, got 'vgg'",
        ),
        ({"input_size": 100}, "input_size: expected a multiple of 32 > 0, got 100"),
        ({"input_size": 0}, "input_size: expected a multiple of 32 > 0, got 0"),
        ({"patch_size": 63}, "patch_size: expected an even int > 0, 'passes' or None, got 63"),
        ({"padding": -1}, "padding: expected an int >= 0, got -1"),
        ({"data": None}, "data: expected text, got None"),
    ],
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def test_an_unknown_name_lists_the_shipped_ones():
    names = ", ".join(shipped_names(SHIPPED)) or "none"
    with pytest.raises(ValueError, match=rf"shipped names \({names}\), got 'hrnet19'"):
        load_model("hrnet19")


@pytest.mark.parametrize("name", ["missing.safetensors", "missing.pth"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}: expected .*, got no such file"):
        load_model(tmp_path / name)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    endings = r"ending in \.safetensors, \.onnx, \.pth or \.pt, got '\.bin'"
    with pytest.raises(ValueError, match=endings):
        load_model(tmp_path / "model.bin")


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_safetensors_file_is_refused(saved, kept):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=r"model\.safetensors: expected a complete safetensors"):
        load_model(saved)


def test_a_safetensors_file_of_another_program_is_refused(saved, tmp_path):
    save_file(load_file(saved), tmp_path / "other.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="expected weights written by bpr"):
        load_model(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "metadata: expected JSON"),
        ("[]", "metadata: expected an object with architecture"),
        ('{"architecture": "hrnet18s"}', "metadata: expected an object with architecture"),
        ('{"architecture": "x", "input_size": 64}', "architecture: expected one of"),
        ('{"architecture": ["x"], "input_size": 64}', "architecture: expected one of"),
        ('{"architecture": "hrnet48", "input_size": 64}', "expected the tensors of hrnet48"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(saved, metadata, message):
    save_file(load_file(saved), saved, metadata={"bpr": metadata})
    with pytest.raises(ValueError, match=rf"model\.safetensors.*{message}"):
        load_model(saved)


def test_weights_that_are_not_numbers_are_refused(saved):
    tensors = load_file(saved)
    tensors["head.bn.weight"][3] = float("nan")
    save_file(tensors, saved, metadata={"bpr": '{"architecture": "hrnet18s", "input_size": 64}'})
    with pytest.raises(ValueError, match=r"head\.bn\.weight: expected finite"):
        load_model(saved)


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_published_checkpoint_gives_its_weights_exactly(network, tmp_path, wrap, prefix, zipped):
    state = {prefix + key: tensor for key, tensor in published_like(network).items()}
    path = tmp_path / "weights.pth"
    # the authors' PyTorch wrote the old format, one pickle without a zip around it
    torch.save(
        {"state_dict": state, "meta": {"CLASSES": ("bg", "fg")}} if wrap else state,
        path,
        _use_new_zipfile_serialization=zipped,
    )
    imported, config = import_mmseg(path)
    assert (config.architecture, config.input_size, config.patch_size, config.padding) == (
        "hrnet18s", 128, 64, 0,
    )  # fmt: skip
    found = imported.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in network.state_dict().items())


def test_converting_published_weights_keeps_every_one(network, tmp_path):
    source, out = tmp_path / "weights.pth", tmp_path / "weights.safetensors"
    state = published_like(network)
    torch.save({"state_dict": state}, source)
    report = convert_weights(source, out)
    assert (report.architecture, report.num_tensors) == ("hrnet18s", len(state))
    loaded = load_model(out)
    assert loaded.config == report.config
    assert "imported from weights.pth" in loaded.config.data
    found = loaded.network.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in network.state_dict().items())


def test_batch_counters_may_be_missing(network, tmp_path):
    state = {k: v for k, v in published_like(network).items() if "num_batches" not in k}
    torch.save(state, tmp_path / "weights.pth")
    import_mmseg(tmp_path / "weights.pth")


def _without_a_key(state):
    del state["backbone.layer1.0.bn1.weight"]


def _with_an_auxiliary_head(state):
    state["auxiliary_head.conv_seg.bias"] = torch.zeros(2)


def _with_three_classes(state):
    state["decode_head.conv_seg.bias"] = torch.zeros(3)


def _with_another_width(state):
    state["decode_head.convs.0.conv.weight"] = torch.zeros(480, 480, 1, 1)


def _of_another_network(state):
    state.clear()
    state["layer1.weight"] = torch.zeros(2)


def _with_a_number(state):
    state["decode_head.conv_seg.bias"] = 3


def _with_integers(state):
    state["decode_head.conv_seg.bias"] = torch.zeros(2, dtype=torch.int32)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_a_key, r"missing backbone\.layer1\.0\.bn1\.weight; unexpected none"),
        (_with_an_auxiliary_head, r"missing none; unexpected auxiliary_head\.conv_seg\.bias"),
        (_with_three_classes, r"conv_seg\.bias: expected shape \(2,\), got \(3,\)"),
        (_with_another_width, r"expected 270 \(hrnet18s\) or 720 \(hrnet48\) channels, got 480"),
        (_of_another_network, r"expected a checkpoint of .*, got no decode_head"),
        (_with_a_number, r"expected a state dict of tensors, got int at 'decode_head"),
        (_with_integers, r"conv_seg\.bias: expected finite floating-point numbers"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(network, tmp_path, spoil, message):
    state = published_like(network)
    spoil(state)
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=rf"weights\.pth.*{message}"):
        load_model(tmp_path / "weights.pth")


class _Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_with_code_is_refused_and_not_run(network, tmp_path):
    mark = tmp_path / "executed"
    state = published_like(network)
    torch.save({"state_dict": state, "meta": _Attack(mark)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"got other objects .*mkdir.*nothing .* was executed"):
        load_model(tmp_path / "weights.pth")
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 not a zip either"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pth: expected a readable checkpoint"):
        load_model(tmp_path / "weights.pth")


def test_a_truncated_checkpoint_is_refused(network, tmp_path):
    torch.save(published_like(network), tmp_path / "weights.pth")
    content = (tmp_path / "weights.pth").read_bytes()
    (tmp_path / "weights.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="expected a readable checkpoint"):
        load_model(tmp_path / "weights.pth")
