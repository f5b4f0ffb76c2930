"""What weights are: their names, their files and what a program must know to use them.

No torch in here: a program that only runs a converted network starts without it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

ARCHITECTURES = {
    "hrnet18xs": "hrnet_w18_small",
    "hrnet18s": "hrnet_w18_small_v2",
    "hrnet48": "hrnet_w48",
    "unet-lite0": "tf_efficientnet_lite0",
}
"""Our name of an architecture -> timm's."""

DEFAULT_ARCHITECTURE = "hrnet18s"
"""Trained where neither a name nor weights to start from are given."""

CHANNELS = {"unet-lite0": 7}
"""Channels of the patches that an architecture takes, where they are not colours and mask alone."""

PatchSize = int | Literal["passes"] | None
"""Side of the patches in image pixels, even, > 0; None follows the object, "passes" goes from wide
to narrow."""

STRIDE = 32
"""Patches must be a multiple of this many pixels wide: the lowest branch sees 1/32."""

SHIPPED = Path(__file__).parent / "weights"
"""Folder of the weights in the package."""

WEIGHT_ENDINGS = (".safetensors", ".onnx", ".pth", ".pt")
"""Of files of weights: ours, ours exported, and published ones."""

METADATA_KEY = "bpr"
"""Where a .safetensors file of ours keeps its `ModelConfig`, as JSON."""

DEFAULT_WEIGHTS = "unet-lite0"
"""Name of the bundled weights that are used where the caller names none."""

PAPER_WEIGHTS = "hrnet18s"
"""The same where the paper's single pass is asked for."""


def default_weights(compat: bool, padding: int | None) -> str:
    """The bundled weights to use where the caller names none.

    Args:
        compat: patches are cut and merged as the authors' code does.
        padding: pixels around a patch that the network also sees, or None.
    """
    return PAPER_WEIGHTS if compat or padding else DEFAULT_WEIGHTS


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a program must know to use weights, kept in the same file."""

    architecture: str  # a key of ARCHITECTURES
    input_size: int  # side of the network's input in pixels, a multiple of 32
    patch_size: PatchSize = None
    """That the weights were trained with."""
    padding: int = 0  # context around a patch in image pixels, >= 0
    data: str = ""  # what the weights were trained on, in words
    licence: str = ""  # what that allows, in words

    @property
    def channels(self) -> int:
        """Of the network's patches."""
        return CHANNELS.get(self.architecture, 4)

    def __post_init__(self) -> None:
        if not isinstance(self.architecture, str) or self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"architecture: expected one of {', '.join(ARCHITECTURES)}, "
                f"got {self.architecture!r}"
            )
        if not _is_int(self.input_size) or self.input_size <= 0 or self.input_size % STRIDE:
            raise ValueError(
                f"input_size: expected a multiple of {STRIDE} > 0, got {self.input_size!r}"
            )
        if self.patch_size not in (None, "passes") and (
            not isinstance(self.patch_size, int)
            or isinstance(self.patch_size, bool)
            or self.patch_size <= 0
            or self.patch_size % 2
        ):
            raise ValueError(
                f"patch_size: expected an even int > 0, 'passes' or None, got {self.patch_size!r}"
            )
        if not _is_int(self.padding) or self.padding < 0:
            raise ValueError(f"padding: expected an int >= 0, got {self.padding!r}")
        for name in ("data", "licence"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}: expected text, got {getattr(self, name)!r}")


def parse_config(path: Path, text: str) -> ModelConfig:
    """Read the configuration that a .safetensors file of ours holds.

    Args:
        path: of the file, for messages.
        text: JSON, the metadata under `METADATA_KEY`.

    Raises:
        ValueError: it is not a configuration.
    """
    try:
        values: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, metadata: expected JSON, got {text[:60]!r}") from error
    known = {field.name for field in fields(ModelConfig)}
    if not isinstance(values, dict) or not {"architecture", "input_size"} <= set(values) <= known:
        raise ValueError(
            f"{path}, metadata: expected an object with {', '.join(sorted(known))}, "
            f"got {text[:200]}"
        )
    try:
        return ModelConfig(**values)
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
