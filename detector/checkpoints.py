"""Detectors on disk: our one-file format, and the checkpoints that others published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from bpr.detector.build import Detector, build_detector
from bpr.detector.categories import Categories, published_categories
from bpr.detector.layouts import (
    Converted,
    convert,
    count_categories,
    find_layout,
    layout_of,
    recognise,
)
from bpr.detector.presets import PRESETS, find_preset

_METADATA_KEY = "bpr-detector"
# torchvision names a file by the first digits of its sha256
_TORCHVISION_V1 = ("bf2d0c1e", "maskrcnn_resnet50_fpn_coco_v1")
_SHIPPED = Path(__file__).parent / "weights"
_ENDINGS = (".safetensors", ".pth", ".pt", ".pkl")


@dataclass(frozen=True)
class DetectorInfo:
    """What a program must know to use weights, kept in the same file."""

    preset: str  # a key of PRESETS
    categories: Categories  # label 1 is the first of them
    data: str = ""  # what the weights were trained on, in words
    licence: str = ""  # what that allows, in words

    def __post_init__(self) -> None:
        find_preset(self.preset)
        for name in ("data", "licence"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}: expected text, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class DetectorReport:
    """What became of the tensors of a published checkpoint."""

    source: Path
    layout: str  # detectron2, mmdetection or torchvision
    info: DetectorInfo
    renamed: Mapping[str, str]  # name in the file -> ours; all of them are used
    missing: tuple[str, ...]  # ours that the file lacks, and that start as 0 or 1 (batch norms)
    left_over: tuple[str, ...]  # names in the file that no detector needs


def save_detector(path: Path, model: Detector, info: DetectorInfo, half: bool = False) -> None:
    """Write weights and what belongs to them into one safetensors file.

    The file appears under its name only when it is complete. The same weights and information
    give the same bytes.

    Args:
        path: ends in .safetensors; its folder is made where it is missing.
        model: built from `info.preset`, on any device.
        info: kept as JSON in the file's metadata, under "bpr-detector".
        half: keep convolutions and linear layers as float16, half the size.

    Raises:
        ValueError: the ending or the number of categories does not fit, a weight is not a finite
            number.
    """
    path = Path(path)
    check_ending(path)
    if model.categories != len(info.categories):
        raise ValueError(
            f"{path}: expected the names of {model.categories} categories, "
            f"got {len(info.categories)}"
        )
    about = {
        "preset": info.preset,
        "names": info.categories.names,
        "ids": info.categories.ids,
        "data": info.data,
        "licence": info.licence,
    }
    metadata = {_METADATA_KEY: json.dumps(about, sort_keys=True)}
    write_safetensors(path, model.state_dict(), metadata, half_from=2 if half else None)


def find_detector(weights: str | Path) -> tuple[Path, str]:
    """Where the weights of a detector lie, and what they are called.

    Args:
        weights: name of a shipped one, or path of a file that `load_detector` reads.

    Raises:
        ValueError: there is no such name or file.
    """
    return find_weights(weights, _SHIPPED, _ENDINGS)


def load_detector(weights: str | Path, preset: str | None = None) -> tuple[Detector, DetectorInfo]:
    """Read a detector, ours or a published one.

    Args:
        weights: name of a shipped one, a .safetensors file of `save_detector`, or what
            `import_detector` reads.
        preset: of a published one, where the file alone does not tell.

    Returns:
        The model in evaluation mode, float32, on the CPU.

    Raises:
        ValueError: there is no such file, or it is not what it should be.
    """
    path, _ = find_detector(weights)
    if path.suffix == ".safetensors":
        return _read_own(path)
    model, report = import_detector(path, preset)
    return model, report.info


def import_detector(path: Path, preset: str | None = None) -> tuple[Detector, DetectorReport]:
    """Read a checkpoint of detectron2, BMask R-CNN, mmdetection, RefineMask or torchvision.

    Nothing in the file is executed. Every tensor must be used, present and of its shape; only
    batch norms may lack their statistics, and what no detector needs is left over.

    Args:
        path: .pth, .pt or .pkl; see `bpr._published_weights.read_published`.
        preset: a name of `PRESETS`; otherwise the first that fits the tensors. Those that fit
            the same tensors differ in training and in the sizes of images.

    Returns:
        The model in evaluation mode, float32 exactly as in the file; what became of the tensors.

    Raises:
        ValueError: no such file, damaged, objects other than tensors, other tensors.
    """
    path = Path(path)
    published = read_published(path)
    layout = find_layout(published.tensors)
    if layout is None:
        raise ValueError(
            f"{path}: expected a detector of detectron2, mmdetection or torchvision, "
            f"got {first_names(list(published.tensors))}"
        )
    sha256 = file_sha256(path)
    name = preset or _find_preset(path, published, layout, sha256)
    if layout_of(find_preset(name)) != layout:
        raise ValueError(
            f"{path}: expected a preset of {layout}, whose tensors these are, got {name}"
        )
    number = count_categories(published.tensors, layout)
    if number < 1:
        raise ValueError(f"{path}: expected the scores of categories in it, got none")
    with torch.device("meta"):  # no time and no random numbers for weights soon replaced
        model = build_detector(find_preset(name), number)
    converted = convert(published.tensors, layout)
    missing = _fill(path, name, model, converted)
    info = DetectorInfo(
        name,
        published_categories(number, published.classes),
        data=f"{PRESETS[name].data} by its shapes; imported from {path.name}, sha256 {sha256}",
        licence="the authors'; the training data's terms apply to the weights",
    )
    report = DetectorReport(path, layout, info, converted.renamed, missing, converted.left_over)
    return model.eval(), report


def convert_detector(source: Path, out: Path, preset: str | None = None) -> DetectorReport:
    """Turn a published checkpoint into our format, every weight exactly as it was.

    Args:
        source: see `import_detector`.
        out: see `save_detector`.
        preset: see `import_detector`.

    Raises:
        ValueError: from either of the two.
    """
    model, report = import_detector(source, preset)
    save_detector(out, model, report.info)
    return report


def is_detector(published: Published) -> bool:
    """A checkpoint has the tensors of a detector that we can import."""
    return find_layout(published.tensors) is not None


def _find_preset(path: Path, published: Published, layout: str, sha256: str) -> str:
    digits, first_weights = _TORCHVISION_V1
    if sha256.startswith(digits):
        return first_weights
    name = recognise(published.tensors, layout)
    if name is None:
        raise ValueError(
            f"{path}: expected a detector with a ResNet-50, ResNet-101 or ResNeXt-101 32x8d and "
            f"a pyramid that {layout} has published, got another architecture; name the nearest "
            "preset to see what differs"
        )
    return name


def _fill(path: Path, preset: str, model: Detector, converted: Converted) -> tuple[str, ...]:
    """Give tensors to an empty model; returns the names of those that only have a default."""
    wanted = model.state_dict()
    given = dict(converted.tensors)
    absent = [key for key in wanted if key not in given]
    for key in absent:
        if key.endswith(("running_mean", "running_var")):
            make = torch.zeros if key.endswith("mean") else torch.ones
            given[key] = make(wanted[key].shape, device="cpu")
    missing = [key for key in absent if key not in given]
    unexpected = [*converted.unknown, *(key for key in given if key not in wanted)]
    if missing or unexpected:
        raise OtherTensors(path, preset, missing, unexpected)
    check_tensors(path, given, _shapes(wanted))
    model.load_state_dict(
        {key: tensor.float().contiguous() for key, tensor in given.items()}, assign=True
    )
    return tuple(absent)


def _read_own(path: Path) -> tuple[Detector, DetectorInfo]:
    metadata, tensors = read_safetensors(path)
    if _METADATA_KEY not in metadata:
        kind = "of a refiner" if "bpr" in metadata else "of something else"
        raise ValueError(f"{path}: expected weights of a detector, got weights {kind}")
    info = _parse_info(path, metadata[_METADATA_KEY])
    with torch.device("meta"):
        model = build_detector(find_preset(info.preset), len(info.categories))
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in tensors]
    unexpected = [key for key in tensors if key not in wanted]
    if missing or unexpected:
        raise OtherTensors(path, info.preset, missing, unexpected)
    check_tensors(path, tensors, _shapes(wanted))
    model.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, assign=True)
    return model.eval(), info


def _parse_info(path: Path, text: str) -> DetectorInfo:
    try:
        values: Any = json.loads(text)
        names, ids = (tuple(values.pop(key)) for key in ("names", "ids"))
        return DetectorInfo(categories=Categories(names, ids), **values)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = str(error) if type(error) is ValueError else text[:200]
        raise ValueError(f"{path}, metadata: expected a detector's, got {reason}") from error


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}
