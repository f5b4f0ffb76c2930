"""Files of weights, for the patch network and for detectors: finding, hashing, writing, checking.

PyTorch is imported only where tensors are read or written, so that a program that runs an ONNX
file starts without it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bpr._paths import AnyPath
from bpr._replace import replace_file

if TYPE_CHECKING:
    from torch import Tensor

HUB_FILE = "model.safetensors"
"""What a folder of the Hugging Face hub calls its weights."""

_NUM_SHOWN = 3  # names in a message about missing or unexpected tensors


class OtherTensors(ValueError):
    """A file lacks tensors of its architecture, or has others. The message names the first few.

    Args:
        path: the file.
        architecture: whose tensors were expected.
        missing: names that the file lacks.
        unexpected: names that the architecture does not know.
    """

    def __init__(
        self, path: Path, architecture: str, missing: list[str], unexpected: list[str]
    ) -> None:
        self.missing, self.unexpected = missing, unexpected
        super().__init__(
            f"{path}: expected the tensors of {architecture}, got "
            f"missing {first_names(missing)}; unexpected {first_names(unexpected)}"
        )


def shipped_names(folder: Path) -> tuple[str, ...]:
    """Names of the weights in a folder of the package, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.safetensors")))


def find_weights(weights: str | Path, shipped: Path, endings: Sequence[str]) -> tuple[Path, str]:
    """Find a file of weights, and the name to show for it.

    Args:
        weights: a name of `shipped_names`, a path, or a folder of the Hugging Face hub with
            `model.safetensors`.
        shipped: the package's folder of weights.
        endings: of files that can be read.

    Raises:
        ValueError: there is no such name or file.
    """
    if isinstance(weights, str) and weights in shipped_names(shipped):
        return shipped / f"{weights}.safetensors", weights
    path = Path(weights)
    if path.is_file():
        if path.suffix not in endings:
            expected = f"{', '.join(endings[:-1])} or {endings[-1]}"
            raise ValueError(f"{path}: expected a file ending in {expected}, got {path.suffix!r}")
        return path, path.stem
    if path.is_dir():
        if (path / HUB_FILE).is_file():
            return path / HUB_FILE, path.name
        raise ValueError(f"{path}: expected a file with weights, got a folder without {HUB_FILE}")
    if path.suffix or len(path.parts) > 1:
        raise ValueError(f"{path}: expected a file with weights, got no such file")
    names = ", ".join(shipped_names(shipped)) or "none"
    raise ValueError(
        f"weights: expected a file or one of the shipped names ({names}), got {str(weights)!r}"
    )


def file_sha256(path: AnyPath) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], half_from: int | None
) -> None:
    """Write weights into one file, which appears under its name only when it is complete.

    The same tensors and metadata give the same bytes.

    Args:
        path: ends in .safetensors; its folder is made where it is missing.
        tensors: by name, on any device, in any memory format.
        metadata: text by name, kept in the file.
        half_from: tensors of this many dimensions or more are kept as float16, half the size;
            the others, and with None all, stay float32.

    Raises:
        ValueError: the ending is another, or a weight is not a finite number in its type.
    """
    import torch
    from safetensors.torch import save

    check_ending(path)
    stored = {}
    for key, tensor in tensors.items():
        is_half = half_from is not None and tensor.ndim >= half_from
        dtype = torch.float16 if is_half else torch.float32
        stored[key] = tensor.detach().to("cpu", dtype).contiguous()
        if not bool(stored[key].isfinite().all()):
            raise ValueError(f"{path}, {key}: expected finite {dtype} weights, got others")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # save_file would make the file readable for its owner only
        temporary.write_bytes(save(stored, metadata=dict(metadata)))
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_ending(path: Path) -> None:
    """ValueError unless a file of weights is to be called `.safetensors`."""
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a name ending in .safetensors, got {path.suffix!r}")


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read the metadata and the tensors of a file.

    Raises:
        ValueError: the file is damaged, or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a complete safetensors file, got {error}") from error


def check_tensors(
    path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
) -> None:
    """Check that tensors have the shapes expected, and hold finite numbers.

    Args:
        path: of their file, for the message.
        tensors: by name, all of them in `shapes`.
        shapes: by name.

    Raises:
        ValueError: one does not; the message names it.
    """
    for key, tensor in tensors.items():
        if tuple(tensor.shape) != tuple(shapes[key]):
            raise ValueError(
                f"{path}, {key}: expected shape {tuple(shapes[key])}, got {tuple(tensor.shape)}"
            )
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise ValueError(f"{path}, {key}: expected finite floating-point numbers, got others")


def first_names(names: Sequence[str]) -> str:
    """The first names of a list and how many more there are, for a message."""
    if not names:
        return "none"
    rest = f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else ""
    return ", ".join(names[:_NUM_SHOWN]) + rest
