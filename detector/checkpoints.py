"""Detectors on disk: our one-file format, and the checkpoints that others published."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bpr._published_weights import Published, Which, read_published
from bpr._weight_files import (
    OtherTensors,
    check_ending,
    check_tensors,
    file_sha256,
    find_weights,
    read_safetensors,
    write_safetensors,
)
from bpr.detector.build import Detector, build_detector
from bpr.detector.categories import CITYSCAPES, COCO, Categories, published_categories
from bpr.detector.layouts import (
    Converted,
    convert,
    count_categories,
    find_layout,
    has_agnostic_masks,
    is_detector,
    layout_of,
    recognise,
)
from bpr.detector.presets import Preset, change_preset, find_preset
from bpr.detector.published_table import (
    PublishedWeights,
    downloads,
    fetch,
    published_table,
)
from bpr.detector.recognition import DETECTORS, describe
from bpr.detector.stated_config import StatedConfig, read_config, stated_changes, unlike_strides

_METADATA_KEY = "bpr-detector"
_SHIPPED = Path(__file__).parent / "weights"
_ENDINGS = (".safetensors", ".pth", ".pt", ".pkl")


_PARTS = {
    "backbone.body.": "backbone",
    "backbone.fpn.": "feature pyramid",
    "rpn.": "proposal network",
    "roi_heads.box_stages.": "box head",
    "roi_heads.mask_branch.": "mask branch",
    "roi_heads.points.": "keypoint head",
}


@dataclass(frozen=True, kw_only=True)
class DetectorInfo:
    """What a program must know to use weights, kept in the same file."""

    preset: str  # a key of PRESETS
    categories: Categories  # label 1 is the first of them
    data: str = ""  # what the weights were trained on, in words
    licence: str = ""  # what that allows, in words
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the preset; see `change_preset`

    def __post_init__(self) -> None:
        change_preset(find_preset(self.preset), self.changes)
        for name in ("data", "licence"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}: expected text, got {getattr(self, name)!r}")

    @property
    def architecture(self) -> Preset:
        """The preset with its changes."""
        return change_preset(find_preset(self.preset), self.changes)


@dataclass(frozen=True, kw_only=True)
class DetectorReport:
    """What became of the tensors of a published checkpoint."""

    source: Path
    layout: str  # detectron2, mmdetection or torchvision
    info: DetectorInfo
    renamed: Mapping[str, str]  # name in the file -> ours; all of them are used
    missing: tuple[str, ...]  # ours that the file lacks, and that start as 0 or 1 (batch norms)
    left_over: tuple[str, ...]  # names in the file that no detector needs
    taken: str  # which of the weights in the file were taken, in words
    assumed: tuple[str, ...]  # what the file does not state, and what was taken for it, in words


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
        **({"changes": dict(info.changes)} if info.changes else {}),
    }
    metadata = {_METADATA_KEY: json.dumps(about, sort_keys=True)}
    write_safetensors(path, model.state_dict(), metadata, half_from=2 if half else None)


def find_detector(weights: str | Path) -> tuple[Path, str]:
    """Where the weights of a detector lie, and what they are called.

    Args:
        weights: name of a shipped one or of `published_table`, which is downloaded once; or path
            of a file that `load_detector` reads.

    Raises:
        ValueError: there is no such name or file, or it cannot be downloaded.
    """
    if isinstance(weights, str) and weights in (table := published_table()):
        return fetch(weights, table[weights], downloads()), weights
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
        metadata, tensors = read_safetensors(path)
        if _METADATA_KEY in metadata:
            return _open_own(path, metadata[_METADATA_KEY], tensors)
        if "bpr" in metadata:
            raise ValueError(f"{path}: expected weights of a detector, got weights of a refiner")
    model, report = import_detector(path, preset)
    return model, report.info


def import_detector(
    path: Path, preset: str | None = None, which: Which = "model"
) -> tuple[Detector, DetectorReport]:
    """Read a checkpoint of detectron2, BMask R-CNN, mmdetection, RefineMask or torchvision.

    Nothing in the file is executed. Every tensor must be used, present and of its shape; only
    batch norms may lack their statistics, and what no detector needs is left over. Colours and
    strides are those that the file states (mmdetection keeps its configuration), else those of
    the preset.

    Args:
        path: see `bpr._published_weights.read_published`.
        preset: a name of `PRESETS`; otherwise the first that fits the tensors. Those that fit
            the same tensors differ in training and in the sizes of images.
        which: the weights, or their moving average.

    Returns:
        The model in evaluation mode, float32 exactly as in the file; what became of the tensors.

    Raises:
        ValueError: no such file, damaged, objects other than tensors, another network.
    """
    path = Path(path)
    published = read_published(path, which)
    layout = find_layout(published.tensors)
    if layout is None or not is_detector(published.tensors):
        raise ValueError(f"{path}: expected {DETECTORS}, got {describe(published.tensors)}")
    sha256 = file_sha256(path if path.is_file() else path / "model.safetensors")
    known = next((w for w in published_table().values() if sha256.startswith(w.sha256)), None)
    name = preset or (known.preset if known else _find_preset(path, published, layout))
    if layout_of(find_preset(name)) != layout:
        raise ValueError(
            f"{path}: expected a preset of {layout}, whose tensors these are, got {name}"
        )
    number = count_categories(published.tensors, layout)
    if number < 1:
        raise ValueError(f"{path}: expected the scores of categories in it, got none")
    stated = read_config(published.config) if layout == "mmdetection" else StatedConfig()
    if unlike := unlike_strides(stated):
        raise ValueError(f"{path}, its configuration: {unlike}")
    changes = _changes(published, layout, name, stated)
    with torch.device("meta"):  # no time and no random numbers for weights soon replaced
        model = build_detector(change_preset(find_preset(name), changes), number)
    bgr = not stated.rgb if stated.rgb is not None else layout == "detectron2"
    converted = convert(published.tensors, layout, bgr)
    missing = _fill(path, name, model, converted)
    info = DetectorInfo(
        preset=name,
        categories=published_categories(number, published.classes),
        data=f"{_data(published, known)}; imported from {path.name}, sha256 {sha256}",
        licence=known.licence
        if known
        else "the authors'; the training data's terms apply to the weights",
        changes=changes,
    )
    report = DetectorReport(
        source=path,
        layout=layout,
        info=info,
        renamed=converted.renamed,
        missing=missing,
        left_over=tuple(n for n in converted.left_over if not n.endswith("num_batches_tracked")),
        taken=_taken(published),
        assumed=_assumed(published, layout, stated, info),
    )
    return model.eval(), report


def convert_detector(
    source: Path, out: Path, preset: str | None = None, which: Which = "model"
) -> DetectorReport:
    """Turn a published checkpoint into our format, every weight exactly as it was.

    Args:
        source: see `import_detector`.
        out: see `save_detector`.
        preset: see `import_detector`.
        which: see `import_detector`.

    Raises:
        ValueError: from either of the two.
    """
    model, report = import_detector(source, preset, which)
    save_detector(out, model, report.info)
    return report


def _find_preset(path: Path, published: Published, layout: str) -> str:
    name = recognise(published.tensors, layout)
    if name is None:
        raise ValueError(
            f"{path}: expected a detector with a ResNet-50, ResNet-101, ResNeXt-101 32x4d or 32x8d "
            f"and heads that {layout} has published, got {_architecture_words(published)}; "
            "pass --preset with the nearest one to see what differs"
        )
    return name


def _architecture_words(published: Published) -> str:
    words = describe(published.tensors)
    return "another backbone or other heads" if words.endswith("none of these") else words


def _changes(published: Published, layout: str, name: str, stated: StatedConfig) -> dict[str, Any]:
    """In what the file differs from its preset."""
    preset = find_preset(name)
    changes = {
        key: value
        for key, value in stated_changes(stated).items()
        if not _is_near(getattr(preset.conventions, key), value)
    }
    if has_agnostic_masks(published.tensors, layout):
        changes["agnostic_masks"] = True
    return changes


def _is_near(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return all(abs(a - b) < 1e-4 for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _taken(published: Published) -> str:
    """Which weights were taken, for the report."""
    if published.which == "ema":
        return "the moving average of the weights (--which ema)"
    if published.has_average:
        return "the weights; the file also has a moving average (--which ema)"
    return "the weights"


def _assumed(
    published: Published, layout: str, stated: StatedConfig, info: DetectorInfo
) -> tuple[str, ...]:
    """What had to be guessed, for the report."""
    assumed = []
    if layout == "mmdetection":
        style = "caffe" if info.architecture.conventions.stride_in_1x1 else "pytorch"
        if stated.style is None:
            assumed.append(f"style of the ResNet: not stated in the file, taken for {style}")
        if stated.rgb is None or stated.mean is None:
            assumed.append("colours: not stated in the file, taken for RGB as in mmdetection")
    if not published.classes:
        assumed.append("category names: not stated in the file, taken from their number")
    return tuple(assumed)


def _data(published: Published, known: PublishedWeights | None) -> str:
    """What the weights were trained on, as far as the file or its hash states it."""
    if known is not None:
        return f"{known.data}, by the file's hash (mask AP {known.mask_ap} on {known.ap_of})"
    names = {name.replace("_", " ") for name in published.classes}
    for data, categories in (("COCO", COCO), ("Cityscapes", CITYSCAPES)):
        if names == set(categories):
            return f"the categories of {data}, by the names in the file"
    if names:
        return "categories named in the file; data not stated"
    return "not stated in the file"


def _fill(path: Path, preset: str, model: Detector, converted: Converted) -> tuple[str, ...]:
    """Give tensors to an empty model; returns the names of those that only have a default."""
    wanted = model.state_dict()
    given = dict(converted.tensors)
    theirs = {own: name for name, own in converted.renamed.items()}
    absent = [key for key in wanted if key not in given]
    for key in absent:
        if key.endswith(("running_mean", "running_var")):
            make = torch.zeros if key.endswith("mean") else torch.ones
            given[key] = make(wanted[key].shape, device="cpu")
    missing = [key for key in absent if key not in given]
    unexpected = [*converted.unknown, *(theirs[key] for key in given if key not in wanted)]
    if missing or unexpected:
        raise OtherTensors(path, preset, _by_part(missing), unexpected)
    shapes = _shapes(wanted)
    check_tensors(
        path,
        {theirs.get(key, key): tensor for key, tensor in given.items()},
        {theirs.get(key, key): shapes[key] for key in given},
    )
    model.load_state_dict(
        {key: tensor.float().contiguous() for key, tensor in given.items()}, assign=True
    )
    return tuple(absent)


def _by_part(names: Iterable[str]) -> list[str]:
    """Names of ours as a reader of another code base understands them: "mask branch: fcn1.bias"."""
    said = []
    for name in names:
        prefix = next((prefix for prefix in _PARTS if name.startswith(prefix)), "")
        said.append(f"{_PARTS.get(prefix, 'other')}: {'.'.join(name.split('.')[-2:])}")
    return said


def _open_own(
    path: Path, about: str, tensors: Mapping[str, Tensor]
) -> tuple[Detector, DetectorInfo]:
    info = _parse_info(path, about)
    with torch.device("meta"):
        model = build_detector(info.architecture, len(info.categories))
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
