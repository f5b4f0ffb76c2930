"""What weights are, without loading the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from bpr._extras import require
from bpr._weight_files import file_sha256, find_weights
from bpr.refiner.model_config import (
    METADATA_KEY,
    SHIPPED,
    WEIGHT_ENDINGS,
    ModelConfig,
    parse_config,
)


@dataclass(frozen=True)
class WeightsInfo:
    """Which weights a file holds."""

    config: ModelConfig
    sha256: str  # of the file, hexadecimal; of an ONNX file, of the weights that it was made from
    name: str


def read_weights_info(weights: str | Path) -> WeightsInfo:
    """Read what a file of weights says about itself. Only a published .pth needs PyTorch.

    Args:
        weights: name of shipped weights, or path of a .safetensors, .onnx or published file.

    Raises:
        ValueError: there is no such name or file, it is damaged, or PyTorch is not installed.
    """
    path, name = find_weights(weights, SHIPPED, WEIGHT_ENDINGS)
    if path.suffix == ".onnx":
        from bpr.refiner.onnx_model import read_onnx

        converted = read_onnx(path)
        return WeightsInfo(converted.config, converted.sha256, converted.name)
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
        except SafetensorError as error:
            raise ValueError(f"{path}: expected a complete safetensors file, got {error}") from None
        if METADATA_KEY in metadata:
            config = parse_config(path, metadata[METADATA_KEY])
            return WeightsInfo(config, file_sha256(path), name)
    require("torch", "timm", purpose=str(path))
    from bpr.refiner.checkpoints import load_model

    model = load_model(path)
    return WeightsInfo(model.config, model.sha256, name)
