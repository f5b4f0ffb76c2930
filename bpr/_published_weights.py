"""Checkpoints that others published, read without running anything that is in them."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_STATES = ("state_dict", "model")  # where mmcv and detectron2 keep the tensors

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


@dataclass(frozen=True, eq=False)
class Published:
    """What is of use in a published checkpoint."""

    tensors: Mapping[str, Tensor]  # on the CPU, without a `module.` prefix
    classes: tuple[str, ...]  # names that mmcv keeps beside them; often there are none


def read_published(path: Path) -> Published:
    """Read a PyTorch checkpoint, or one of detectron2's pickles of numpy arrays.

    Args:
        path: of a pickle of arrays, or what PyTorch wrote, whatever its ending: a state dict,
            or a dict with one as `state_dict` or `model`.

    Raises:
        ValueError: no such file, damaged, objects other than tensors; one line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected a checkpoint, got no such file")
    checkpoint = _load_tensors(path) if _is_torch(path) else _load_arrays(path)
    if isinstance(checkpoint, dict) and "blobs" in checkpoint:
        raise ValueError(
            f"{path}: expected a checkpoint of detectron2, got one of caffe2 ('blobs'); let "
            "detectron2 convert it first"
        )
    state: Any = checkpoint
    if isinstance(checkpoint, dict):
        state = next((checkpoint[name] for name in _STATES if name in checkpoint), checkpoint)
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path}: expected a state dict of tensors, got {type(state).__name__}")
    tensors = {}
    for key, value in state.items():
        is_numbers = isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
        tensor = torch.from_numpy(value) if is_numbers else value
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise ValueError(
                f"{path}: expected a state dict of tensors, got {type(value).__name__} at {key!r}"
            )
        tensors[key.removeprefix("module.")] = tensor
    return Published(tensors, _classes(checkpoint))


def _classes(checkpoint: Any) -> tuple[str, ...]:
    meta = checkpoint.get("meta") if isinstance(checkpoint, dict) else None
    names = meta.get("CLASSES") if isinstance(meta, dict) else None
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return ()


def _is_torch(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(max(map(len, _TORCH_MARKS)))
    return start.startswith(_TORCH_MARKS)


def _load_tensors(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_ALLOWED_IN_TORCH):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in any of its parsers
        # PyTorch's own message advises to unpickle after all
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise _refusal(path, refused[1]) from None
        raise ValueError(
            f"{path}: expected a readable checkpoint, got a damaged or other file "
            f"({type(error).__name__})"
        ) from None


class _Refused(Exception):
    """The pickle asks for something else than arrays."""


class _ArrayUnpickler(pickle.Unpickler):
    """Builds plain values and numpy arrays; nothing else can even be named."""

    def find_class(self, module: str, name: str) -> Any:
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
