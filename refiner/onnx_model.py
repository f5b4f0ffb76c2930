"""Networks as ONNX files: what the package ships and `bpr export-weights --format onnx` writes.

OpenVINO reads them without PyTorch. Their metadata say which weights they hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpr.refiner.model_config import ModelConfig, PatchSize
from bpr.refiner.openvino_predictor import openvino_core

_METADATA = "framework"  # where OpenVINO puts the metadata of an ONNX file


@dataclass(frozen=True, eq=False)
class ConvertedModel:
    """An OpenVINO model, and the weights it was made from."""

    model: Any  # openvino.Model: (N, S, S, C) uint8 -> (N, S, S) float32, of any N
    config: ModelConfig
    sha256: str  # of the weights' .safetensors or .pth file, hexadecimal
    name: str  # of the weights


def read_onnx(path: Path) -> ConvertedModel:
    """Read an exported network.

    Args:
        path: an .onnx file of `bpr.refiner.export.export_onnx`.

    Raises:
        ValueError: the file is damaged, or was not exported by bpr.
    """
    try:
        model = openvino_core().read_model(path)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-200:]
        raise ValueError(f"{path}: expected a readable ONNX file, got: {reason}") from None
    try:
        about = {
            name: str(model.get_rt_info([_METADATA, name]).value)
            for name in ("architecture", "input_size", "patch_size", "padding", "data", "licence")
        }
        sha256, name = (
            str(model.get_rt_info([_METADATA, key]).value) for key in ("weights_sha256", "weights")
        )
        known: dict[str, PatchSize] = {"auto": None, "passes": "passes"}
        text = about["patch_size"]
        patch_size = known[text] if text in known else int(text)
        config = ModelConfig(
            architecture=about["architecture"],
            input_size=int(about["input_size"]),
            patch_size=patch_size,
            padding=int(about["padding"]),
            data=about["data"],
            licence=about["licence"],
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[-200:]
        raise ValueError(
            f"{path}: expected an ONNX file of `bpr export-weights`, whose metadata name its "
            f"weights, got: {reason}"
        ) from None
    return ConvertedModel(model, config, sha256, name)
