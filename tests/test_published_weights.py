"""Checkpoints of other programs, each as the program writes it."""

from __future__ import annotations

import sys
import types
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bpr._published_weights import read_published

NAME = "backbone.conv1.weight"
WEIGHTS = {NAME: torch.tensor([1.0, 2.0])}
AVERAGE = {NAME: torch.tensor([3.0, 4.0])}


def read(content: object, folder: Path, **options: str) -> list[float]:
    path = folder / "model.pth"
    torch.save(content, path)
    found = read_published(path, **options)  # type: ignore[arg-type]
    assert list(found.tensors) == [NAME]
    return found.tensors[NAME].tolist()


@pytest.mark.parametrize(
    "content",
    [
        {
            "model": WEIGHTS,
            "model_ema": {f"module.{NAME}": AVERAGE[NAME], "n_averaged": torch.ones(())},
        },
        {"state_dict": {**WEIGHTS, "ema_backbone_conv1_weight": AVERAGE[NAME]}},
        {"state_dict": WEIGHTS, "state_dict_ema": AVERAGE},
        {"state_dict": {f"model.{NAME}": WEIGHTS[NAME], f"ema_model.{NAME}": AVERAGE[NAME]}},
    ],
    ids=["torchvision", "mmcv", "timm", "lightning"],
)
def test_weights_and_their_moving_average_are_told_apart(content: object, tmp_path: Path) -> None:
    assert read(content, tmp_path) == [1, 2]
    assert read(content, tmp_path, which="ema") == [3, 4]
    assert read_published(tmp_path / "model.pth").has_average


def test_an_average_that_is_not_there_and_one_that_is_alone_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a moving average of the weights"):
        read({"model": WEIGHTS}, tmp_path, which="ema")
    with pytest.raises(ValueError, match="found only their moving average"):
        read({"model_ema": AVERAGE}, tmp_path)
    assert read({"model_ema": AVERAGE}, tmp_path, which="ema") == [3, 4]


def test_the_average_of_pytorch_itself_is_read(tmp_path: Path) -> None:
    network = nn.Sequential()
    network.add_module("backbone", nn.ModuleDict({"conv1": nn.Linear(2, 2, bias=False)}))
    average = torch.optim.swa_utils.AveragedModel(network)
    torch.save({"model_ema": average.state_dict()}, tmp_path / "model.pth")
    found = read_published(tmp_path / "model.pth", "ema")
    assert list(found.tensors) == [NAME]


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "module.model.", "_orig_mod.", "detector."]
)
def test_what_wrappers_put_before_names_is_removed(prefix: str, tmp_path: Path) -> None:
    assert read({"state_dict": {prefix + NAME: WEIGHTS[NAME]}}, tmp_path) == [1, 2]


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = {NAME: WEIGHTS[NAME], f"model.{NAME}": AVERAGE[NAME]}
    path = tmp_path / "model.pth"
    torch.save(twice, path)
    with pytest.raises(ValueError, match=f"expected one tensor of a name, got two of '{NAME}'"):
        read_published(path)


def test_what_lightning_keeps_beside_the_tensors_is_passed_over(tmp_path: Path) -> None:
    content = {
        "state_dict": {f"model.{NAME}": WEIGHTS[NAME]},
        "hyper_parameters": {"options": Namespace(rate=0.1), "folder": tmp_path},
        "pytorch-lightning_version": "2.4.0",
        "loops": {"fit_loop": {}},
    }
    assert read(content, tmp_path) == [1, 2]


def test_safetensors_of_others_and_folders_of_the_hub_are_read(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors", {"format": "pt"})
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert read_published(path).tensors[NAME].tolist() == [1, 2]


def test_logs_of_mmengine_are_passed_over_and_its_facts_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the library's class; `test_a_checkpoint_of_mmengine` has the real one."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history = np.zeros(3)

        def __setstate__(self, state: object) -> None:
            raise AssertionError("code of the file was executed")

    module = types.ModuleType("mmengine.logging.history_buffer")
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    content = {
        "meta": {
            "cfg": "model = dict(backbone=dict(style='caffe'))",
            "dataset_meta": {"classes": ("cat", "dog"), "palette": [(1, 2, 3)]},
        },
        "state_dict": WEIGHTS,
        "ema_state_dict": {f"module.{NAME}": AVERAGE[NAME], "steps": torch.tensor(4)},
        "message_hub": {"log_scalars": {"loss": HistoryBuffer()}},
    }
    assert read(content, tmp_path) == [1, 2]
    assert read(content, tmp_path, which="ema") == [3, 4]
    found = read_published(tmp_path / "model.pth")
    assert found.classes == ("cat", "dog")
    assert "caffe" in found.config


@pytest.mark.slow
def test_a_checkpoint_of_mmengine(tmp_path: Path) -> None:
    logging = pytest.importorskip("mmengine.logging")
    hub = logging.MessageHub.get_instance("training")
    hub.update_scalar("train/loss", 0.5, 2)
    hub.update_info("iter", 3)
    content = {
        "meta": {"cfg": "", "dataset_meta": {"classes": ("cat",)}},
        "state_dict": WEIGHTS,
        "message_hub": hub.state_dict(),
        "optimizer": {"state": {}, "param_groups": []},
    }
    assert read(content, tmp_path) == [1, 2]
