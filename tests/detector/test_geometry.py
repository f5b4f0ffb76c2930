"""Boxes, levels, pooling, resizing and pasting against the recorded ones and plain loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as arrays_of
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from bpr.detector.anchors import SIDES, STRIDES, PyramidAnchors
from bpr.detector.box_coder import ClampedBoxCoder
from bpr.detector.box_stage import box_losses
from bpr.detector.claiming import ClaimingMatcher
from bpr.detector.detections import Detections, paste
from bpr.detector.mask_targets import Positives, mask_targets, polygon_targets
from bpr.detector.pooling import PyramidPool, box_levels, indexed
from bpr.detector.presets import Library
from bpr.detector.resizing import resize_image, resized_size
from tests.detector.conftest import Arrays


@pytest.fixture
def expected(arrays: Callable[[str], Arrays]) -> Arrays:
    return arrays("geometry")


def tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.array(array))


def near(actual: Tensor, expected: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("d2_decode_rpn", (1.0, 1.0, 1.0, 1.0)),
        ("d2_decode_box", (10.0, 10.0, 5.0, 5.0)),
        ("d2_decode_casc1", (20.0, 20.0, 10.0, 10.0)),
        ("d2_decode_casc2", (30.0, 30.0, 15.0, 15.0)),
    ],
)
def test_offsets_become_the_recorded_boxes(
    name: str, weights: tuple[float, float, float, float], expected: Arrays
) -> None:
    boxes = ClampedBoxCoder(weights).decode_single(
        tensor(expected["coder_deltas"]), tensor(expected["coder_boxes"])
    )
    near(boxes, expected[name], 1e-3)


def test_mmdetection_also_limits_shrinking(expected: Arrays) -> None:
    coder = ClampedBoxCoder((10.0, 10.0, 5.0, 5.0), clamp_shrinking=True)
    boxes = coder.decode_single(tensor(expected["coder_deltas"]), tensor(expected["coder_boxes"]))
    clipped = clip_boxes_to_image(boxes.reshape(-1, 4), (200, 220)).reshape(-1, 8)
    near(clipped, expected["mm_decode_box_shape_200x220"], 1e-3)
    # a square of 160 pixels that should shrink to nothing keeps 160 * 16 / 1000
    shrunk = coder.decode_single(
        torch.tensor([[0.0, 0.0, -100.0, -100.0]]), torch.tensor([[0.0, 0.0, 160.0, 160.0]])
    )
    near(shrunk[0, 2:] - shrunk[0, :2], [2.56, 2.56], 1e-3)


def test_boxes_become_the_recorded_offsets(expected: Arrays) -> None:
    offsets = ClampedBoxCoder((10.0, 10.0, 5.0, 5.0)).encode_single(
        tensor(expected["coder_gt"]), tensor(expected["coder_boxes"])
    )
    near(offsets, expected["d2_encode_box"])
    near(offsets, expected["mm_encode_box"])


def test_boxes_are_cut_from_the_recorded_levels(expected: Arrays) -> None:
    boxes = tensor(expected["level_boxes"])
    assert box_levels(boxes, "detectron2").tolist() == expected["d2_levels"].tolist()
    assert box_levels(boxes, "mmdetection").tolist() == expected["mm_levels"].tolist()


def test_libraries_differ_in_the_level_of_boxes_that_just_miss_the_next() -> None:
    def level(side: float, library: Library) -> int:
        return int(box_levels(torch.tensor([[0.0, 0.0, side, side]]), library)[0])

    assert [level(224, name) for name in ("detectron2", "mmdetection", "torchvision")] == [2] * 3
    assert [level(223.9, name) for name in ("detectron2", "mmdetection", "torchvision")] == [1] * 3
    assert [level(111.99994, name) for name in ("mmdetection", "torchvision")] == [0, 1]


def test_pooled_features_are_the_recorded_ones(expected: Arrays) -> None:
    features = {str(level): tensor(expected[f"pool_p{level + 2}"]) for level in range(4)}
    rois = indexed([tensor(expected[f"pool_boxes_img{image}"]) for image in range(2)])
    near(PyramidPool(7, "detectron2")(features, rois), expected["d2_pool7"])
    near(PyramidPool(14, "detectron2")(features, rois), expected["d2_pool14"])
    near(
        PyramidPool(28, "detectron2", finest_only=True)(features, rois),
        expected["d2_boundary_pool28_p2"],
    )


def test_losses_of_boxes_are_the_recorded_ones(expected: Arrays) -> None:
    logits = tensor(expected["boxloss_scores"]).roll(1, 1)  # background is the last there
    deltas = tensor(expected["boxloss_deltas"])
    deltas = torch.cat([torch.zeros(len(deltas), 4), deltas], dim=1)
    labels = (tensor(expected["boxloss_gt_classes0_bg3"]) + 1) % 4
    offsets = ClampedBoxCoder((10.0, 10.0, 5.0, 5.0)).encode_single(
        tensor(expected["boxloss_gt_boxes"]), tensor(expected["boxloss_proposals"])
    )
    category, box = box_losses(logits, deltas, labels, offsets, beta=0.0)
    near(category, expected["d2_boxloss_cls"])
    near(box, expected["d2_boxloss_reg"])
    near(category * 2, expected["mm_boxloss_cls_l1"])
    near(box * 2, expected["mm_boxloss_reg_l1"])
    category, box = box_losses(logits, deltas, labels, offsets, beta=1.0)
    near(category * 2, expected["mm_boxloss_cls_smoothl1"])
    near(box * 2, expected["mm_boxloss_reg_smoothl1"])


def test_masks_are_pasted_as_recorded(expected: Arrays) -> None:
    size = (60, 80)
    # the detectors clip boxes before
    boxes = tensor(expected["paste_boxes"])
    number = len(boxes)
    found = Detections(
        boxes=boxes,
        labels=torch.ones(number, dtype=torch.int64),
        scores=torch.ones(number),
        mask_probabilities=tensor(expected["paste_probs"]),
        size=size,
    )
    drawn = torch.stack(list(found.masks()))
    assert drawn.any()
    assert drawn.equal(tensor(expected["paste_out_60x80"]).bool())


@given(
    box=st.tuples(*[st.floats(-20, 60, width=32) for _ in range(4)]),
    seed=st.integers(0, 1000),
)
def test_a_pasted_mask_is_the_interpolated_one_at_pixel_centres(
    box: tuple[float, float, float, float], seed: int
) -> None:
    size, side = (30, 40), 6
    probability = np.random.default_rng(seed).random((side, side), dtype=np.float32)
    (left, top, right, bottom), bitmap = paste(
        torch.from_numpy(probability), torch.tensor(box), size
    )
    drawn = np.zeros(size, bool)
    drawn[top:bottom, left:right] = bitmap.numpy()
    x0, y0, x1, y1 = box
    padded = np.pad(probability.astype(np.float64), 1)
    for row in range(size[0]):
        for column in range(size[1]):
            if not (x0 < x1 and y0 < y1):
                assert not drawn[row, column]
                continue
            x = (column + 0.5 - x0) / (x1 - x0) * side + 0.5
            y = (row + 0.5 - y0) / (y1 - y0) * side + 0.5
            value = 0.0
            if 0 <= x < side + 1 and 0 <= y < side + 1:
                i, j, u, v = int(y), int(x), y - int(y), x - int(x)
                value = (1 - u) * ((1 - v) * padded[i, j] + v * padded[i, j + 1])
                value += u * ((1 - v) * padded[i + 1, j] + v * padded[i + 1, j + 1])
            if abs(value - 0.5) > 1e-3:
                assert drawn[row, column] == (value >= 0.5)


def test_resized_images_have_the_recorded_sizes(expected: Arrays) -> None:
    for library, name in (("detectron2", "d2_resize_hw"), ("mmdetection", "mm_resize_hw")):
        sizes = [
            resized_size((height, width), shorter, longest, library)
            for height, width, shorter, longest in expected["resize_cases_h_w_min_max"].tolist()
        ]
        assert sizes == [tuple(size) for size in expected[name].tolist()]


@pytest.mark.parametrize(("library", "name"), [("detectron2", "d2"), ("mmdetection", "mm")])
@pytest.mark.parametrize("way", ["up", "down"])
def test_resized_images_are_the_recorded_ones(
    library: Library, name: str, way: str, expected: Arrays
) -> None:
    wanted = expected[f"{name}_resized_{way}"]
    image = tensor(expected["resize_image"]).permute(2, 0, 1).float() / 255
    resized = resize_image(image, wanted.shape[:2], library)
    np.testing.assert_array_equal((resized * 255).round().permute(1, 2, 0).numpy(), wanted)


@pytest.mark.parametrize("library", ["detectron2", "mmdetection"])
def test_an_image_keeps_its_device_type_and_range_when_resized(library: Library) -> None:
    image = torch.ones(3, 9, 14, dtype=torch.float64)
    resized = resize_image(image, (27, 31), library)
    assert (resized.dtype, resized.device) == (image.dtype, image.device)
    assert resized.shape == (3, 27, 31)
    assert resized.equal(torch.ones_like(resized))


def test_anchors_lie_a_stride_apart_and_keep_their_area() -> None:
    from torchvision.models.detection.image_list import ImageList

    images = ImageList(torch.zeros(1, 3, 800, 1344), [(800, 1333)])
    levels = [torch.zeros(1, 1, -(-800 // stride), -(-1344 // stride)) for stride in STRIDES]
    (anchors,) = PyramidAnchors(exact=True)(images, levels)
    for level, stride, side in zip(levels, STRIDES, SIDES, strict=True):
        height, width = level.shape[-2:]
        here, anchors = anchors[: height * width * 3], anchors[height * width * 3 :]
        boxes = here.reshape(height, width, 3, 4)
        near((boxes[..., 2:] - boxes[..., :2]).prod(-1), np.full((height, width, 3), side**2), 0.1)
        near(boxes[1:] - boxes[:-1], np.broadcast_to([0, stride] * 2, (height - 1, width, 3, 4)))
    assert not len(anchors)


def test_targets_are_cut_from_masks_of_any_resolution() -> None:
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 20, 30, generator=random) > 0.5
    fine = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
    rois = torch.tensor([[0.0, 3, 4, 17, 18], [0.0, 0, 0, 30, 20]])
    labels, objects = torch.tensor([1, 1]), torch.tensor([1, 0])

    def targets(masks: Tensor, scale: int) -> Tensor:
        scaled = torch.cat([rois[:, :1], rois[:, 1:] * scale], dim=1)
        size = (20 * scale, 30 * scale)
        learned = Positives(scaled, labels, objects, [masks], [size], size, [[(), ()]])
        return mask_targets(learned, (14,))[0]

    # boxes in the pixels of the masks, and of an image four times smaller
    assert targets(fine, 4).equal(targets(fine, 1))
    assert targets(fine, 4)[0].equal(fine[1, 16:72, 12:68][2::4, 2::4].float())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_targets_of_polygons_differ_from_those_of_bitmaps_only_on_edges(
    expected: Arrays,
) -> None:
    from pycocotools import mask as coco_mask

    scale = 8
    bitmaps = []
    objects = [
        [expected["poly_obj0_part0"]],
        [expected["poly_obj1_part0"], expected["poly_obj1_part1"]],
    ]
    for parts in objects:
        polygons = [(part * scale).tolist() for part in parts]
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, 64 * scale, 64 * scale))
        bitmaps.append(coco_mask.decode(rle))
    masks = torch.from_numpy(np.stack(bitmaps))
    rois = torch.cat([torch.zeros(2, 1), tensor(expected["poly_boxes"])], dim=1)
    learned = Positives(
        *(rois, torch.tensor([1, 1]), torch.tensor([0, 1]), [masks], [(64, 64)], (64, 64)),
        polygons=[[(), ()]],
    )
    outlined = learned._replace(polygons=[[[part * scale for part in parts] for parts in objects]])
    for name in ("d2", "mm"):
        recorded = tensor(expected[f"{name}_poly_target28"])
        (of_bitmaps,) = mask_targets(learned._replace(mmdetection=name == "mm"), (28,))
        assert 0 < (of_bitmaps.bool() != recorded.bool()).float().mean() < 0.03, name
        (of_polygons,) = mask_targets(outlined._replace(mmdetection=name == "mm"), (28,))
        assert of_polygons.to(torch.uint8).equal(recorded), name


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@pytest.mark.parametrize(("name", "min_side"), [("d2", 0.1), ("mm", 1.0)])
def test_targets_of_polygons_are_those_of_the_loaders(
    name: str, min_side: float, expected: Arrays
) -> None:
    polygons = [
        [expected["poly_obj0_part0"]],
        [expected["poly_obj1_part0"], expected["poly_obj1_part1"]],
    ]
    target = polygon_targets(polygons, tensor(expected["poly_boxes"]), 28, min_side)
    assert target.to(torch.uint8).equal(tensor(expected[f"{name}_poly_target28"]))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_targets_of_polygons_lie_in_the_frame_of_the_box() -> None:
    left = np.array([2.0, 4, 6, 4, 6, 12, 2, 12])  # the left half of the first box
    boxes = torch.tensor([[2.0, 4, 10, 12], [6.0, 4, 10, 12], [2.0, 4, 2.5, 4.5]])
    drawn = polygon_targets([[left]] * 3, boxes, 8, 0.1)
    assert drawn[0, :, :4].all()
    assert not drawn[0, :, 4:].any()
    assert not drawn[1].any()
    assert drawn[2].all()
    # enlarged no more than a box of 8 pixels, so that its first pixels are those of the image
    assert polygon_targets([[left]], boxes[2:], 8, min_side=8)[0].equal(drawn[0])
    assert polygon_targets([], torch.zeros(0, 4), 8, 0.1).shape == (0, 8, 8)


@settings(deadline=None)
@given(
    overlaps=arrays_of(
        np.float32, st.tuples(st.integers(1, 6), st.integers(1, 12)), elements=st.integers(0, 10)
    )
)
def test_objects_claim_boxes_as_in_mmdetection(overlaps: np.ndarray[Any, Any]) -> None:
    overlaps = overlaps / 10
    expected = np.full(overlaps.shape[1], -2)
    for box, column in enumerate(overlaps.T):  # MaxIoUAssigner, one box at a time
        if column.max() < 0.3:
            expected[box] = -1
        elif column.max() >= 0.7:
            expected[box] = column.argmax()
    for number, row in enumerate(overlaps):
        if row.max() >= 0.3:
            expected[row == row.max()] = number
    matches = ClaimingMatcher(0.7, 0.3, claim=0.3)(torch.from_numpy(overlaps))
    assert matches.tolist() == expected.tolist()


@pytest.mark.parametrize("parts", [[], [np.zeros(4)], [np.zeros(7)], [np.zeros((3, 2))]])
def test_what_is_no_polygon_is_refused(parts: list[np.ndarray[Any, Any]]) -> None:
    with pytest.raises(ValueError, match="polygons of box 0: expected at least one"):
        polygon_targets([parts], torch.tensor([[0.0, 0, 8, 8]]), 8, 0.1)
