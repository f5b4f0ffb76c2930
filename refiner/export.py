"""Networks for other runtimes: ONNX and OpenVINO files that need nothing of ours."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from bpr._extras import require
from bpr.refiner.checkpoints import LoadedModel
from bpr.refiner.network import object_logits
from bpr.refiner.onnx_float16 import store_in_float16
from bpr.refiner.openvino_model import convert
from bpr.refiner.openvino_predictor import import_openvino
from bpr.refiner.torch_predictor import fold_batch_norms

OPSET = 17
INPUT, OUTPUT = "patches", "logits"


def export_onnx(model: LoadedModel, version: str) -> bytes:
    """Export weights as an ONNX model.

    Its input `patches` is (N, S, S, C) uint8 of any N: R, G, B and the coarse mask as 0 or 1, for
    weights that refine in passes also what `pipeline.passes.cut_patches` adds. Its
    output `logits` is (N, S, S) float32, object minus background. Normalising and enlarging are
    part of it. `metadata_props` say what the weights are (`describe`).

    Args:
        model: the weights.
        version: of the software that exports them, in words.

    Returns:
        The file's content; the same for the same arguments.

    Raises:
        ValueError: the onnx package is not installed.
    """
    require("onnx", purpose="--format onnx")
    import onnx

    side = model.config.input_size
    example = torch.zeros(2, side, side, model.config.channels, dtype=torch.uint8)
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        torch.no_grad(),
    ):
        path = Path(folder) / "model.onnx"
        # PyTorch calls this exporter deprecated, but its successor needs three more packages
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Folded(model.network),
            (example,),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "N"}, OUTPUT: {0: "N"}},
        )
        exported = onnx.load(path)
    store_in_float16(exported, model.network)
    onnx.helper.set_model_props(exported, describe(model, version))
    onnx.checker.check_model(exported)
    content: bytes = exported.SerializeToString()
    return content


def export_openvino(model: LoadedModel, version: str) -> tuple[bytes, bytes]:
    """Export weights as an OpenVINO model, with the same input and output as `export_onnx`.

    Its run-time information says under `bpr` what the weights are (`describe`).

    Args:
        model: the weights.
        version: of the software that exports them, in words.

    Returns:
        The content of the .xml and of the .bin file.

    """
    openvino = import_openvino()
    converted = convert(model.network, model.config.input_size)
    converted.set_friendly_name(model.name)
    converted.output(0).get_tensor().set_names({OUTPUT})
    for name, value in describe(model, version).items():
        converted.set_rt_info(value, ["bpr", name])
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(converted, Path(folder) / "model.xml", compress_to_fp16=False)
        return (Path(folder) / "model.xml").read_bytes(), (Path(folder) / "model.bin").read_bytes()


def describe(model: LoadedModel, version: str) -> dict[str, str]:
    """What an export says about its weights: their configuration, name, SHA-256, and `version`.

    A patch size of `auto` follows the object; docs/export.md has the rule.
    """
    config = {
        name: "auto" if value is None else str(value)
        for name, value in asdict(model.config).items()
    }
    return {
        **config,
        "weights": model.name,
        "weights_sha256": model.sha256,
        "exported_by": version,
    }


class _Folded(nn.Module):
    """Patches to logits of the object, batch norms folded."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = fold_batch_norms(network)

    def forward(self, patches: Tensor) -> Tensor:
        return object_logits(self.network, patches)
