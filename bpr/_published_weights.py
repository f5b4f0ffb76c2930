"""Checkpoints that others published, read without running anything that is in them."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bpr._weight_files import HUB_FILE, read_safetensors

Which = Literal["model", "ema"]

_STATES = ("state_dict", "model")  # where mmcv and detectron2 keep the tensors
# where a moving average is kept: beside the tensors, or among them under a prefix (mmcv writes
# ema_backbone_conv1_weight for backbone.conv1.weight)
_AVERAGES = ("model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "ema")
_AVERAGE_PREFIX = re.compile(r"^(?:ema_model\.|model_ema\.|ema\.|ema_)")
# what wrappers put before every name: DataParallel, Lightning, torch.compile
_WRAPPERS = re.compile(r"^(?:(?:module|model|detector|network|net|_orig_mod)\.)+")
_COUNTERS = ("n_averaged", "steps")  # of the averages

# PyTorch's files: a zip archive; before version 1.6 a pickle that begins with this number
_TORCH_MARKS = (b"PK", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, as the pickles of before Python 3 hold them."""
    if encoding != "latin1":
        raise _Refused(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


# What a pickle needs to build numpy arrays, by the names that old and new numpy give it
_NUMPY: dict[tuple[str, str], Any] = {
    (f"numpy.{core}.{module}", name): getattr(import_module(f"numpy._core.{module}"), name)
    for core in ("core", "_core")
    for module, name in (
        ("multiarray", "_reconstruct"),
        ("multiarray", "scalar"),
        ("numeric", "_frombuffer"),
    )
} | {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
_ALLOWED: dict[tuple[str, str], Any] = {
    **_NUMPY,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
}
# PyTorch asks for the classes of the numbers too
_ALLOWED_IN_TORCH: list[Any] = [
    *((value, ".".join(name)) for name, value in _NUMPY.items()),
    *{type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"},
]


# Libraries whose objects lie beside the tensors (logs, settings). Nobody needs them: an empty
# stand-in is put in the place of each, and their code never runs.
_BESIDE_TENSORS = {
    *("mmengine", "mmcv", "mmdet", "pytorch_lightning", "lightning", "lightning_fabric"),
    *("omegaconf", "yacs", "argparse", "pathlib", "datetime"),
}
_BESIDE_NAMES = {"collections.defaultdict", "collections.deque", "typing.Any", "getattr"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Published:
    """What is of use in a published checkpoint."""

    tensors: Mapping[str, Tensor]  # on the CPU, without what wrappers put before their names
    classes: tuple[str, ...]  # category names kept beside them; often there are none
    which: Which = "model"  # whether these are the weights or their moving average
    has_average: bool = False  # whether the file has both
    config: str = ""  # text of mmdetection's configuration kept beside them; often there is none


def read_published(path: Path, which: Which = "model") -> Published:
    """Read a checkpoint that another program wrote. Nothing in it is executed.

    Args:
        path: of what PyTorch wrote (also mmengine, Lightning), of a pickle of arrays (detectron2),
            or of a safetensors file, with any ending for the first two; or a folder with
            `model.safetensors`. The tensors are a state dict, or in a dict under `state_dict` or
            `model`.
        which: "model" takes the weights, "ema" the moving average of them beside them. mmcv and
            mmengine exchange the two when they save: their "model" is what they evaluate.

    Raises:
        ValueError: no such file, damaged, objects other than tensors, no such weights; one line.
    """
    path = Path(path)
    if path.is_dir() and (path / HUB_FILE).is_file():
        path = path / HUB_FILE
    if not path.is_file():
        raise ValueError(f"{path}: expected a checkpoint, got no such file")
    checkpoint = _load(path)
    if isinstance(checkpoint, dict) and "blobs" in checkpoint and "model" not in checkpoint:
        checkpoint = {"model": checkpoint["blobs"]}
    state, average = _states(path, checkpoint)
    has_average = bool(state and average)
    wanted = average if which == "ema" else state
    if not wanted and which == "ema":
        raise ValueError(f"{path}: expected a moving average of the weights (ema), found none")
    if not wanted and average:
        raise ValueError(f"{path}: expected weights, found only their moving average (--which ema)")
    if which == "ema":  # it covers trained weights; statistics of batch norms are not among them
        wanted = {**state, **average}
    tensors = {
        key: tensor for key, tensor in _tensors(path, wanted).items() if key not in _COUNTERS
    }
    return Published(
        tensors=tensors,
        classes=_classes(checkpoint),
        which=which,
        has_average=has_average,
        config=_config(checkpoint),
    )


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return read_safetensors(path)[1]
    return _load_tensors(path) if _is_torch(path) else _load_arrays(path)


def _states(path: Path, checkpoint: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights and their moving average, by the names of the weights; each may be empty."""
    if not isinstance(checkpoint, dict):
        raise ValueError(
            f"{path}: expected a state dict of tensors, got {type(checkpoint).__name__}"
        )
    name = next((name for name in _STATES if name in checkpoint), None)
    averages = [key for key in _AVERAGES if isinstance(checkpoint.get(key), dict)]
    state: Any = checkpoint[name] if name else {} if averages else checkpoint
    if not isinstance(state, dict) or not (state or averages):
        raise ValueError(f"{path}: expected a state dict of tensors, got {type(state).__name__}")
    plain = {key: value for key, value in state.items() if not _is_averaged(key)}
    average = {key: value for key, value in state.items() if _is_averaged(key)}
    if plain:  # else every name begins so, which says nothing
        by_word = {key.replace(".", "_"): key for key in plain if isinstance(key, str)}
        average = {
            by_word.get(bare, bare): value
            for key, value in average.items()
            for bare in [_AVERAGE_PREFIX.sub("", key)]
        }
    else:
        plain, average = average, {}
    if averages:
        average = dict(checkpoint[averages[0]])
    return _unwrapped(path, plain), _unwrapped(path, average)


def _is_averaged(key: Any) -> bool:
    return isinstance(key, str) and _AVERAGE_PREFIX.match(key) is not None


def _unwrapped(path: Path, state: Mapping[Any, Any]) -> dict[Any, Any]:
    names = [_WRAPPERS.sub("", key) if isinstance(key, str) else key for key in state]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: expected one tensor of a name, got two of {twice!r}")
    return dict(zip(names, state.values(), strict=True))


def _tensors(path: Path, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    tensors = {}
    for key, value in state.items():
        is_numbers = isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
        tensor = torch.from_numpy(value) if is_numbers else value
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise ValueError(
                f"{path}: expected a state dict of tensors, got {type(value).__name__} at {key!r}"
            )
        tensors[key] = tensor
    return tensors


def _classes(checkpoint: Any) -> tuple[str, ...]:
    """Names of categories: mmcv keeps `CLASSES`, mmengine `classes` of the data set."""
    meta = checkpoint.get("meta")
    if not isinstance(meta, dict):
        return ()
    about = meta.get("dataset_meta")
    about = about if isinstance(about, dict) else {}
    stated = (meta.get("CLASSES"), about.get("classes"), about.get("CLASSES"))
    names = next((names for names in stated if names), None)
    if isinstance(names, str):
        return (names,)
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return ()


def _config(checkpoint: Any) -> str:
    """The configuration that mmdetection 2 keeps as `config`, mmengine as `cfg`."""
    meta = checkpoint.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    return next((meta[n] for n in ("cfg", "config") if isinstance(meta.get(n), str)), "")


def _is_torch(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(max(map(len, _TORCH_MARKS)))
    return start.startswith(_TORCH_MARKS)


def _load_tensors(path: Path) -> Any:
    stand_ins: list[Any] = []
    while True:
        try:
            with torch.serialization.safe_globals([*_ALLOWED_IN_TORCH, *stand_ins]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file fails in any of its parsers
            # PyTorch's own message advises to unpickle after all
            refused = re.search(r"GLOBAL (\S+)", str(error))
            if not isinstance(error, pickle.UnpicklingError) or not refused:
                raise ValueError(
                    f"{path}: expected a readable checkpoint, got a damaged or other file "
                    f"({type(error).__name__})"
                ) from None
            name = refused[1]
            if not _is_beside_tensors(name) or any(name == known for _, known in stand_ins):
                raise _refusal(path, name) from None
            stand_ins.append((_StandIn, name))
            stand_ins.append((_StandIn, f"builtins.{name}"))


def _is_beside_tensors(name: str) -> bool:
    name = name.removeprefix("builtins.")  # PyTorch leaves it out
    return name in _BESIDE_NAMES or name.split(".")[0] in _BESIDE_TENSORS


class _StandIn:
    """In the place of an object that is not needed; takes whatever the file says, does nothing."""

    def __new__(cls, *_arguments: object, **_named: object) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *_arguments: object, **_named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        """Do nothing."""

    def extend(self, items: object) -> None:
        """Do nothing."""


class _Refused(Exception):
    """The pickle asks for something else than arrays."""


class _ArrayUnpickler(pickle.Unpickler):
    """Builds plain values and numpy arrays; nothing else can even be named."""

    def find_class(self, module: str, name: str) -> Any:
        if _is_beside_tensors(f"{module}.{name}"):
            return _StandIn
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return _ALLOWED[module, name]


def _load_arrays(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except _Refused as refused:
        raise _refusal(path, str(refused)) from None
    except Exception as error:  # a damaged pickle fails in any of its instructions
        raise ValueError(
            f"{path}: expected a readable checkpoint, got a damaged or other file "
            f"({type(error).__name__})"
        ) from None


def _refusal(path: Path, name: str) -> ValueError:
    return ValueError(
        f"{path}: expected a checkpoint of tensors, got other objects ({name}); "
        "nothing in the file was executed"
    )
