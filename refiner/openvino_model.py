"""Weights as OpenVINO models: read from ONNX, or converted by PyTorch once and then cached.

Importing torch and timm and converting take ten seconds, reading a converted model a moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from bpr._extras import require
from bpr._weight_files import file_sha256, find_weights
from bpr.refiner.model_config import SHIPPED, WEIGHT_ENDINGS, ModelConfig
from bpr.refiner.onnx_model import ConvertedModel, read_onnx
from bpr.refiner.openvino_predictor import import_openvino, openvino_core

if TYPE_CHECKING:
    from torch import nn

KEPT_MODELS = 8  # in the cache, 8 MB (hrnet18s) to 130 MB (hrnet48) each

_MODEL = "model.xml"
_CONFIG = "config.json"
_MADE_BY = ("network.py", "unet.py", "checkpoints.py", "torch_predictor.py", "openvino_model.py")


def load_converted(weights: str | Path) -> ConvertedModel:
    """Read weights as an OpenVINO model.

    Shipped weights are there as ONNX, which needs no PyTorch. Others are converted by PyTorch once
    and kept in the user's cache (`platformdirs.user_cache_path("bpr")`), which knows weights by
    their content and the conversion by its code, so that nothing in it gets stale. A cache that
    cannot be read or written is not used.

    Raises:
        ValueError: as for `bpr.refiner.checkpoints.load_model`, or PyTorch is needed and not
            installed.
    """
    path, name = find_weights(weights, SHIPPED, WEIGHT_ENDINGS)
    if path.parent == SHIPPED:
        return read_onnx(path.with_suffix(".onnx"))
    if path.suffix == ".onnx":
        return read_onnx(path)
    require("torch", "timm", purpose=f"{path}")
    sha256 = file_sha256(path)
    folder = _cache() / f"{sha256[:32]}-{_makers()[:16]}"
    # whatever is wrong with a cached model, the weights are still there
    with contextlib.suppress(OSError, ValueError, TypeError, RuntimeError):
        config = ModelConfig(**json.loads((folder / _CONFIG).read_text()))
        model = openvino_core().read_model(folder / _MODEL)
        return ConvertedModel(model, config, sha256, name)

    from bpr.refiner.checkpoints import load_model

    loaded = load_model(path)
    model = convert(loaded.network, loaded.config.input_size)
    with contextlib.suppress(OSError, RuntimeError):
        _keep(model, loaded.config, folder)
    return ConvertedModel(model, loaded.config, sha256, name)


def convert(network: nn.Module, input_size: int) -> Any:
    """Turn a network into an OpenVINO model of any batch size.

    Normalising and enlarging the logits become part of it.

    Args:
        network: a PatchNetwork or a PatchUNet on the CPU; not changed.
        input_size: side S of the patches in pixels.

    Returns:
        openvino.Model: (N, S, S, C) uint8 -> (N, S, S) float32.
    """
    import torch

    from bpr.refiner.network import object_logits
    from bpr.refiner.torch_predictor import fold_batch_norms

    # Tracing a function over folded, constant weights takes 0.1 s and converting it 0.5 s;
    # handing the module to the converter takes 8 s.
    constant = fold_batch_norms(network)
    channels: int = network.channels  # type: ignore[assignment]
    example = torch.zeros(2, input_size, input_size, channels, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        # PyTorch calls tracing deprecated, but what replaces it converts six times slower
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            lambda patches: object_logits(constant, patches), example, check_trace=False
        )
        return import_openvino().convert_model(
            traced, example_input=example, input=[-1, input_size, input_size, channels]
        )


def _cache() -> Path:
    return platformdirs.user_cache_path("bpr", appauthor=False) / "openvino"


def _makers() -> str:
    """A hash of what a model depends on besides its weights."""
    digest = hashlib.sha256()
    for package in ("openvino", "timm", "torch"):
        digest.update(f"{package} {version(package)}\n".encode())
    for file in _MADE_BY:
        digest.update(Path(__file__).with_name(file).read_bytes())
    return digest.hexdigest()


def _keep(model: Any, config: ModelConfig, folder: Path) -> None:
    """Put a model into the cache, whole or not at all, and drop the oldest ones."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        import_openvino().save_model(model, temporary / _MODEL, compress_to_fp16=False)
        (temporary / _CONFIG).write_text(json.dumps(asdict(config)))
        with contextlib.suppress(FileExistsError):
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    models = sorted(folder.parent.glob("[!.]*"), key=lambda kept: kept.stat().st_mtime)
    for old in models[:-KEPT_MODELS]:
        shutil.rmtree(old, ignore_errors=True)
