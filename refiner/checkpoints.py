"""Weights on disk: our one-file format, and the checkpoints the authors published."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from bpr._published_weights import Published, read_published
from bpr._weight_files import (
    OtherTensors,
    check_ending,
    check_tensors,
    file_sha256,
    find_weights,
    first_names,
    read_safetensors,
    write_safetensors,
)
from bpr.refiner.model_config import (
    DEFAULT_WEIGHTS,
    METADATA_KEY,
    SHIPPED,
    WEIGHT_ENDINGS,
    ModelConfig,
    parse_config,
)
from bpr.refiner.network import PatchNetwork
from bpr.refiner.unet import PatchUNet

Network = PatchNetwork | PatchUNet
"""The paper's network, or the one that refines in passes."""

_COUNTER = "num_batches_tracked"  # batch norm with a fixed momentum never reads it

# The authors name a file by the first digits of its sha256, so the hash says what it is
_PUBLISHED_DATA = {"24055c80": "Cityscapes", "cbf4922c": "Cityscapes", "c172955f": "COCO"}
_PUBLISHED_INPUT_SIZE = {"hrnet18s": 128, "hrnet48": 256}
# One tensor whose shape tells the published architectures apart, and its width in each
_WIDTH_KEY = "decode_head.convs.0.conv.weight"
_WIDTHS = {270: "hrnet18s", 720: "hrnet48"}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network read from a file, and where it came from."""

    network: Network  # float32, on the CPU, in eval mode
    config: ModelConfig
    sha256: str  # of the file, hexadecimal
    name: str  # of the shipped weights, or the file's name without its ending


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What `convert_weights` did."""

    source: Path
    out: Path
    architecture: str
    num_tensors: int  # read from the source, batch counters included
    config: ModelConfig


def save_model(path: Path, network: Network, config: ModelConfig, half: bool = True) -> None:
    """Write weights and configuration into one safetensors file.

    The file appears under its name only when it is complete. The same weights and configuration
    give the same bytes.

    Args:
        path: ends in .safetensors; its folder is made where it is missing.
        network: on any device, in any memory format.
        config: kept as JSON in the file's metadata, under "bpr".
        half: keep convolutions as float16, half the size; everything else stays float32.
            False keeps every weight exactly, for weights that are not ours to round.

    Raises:
        ValueError: the ending or the architecture does not fit, a weight is not a finite
            number (of float16 where `half`).
    """
    path = Path(path)
    check_ending(path)
    if network.architecture != config.architecture:
        raise ValueError(
            f"{path}: expected a configuration of {network.architecture}, got {config.architecture}"
        )
    tensors = {
        key: tensor for key, tensor in network.state_dict().items() if not key.endswith(_COUNTER)
    }
    metadata = {METADATA_KEY: json.dumps(asdict(config), sort_keys=True)}
    write_safetensors(path, tensors, metadata, half_from=4 if half else None)


def load_model(weights: str | Path = DEFAULT_WEIGHTS) -> LoadedModel:
    """Read weights, ours or published ones.

    Args:
        weights: name of shipped weights, path of a .safetensors file of `save_model`, or path
            of a published .pth (see `import_mmseg`).

    Raises:
        ValueError: there is no such name or file, or the file is not what it should be.
    """
    path, name = find_weights(weights, SHIPPED, WEIGHT_ENDINGS)
    if path.suffix == ".onnx":
        raise ValueError(
            f"{path}: expected a .safetensors or .pth file for PyTorch, got an ONNX file, which "
            "only the openvino backend runs"
        )
    if path.suffix == ".safetensors":
        network, config = _read_own(path)
    else:
        network, config = import_mmseg(path)
    return LoadedModel(network.eval(), config, file_sha256(path), name)


def is_published_refiner(published: Published) -> bool:
    """Whether a checkpoint has the tensors of a refinement network that its authors published."""
    return _WIDTH_KEY in published.tensors


def import_mmseg(path: Path) -> tuple[PatchNetwork, ModelConfig]:
    """Read a checkpoint in the layout of the published ones (mmsegmentation).

    The file is read as tensors only: it is never unpickled. The architecture follows from the
    shapes. Every tensor must be used and present; only batch counters may be missing.

    Args:
        path: a dict with `state_dict`, or a bare state dict; a `module.` prefix is removed.

    Returns:
        The network in eval mode, float32 exactly as in the file; the configuration the
        authors used.

    Raises:
        ValueError: no such file, damaged, objects other than tensors, other tensors.

    Source: github.com/chenhang98/BPR, tools/test_float.py, which ignores keys that do not fit.
    """
    network, config, _ = _import_mmseg(Path(path))
    return network, config


def convert_weights(source: Path, out: Path) -> ImportReport:
    """Turn a published checkpoint into our format, every weight exactly as it was.

    Args:
        source: see `import_mmseg`.
        out: see `save_model`.

    Raises:
        ValueError: from either of the two.
    """
    network, config, num_tensors = _import_mmseg(Path(source))
    save_model(out, network, config, half=False)
    return ImportReport(
        source=Path(source),
        out=Path(out),
        architecture=config.architecture,
        num_tensors=num_tensors,
        config=config,
    )


def _read_own(path: Path) -> tuple[Network, ModelConfig]:
    metadata, tensors = read_safetensors(path)
    if METADATA_KEY not in metadata:
        raise ValueError(
            f"{path}: expected weights written by bpr, got a safetensors file without "
            f"{METADATA_KEY!r} in its metadata"
        )
    config = parse_config(path, metadata[METADATA_KEY])
    network = _empty_network(config.architecture)
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    _check(path, config.architecture, tensors, shapes)
    _fill(network, tensors)
    return network, config


def _empty_network(architecture: str) -> Network:
    """A network without memory: no time and no random numbers go into weights soon replaced."""
    with torch.device("meta"):
        if architecture == PatchUNet.architecture:
            return PatchUNet()
        return PatchNetwork(architecture)


def _fill(network: Network, tensors: Mapping[str, Tensor]) -> None:
    """Give checked tensors to an empty network, as float32, and set it to eval."""
    state = {key: tensor.float().contiguous() for key, tensor in tensors.items()}
    for key in network.state_dict():
        if key.endswith(_COUNTER):
            state[key] = torch.zeros((), dtype=torch.int64)
    network.load_state_dict(state, assign=True)
    network.eval()


def _check(
    path: Path,
    architecture: str,
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """ValueError unless the tensors are those of the architecture, finite and of its shapes."""
    missing = [key for key in shapes if key not in tensors and not key.endswith(_COUNTER)]
    unexpected = [key for key in tensors if key not in shapes]
    if missing or unexpected:
        raise OtherTensors(path, architecture, missing, unexpected)
    weights = {key: value for key, value in tensors.items() if not key.endswith(_COUNTER)}
    check_tensors(path, weights, shapes)


def _import_mmseg(path: Path) -> tuple[PatchNetwork, ModelConfig, int]:
    tensors = read_published(path).tensors
    if _WIDTH_KEY not in tensors:
        raise ValueError(
            f"{path}: expected a checkpoint of the published refinement networks, "
            f"got no {_WIDTH_KEY} but {first_names(list(tensors))}"
        )
    width = tensors[_WIDTH_KEY].shape[0] if tensors[_WIDTH_KEY].ndim else 0
    if width not in _WIDTHS:
        raise ValueError(
            f"{path}, {_WIDTH_KEY}: expected "
            f"{' or '.join(f'{size} ({name})' for size, name in _WIDTHS.items())} channels, "
            f"got {width}"
        )
    architecture = _WIDTHS[width]
    network = _empty_network(architecture)
    assert isinstance(network, PatchNetwork)  # the authors published no other
    shapes: dict[str, tuple[int, ...]] = {}
    for key, value in network.state_dict().items():
        if key == "backbone.conv1.weight":
            shapes[key] = (value.shape[0], 3, *value.shape[2:])
            shapes["backbone.conv_mask.weight"] = (value.shape[0], 1, *value.shape[2:])
        else:
            shapes[_published_key(key)] = tuple(value.shape)
    _check(path, architecture, tensors, shapes)
    # two convolutions that are summed are one over the concatenated channels
    stem = [tensors[f"backbone.{name}.weight"].float() for name in ("conv1", "conv_mask")]
    own = {
        key: torch.cat(stem, dim=1)
        if key == "backbone.conv1.weight"
        else tensors[_published_key(key)]
        for key in network.state_dict()
        if not key.endswith(_COUNTER)
    }
    _fill(network, own)
    sha256 = file_sha256(path)
    data = _PUBLISHED_DATA.get(sha256[:8])
    config = ModelConfig(
        architecture=architecture,
        input_size=_PUBLISHED_INPUT_SIZE[architecture],
        patch_size=64,
        padding=0,
        data=f"{data or 'not stated in the file'}; imported from {path.name}, sha256 {sha256}",
        licence=(
            "the authors' (code Apache-2.0); the training data's terms apply to the weights"
            + (": non-commercial" if data == "Cityscapes" else "")
        ),
    )
    return network, config, len(tensors)


def _published_key(key: str) -> str:
    key = key.replace("head.classifier.", "decode_head.conv_seg.")
    return re.sub(r"^head\.", "decode_head.convs.0.", key)
