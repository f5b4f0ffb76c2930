"""Detectors on disk: ours, published ones, and files that should not be there."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bpr._published_weights import read_published
from bpr.detector.build import Detector, build_detector
from bpr.detector.categories import CITYSCAPES, COCO, Categories, published_categories
from bpr.detector.checkpoints import (
    DetectorInfo,
    import_detector,
    load_detector,
    save_detector,
)
from bpr.detector.layouts import convert, find_layout, layout_of, recognise
from bpr.detector.presets import PRESETS

THREE = Categories(("cat", "dog", "cow"), (3, 7, 9))


@pytest.fixture(scope="module")
def small() -> Detector:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_detector(PRESETS["small"], 3).eval()


def meta(shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def save_pth(path: Path, tensors: Mapping[str, Tensor], key: str = "model") -> Path:
    torch.save({key: dict(tensors)}, path)
    return path


def test_a_saved_detector_comes_back_as_it_was(small: Detector, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "mine.safetensors"
    info = DetectorInfo(preset="small", categories=THREE, data="noise", licence="none")
    save_detector(path, small, info)
    model, found = load_detector(path)
    assert found == info
    assert not model.training
    state = model.state_dict()
    assert all(value.equal(state[name]) for name, value in small.state_dict().items())
    image = torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (one,), (other,) = small([image]), model([image])
    assert one.boxes.equal(other.boxes)
    assert one.mask_probabilities.equal(other.mask_probabilities)
    assert sorted(item.name for item in path.parent.iterdir()) == [path.name]


def test_the_same_detector_gives_the_same_bytes_and_half_of_them_as_float16(
    small: Detector, tmp_path: Path
) -> None:
    info = DetectorInfo(preset="small", categories=THREE)
    paths = [tmp_path / f"{name}.safetensors" for name in ("one", "two", "half")]
    for path in paths:
        save_detector(path, small, info, half=path.stem == "half")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[2].stat().st_size < 0.52 * paths[0].stat().st_size
    half = load_detector(paths[2])[0].state_dict()
    for name, value in small.state_dict().items():
        torch.testing.assert_close(half[name], value, rtol=1e-3, atol=1e-6)


def test_weights_that_do_not_belong_to_a_detector_are_refused(
    small: Detector, tmp_path: Path
) -> None:
    two = DetectorInfo(preset="small", categories=Categories(("cat", "dog"), (1, 2)))
    with pytest.raises(ValueError, match=r"names of 3 categories, got 2"):
        save_detector(tmp_path / "x.safetensors", small, two)
    with pytest.raises(ValueError, match=r"ending in \.safetensors, got '\.pth'"):
        save_detector(tmp_path / "x.pth", small, DetectorInfo(preset="small", categories=THREE))
    with pytest.raises(ValueError, match=r"model: expected one of small, .*got 'large'"):
        DetectorInfo(preset="large", categories=THREE)
    with pytest.raises(ValueError, match="no such file"):
        load_detector(tmp_path / "nothing.safetensors")
    shipped = Path(__file__).parents[2] / "refiner" / "weights" / "hrnet18s.safetensors"
    with pytest.raises(ValueError, match="expected weights of a detector, got weights of a ref"):
        load_detector(shipped)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_of_ours_is_a_sentence(small: Detector, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_detector(path, small, DetectorInfo(preset="small", categories=THREE))
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="expected a complete safetensors file"):
        load_detector(path)
    path.write_bytes(whole.replace(b'\\"preset\\": \\"small\\"', b'\\"preset\\": \\"smoll\\"', 1))
    with pytest.raises(ValueError, match="metadata: expected a detector's, got model: expected"):
        load_detector(path)


@pytest.mark.parametrize(
    ("name", "preset", "left"),
    [
        ("d2_maskrcnn", "mask_rcnn_R_50_FPN_1x", 0),
        ("d2_bmask", "bmask_rcnn_R_50_FPN_cityscapes", 0),
        ("d2_cascade_bmask", "cascade_bmask_rcnn_R_50_FPN_1x", 0),
        ("mm_refinemask_cityscapes", "refinemask_r50_cityscapes", 53),
    ],
)
def test_every_published_tensor_is_used_or_named(
    name: str, preset: str, left: int, shapes: Mapping[str, Any]
) -> None:
    tensors = meta(shapes[name])
    layout = find_layout(tensors)
    assert layout is not None
    assert recognise(tensors, layout) == preset
    converted = convert(tensors, layout)
    assert len(converted.left_over) == left
    assert not converted.unknown
    assert len(converted.renamed) + left == len(tensors)
    assert len(set(converted.renamed.values())) == len(converted.renamed)
    with torch.device("meta"):
        model = build_detector(PRESETS[preset], 8 if "cityscapes" in preset else 80)
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in converted.tensors.items()} == wanted


def test_the_later_refinemask_is_recognised_by_its_head(shapes: Mapping[str, Any]) -> None:
    """The recorded detector with the recorded names of the other head."""
    name = "refinemask_r50_1x_faster_better"
    with torch.device("meta"):
        model = build_detector(PRESETS[name], 8)
    tensors = meta(shapes["mm_refinemask_cityscapes"])
    tensors = {key: value for key, value in tensors.items() if ".mask_head." not in key}
    head = model.roi_heads.mask_branch.head.state_dict()
    for key in shapes["simplerefinemask_head_dim32_cls3_lastagnostic"]:
        tensors[f"roi_head.mask_head.{key}"] = head[key]
    assert recognise(tensors, "mmdetection") == name
    converted = convert(tensors, "mmdetection")
    assert not converted.unknown
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in converted.tensors.items()} == wanted


@pytest.mark.parametrize("backbone", ["resnet101", "resnext101_32x8d"])
def test_other_backbones_are_recognised_by_their_tensors(backbone: str) -> None:
    name = next(
        name
        for name, preset in PRESETS.items()
        if preset.backbone == backbone and layout_of(preset) == "detectron2"
    )
    with torch.device("meta"):
        body = build_detector(PRESETS[name], 80).backbone.body.state_dict()
    tensors = {
        f"backbone.bottom_up.{key}".replace("layer", "res"): value for key, value in body.items()
    }
    tensors = {
        key.replace(f"res{stage}.", f"res{stage + 1}."): value
        for key, value in tensors.items()
        for stage in [int(key.split("res")[1][0]) if ".res" in key else 0]
    }
    tensors["roi_heads.box_predictor.cls_score.bias"] = torch.zeros(81)
    assert recognise(tensors, "detectron2") == name


def test_the_plain_detector_of_mmdetection_is_read_too() -> None:
    """Its names, made from those of the recorded RefineMask's relatives."""
    with torch.device("meta"):
        model = build_detector(PRESETS["mask_rcnn_r50_fpn_1x_coco"], 5)
    names = {
        "backbone.body.": "backbone.",
        "rpn.head.conv.0.0.": "rpn_head.rpn_conv.",
        "rpn.head.cls_logits.": "rpn_head.rpn_cls.",
        "rpn.head.bbox_pred.": "rpn_head.rpn_reg.",
        "roi_heads.box_stages.0.head.fc6.": "roi_head.bbox_head.shared_fcs.0.",
        "roi_heads.box_stages.0.head.fc7.": "roi_head.bbox_head.shared_fcs.1.",
        "roi_heads.box_stages.0.predictor.cls_score.": "roi_head.bbox_head.fc_cls.",
        "roi_heads.box_stages.0.predictor.bbox_pred.": "roi_head.bbox_head.fc_reg.",
        "roi_heads.mask_branch.mask_predictor.conv5_mask.": "roi_head.mask_head.upsample.",
        "roi_heads.mask_branch.mask_predictor.mask_fcn_logits.": "roi_head.mask_head.conv_logits.",
    }
    for number in range(4):
        names[f"backbone.fpn.inner_blocks.{number}.0."] = f"neck.lateral_convs.{number}.conv."
        names[f"backbone.fpn.layer_blocks.{number}.0."] = f"neck.fpn_convs.{number}.conv."
        names[f"roi_heads.mask_branch.mask_head.{number}.0."] = (
            f"roi_head.mask_head.convs.{number}.conv."
        )
    tensors = {}
    for key, value in model.state_dict().items():
        prefix = next(own for own in names if key.startswith(own))
        rows = {"bbox_pred": 4, "mask_fcn_logits": 1}
        skipped = next((n for part, n in rows.items() if part in key and "roi" in key), 0)
        tensors[names[prefix] + key.removeprefix(prefix)] = torch.zeros_like(
            value[skipped:] if value.ndim else value, device="cpu"
        )
    assert recognise(tensors, "mmdetection") == "mask_rcnn_r50_fpn_1x_coco"
    converted = convert(tensors, "mmdetection")
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in converted.tensors.items()} == wanted


def test_channels_and_categories_are_put_in_order(shapes: Mapping[str, Any]) -> None:
    tensors = meta(shapes["d2_maskrcnn"])
    stem = torch.arange(3.0)[None, :, None, None].expand(64, 3, 7, 7)
    scores, offsets = torch.arange(81.0), torch.arange(320.0)
    tensors["backbone.bottom_up.stem.conv1.weight"] = stem
    tensors["roi_heads.box_predictor.cls_score.bias"] = scores
    tensors["roi_heads.box_predictor.bbox_pred.bias"] = offsets
    tensors["roi_heads.mask_head.predictor.bias"] = torch.arange(80.0)
    own = convert(tensors, "detectron2").tensors
    assert own["backbone.body.conv1.weight"][0, :, 0, 0].tolist() == [2, 1, 0]
    predictor = "roi_heads.box_stages.0.predictor"
    assert own[f"{predictor}.cls_score.bias"][:3].tolist() == [80, 0, 1]
    assert own[f"{predictor}.bbox_pred.bias"][2:6].tolist() == [0, 0, 0, 1]
    masks = own["roi_heads.mask_branch.mask_predictor.mask_fcn_logits.bias"]
    assert masks[:3].tolist() == [0, 0, 1]


def test_batch_norms_without_statistics_get_neutral_ones(
    shapes: Mapping[str, Any], tmp_path: Path
) -> None:
    tensors = meta(shapes["d2_maskrcnn"])
    statistics = [name for name in tensors if name.endswith(("running_mean", "running_var"))]
    for name in statistics:
        del tensors[name]
    model, report = import_detector(save_pth(tmp_path / "old.pth", tensors))
    assert len(report.missing) == len(statistics) == 106
    state = model.state_dict()
    assert all(bool((state[name] == name.endswith("var")).all()) for name in report.missing)


def test_tensors_that_lack_or_do_not_belong_are_named(
    shapes: Mapping[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "model.pth"
    tensors = meta(shapes["d2_bmask"])
    whole = tensors.pop("roi_heads.mask_head.mask_fcn2.bias")
    with pytest.raises(ValueError, match=r"missing mask branch: mask_fcn2\.bias"):
        import_detector(save_pth(path, tensors))
    tensors["roi_heads.mask_head.mask_fcn2.bias"] = whole
    tensors["roi_heads.keypoint_head.conv_fcn1.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"unexpected roi_heads\.keypoint_head\.conv_fcn1"):
        import_detector(save_pth(path, tensors))
    del tensors["roi_heads.keypoint_head.conv_fcn1.weight"]
    tensors["backbone.fpn_lateral2.bias"] = torch.zeros(255)
    with pytest.raises(ValueError, match=r"fpn_lateral2\.bias: expected shape \(256,\), got"):
        import_detector(save_pth(path, tensors))
    tensors["backbone.fpn_lateral2.bias"] = torch.full((256,), torch.nan)
    with pytest.raises(ValueError, match="expected finite"):
        import_detector(save_pth(path, tensors))
    tensors["backbone.fpn_lateral2.bias"] = torch.zeros(256)
    with pytest.raises(ValueError, match="expected the tensors of mask_rcnn_R_50_FPN_1x, got"):
        import_detector(save_pth(path, tensors), "mask_rcnn_R_50_FPN_1x")
    # its tensors may well have the names and shapes, but not the anchors, strides and colours
    with pytest.raises(ValueError, match=r"a preset of detectron2, .* got refinemask_r50_1x"):
        import_detector(path, "refinemask_r50_1x")


def with_categories(
    shapes: Mapping[str, list[int]], before: int, after: int
) -> dict[str, list[int]]:
    """Shapes of the same detector of another number of categories."""
    changed = {}
    for name, shape in shapes.items():
        rows = {r"\.(cls_score|fc_cls)\.": (before + 1, after + 1)}
        rows[r"\.(bbox_pred|fc_reg)\."] = (4 * before, 4 * after)
        rows[r"mask_head\.(.*predictor|.*instance_logits)\."] = (before, after)
        changed[name] = shape
        for pattern, (old, new) in rows.items():
            if re.search(pattern, name) and shape[:1] == [old]:
                changed[name] = [new, *shape[1:]]
    return changed


@pytest.mark.parametrize("categories", [1, 5])
@pytest.mark.parametrize(
    ("name", "before", "preset"),
    [
        ("d2_maskrcnn", 80, "mask_rcnn_R_50_FPN_1x"),
        ("d2_bmask", 8, "bmask_rcnn_R_50_FPN_1x"),
        ("d2_cascade_bmask", 80, "cascade_bmask_rcnn_R_50_FPN_1x"),
        ("mm_refinemask_cityscapes", 8, "refinemask_r50_1x"),
    ],
)
def test_detectors_of_any_number_of_categories_are_read(
    name: str, before: int, preset: str, categories: int, shapes: Mapping[str, Any], tmp_path: Path
) -> None:
    tensors = meta(with_categories(shapes[name], before, categories))
    _, report = import_detector(save_pth(tmp_path / "model.pth", tensors))
    assert (report.info.preset, len(report.info.categories)) == (preset, categories)
    assert not report.missing


def test_one_last_mask_for_all_categories_is_recognised(
    shapes: Mapping[str, Any], tmp_path: Path
) -> None:
    tensors = meta(with_categories(shapes["mm_refinemask_cityscapes"], 8, 5))
    for part in ("weight", "bias"):
        name = f"roi_head.mask_head.final_instance_logits.{part}"
        tensors[name] = tensors[name][:1].clone()
    _, report = import_detector(save_pth(tmp_path / "model.pth", tensors))
    assert report.info.preset == "refinemask_r50_lvis_1x"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("ending", [".pkl", ".pth"])
def test_arrays_are_read_from_every_kind_of_pickle(
    protocol: int, ending: str, tmp_path: Path
) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float16([1, 2])}
    path = tmp_path / f"model{ending}"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}, protocol))
    found = read_published(path).tensors
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[key].numpy(), array) for key, array in arrays.items())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("ending", [".pkl", ".pth"])
def test_files_of_pytorch_are_read_with_any_ending_and_with_arrays(
    zipped: bool, ending: str, tmp_path: Path
) -> None:
    state = {"a": torch.arange(3.0), "b": np.arange(4)}
    path = tmp_path / f"model{ending}"
    torch.save(
        {"state_dict": state, "iteration": np.int64(3), "rate": np.float64(0.1)},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    found = read_published(path).tensors
    assert found["a"].tolist() == [0, 1, 2]
    assert found["b"].tolist() == [0, 1, 2, 3]


class _Bomb:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.witness),)


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    array = np.zeros(2, np.float32)
    for content in ({"model": {"a": array}, "x": _Bomb(witness)}, _Bomb(witness)):
        path = tmp_path / "evil.pkl"
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=r"got other objects \(posix\.mkdir\); nothing in"):
            import_detector(path)
        path = tmp_path / "evil.pth"
        torch.save(content, path)
        with pytest.raises(ValueError, match="nothing in the file was executed"):
            import_detector(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no pickle", "a readable checkpoint, got a damaged"),
        (pickle.dumps({"model": {}}), "expected a state dict of tensors, got dict"),
        (pickle.dumps({"model": {"a": "text"}}), "got str at 'a'"),
        (pickle.dumps({"model": {"a": np.array(["x"], object)}}), "got ndarray at 'a'"),
        (pickle.dumps({"blobs": {"a": np.zeros(1)}}), "got a network that is none of these"),
        (pickle.dumps({"model": {"a": np.zeros(1)}}), "expected Mask R-CNN, Cascade Mask R-CNN"),
        (pickle.dumps([1, 2]), "expected a state dict of tensors, got list"),
    ],
)
def test_other_pickles_are_a_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        import_detector(path)


def test_a_pickle_cut_short_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    whole = pickle.dumps({"model": {"a": np.zeros(100)}})
    for end in range(1, len(whole) - 1, 37):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"model\.pkl: expected"):
            import_detector(path)


def test_labels_of_published_detectors_have_the_ids_of_their_data_sets() -> None:
    coco = published_categories(80)
    assert coco.ids[:3] == (1, 2, 3)
    assert coco.ids[-1] == 90
    assert coco.names[-1] == "toothbrush"
    assert dict(zip(coco.names, coco.ids, strict=True)) == COCO
    city = published_categories(8)
    assert city.ids == (24, 25, 26, 27, 28, 31, 32, 33)
    assert published_categories(8, tuple(reversed(CITYSCAPES))).ids == tuple(reversed(city.ids))
    assert published_categories(90).ids == tuple(range(1, 91))
    assert published_categories(90).names[89] == "toothbrush"
    words = tuple(name.replace(" ", "_") for name in COCO)
    assert published_categories(80, words) == coco
    assert published_categories(2, ("cat", "dog")) == Categories(("cat", "dog"), (1, 2))
    assert published_categories(2).names == ("category 1", "category 2")


def test_the_names_in_the_file_of_coco_are_those_of_torchvision() -> None:
    from torchvision.models import MobileNet_V3_Large_Weights  # noqa: F401 (loads the tables)
    from torchvision.models._meta import _COCO_CATEGORIES

    theirs = {
        name: number for number, name in enumerate(_COCO_CATEGORIES) if number and name != "N/A"
    }
    assert theirs == COCO
