from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from bpr.pipeline.geometry import (
    AUTO_PATCH_SIZES,
    find_boundary,
    patch_size_for,
    reassemble,
    select_patches,
    suppress,
)
from bpr.pipeline.instance import Mask
from bpr.pipeline.settings import PatchSettings
from tests import oracles
from tests.strategies import masks, patch_settings, quick, thorough

SCENES = ["border", "components", "degenerate", "minimal", "skipped", "smallimage"]
CONFIGURATIONS = [
    "p64_pad0_t25",
    "p64_pad0_t55",
    "p64_pad0_t15",
    "p32_pad0_t25",
    "p96_pad0_t25",
    "p48_pad8_t25",
]


def reference_settings(configuration):
    size, padding, threshold = configuration.split("_")
    return PatchSettings(
        patch_size=int(size[1:]),
        padding=int(padding[3:]),
        nms_iou=int(threshold[1:]) / 100,
        compat=True,
    )


def scene_masks(data):
    width = data["image_bgr"].shape[1]
    unpacked = np.unpackbits(data["masks"], axis=-1)[..., :width]
    return [Mask.from_array(mask) for mask in unpacked]


def best_first(score):
    return np.argsort(-score.astype(np.int8), kind="stable")


def synthetic_probability(bgr, mask):
    """Formula 7 of the goldens' README, for one patch without padding."""
    v, u = np.mgrid[: mask.shape[0], : mask.shape[1]]
    blue, green, red = np.moveaxis(bgr.astype(np.int64), -1, 0)
    q = blue + 2 * green + 3 * red + 97 * mask + 17 * u + 31 * v
    return ((q % 256) / 256).astype(np.float32)


def synthetic_probabilities(data, mask, boxes, padding):
    """The synthetic network on padded patches, padding already cut off again."""
    bgr = np.pad(data["image_bgr"], ((padding, padding), (padding, padding), (0, 0)))
    coarse = np.pad(mask.to_array(), padding).astype(np.int64)
    patches = []
    for x0, y0, x1, y1 in boxes.tolist():
        box = np.s_[y0 : y1 + 2 * padding, x0 : x1 + 2 * padding]
        whole = synthetic_probability(bgr[box], coarse[box])
        patches.append(whole[padding : padding + y1 - y0, padding : padding + x1 - x0])
    return np.array(patches, np.float32)


class TestTheReference:
    """Arrays recorded from the reference implementation, reproduced bit for bit by compat."""

    @pytest.mark.parametrize("scene", SCENES)
    def test_compat_finds_its_boundary_pixels_and_scores(self, golden: Path, scene):
        with np.load(golden / f"scene_{scene}.npz") as data:
            for k, mask in enumerate(scene_masks(data)):
                xs, ys, score = find_boundary(mask, compat=True)
                np.testing.assert_array_equal(np.stack([xs, ys], 1), data[f"cand_xy_{k}"])
                reference_score = score.astype(np.float32) / np.float32(4.5)
                np.testing.assert_array_equal(reference_score, data[f"cand_score_{k}"])

    @pytest.mark.parametrize("configuration", CONFIGURATIONS)
    @pytest.mark.parametrize("scene", SCENES)
    def test_suppression_keeps_its_candidates_in_its_order(
        self, golden: Path, scene, configuration
    ):
        settings = reference_settings(configuration)
        with np.load(golden / f"scene_{scene}.npz") as data:
            for k, mask in enumerate(scene_masks(data)):
                if f"keep_{configuration}_{k}" not in data or mask.is_empty:
                    continue
                xs, ys, score = find_boundary(mask, compat=True)
                order = best_first(score)
                kept = suppress(xs[order], ys[order], settings.patch_size, settings.nms_iou)
                np.testing.assert_array_equal(order[kept], data[f"keep_{configuration}_{k}"])

    @pytest.mark.parametrize("configuration", CONFIGURATIONS)
    @pytest.mark.parametrize("scene", SCENES)
    def test_compat_chooses_its_boxes_and_skips_what_it_skips(
        self, golden: Path, scene, configuration
    ):
        settings = reference_settings(configuration)
        with np.load(golden / f"scene_{scene}.npz") as data:
            for k, mask in enumerate(scene_masks(data)):
                boxes = select_patches(mask, settings)
                if f"boxes_{configuration}_{k}" in data:
                    np.testing.assert_array_equal(boxes, data[f"boxes_{configuration}_{k}"])
                else:  # the image is not larger than a patch
                    assert min(mask.size) <= settings.patch_size
                    assert boxes.shape == (0, 4)

    @pytest.mark.parametrize("configuration", CONFIGURATIONS)
    @pytest.mark.parametrize("scene", SCENES)
    def test_reassembling_its_patches_gives_its_masks(self, golden: Path, scene, configuration):
        settings = reference_settings(configuration)
        with np.load(golden / f"scene_{scene}.npz") as data:
            width = data["image_bgr"].shape[1]
            for k, mask in enumerate(scene_masks(data)):
                if f"merged_{configuration}_{k}" not in data:
                    continue
                boxes = data[f"boxes_{configuration}_{k}"].astype(np.int64)
                probability = synthetic_probabilities(data, mask, boxes, settings.padding)
                refined = reassemble(mask, boxes, probability).to_array()
                merged = np.unpackbits(data[f"merged_{configuration}_{k}"], axis=-1)[:, :width]
                np.testing.assert_array_equal(refined, merged.astype(np.bool_))

    def test_the_recorded_scenes_cover_all_configurations(self, golden: Path):
        names = set()
        for scene in SCENES:
            with np.load(golden / f"scene_{scene}.npz") as data:
                names |= {n[len("boxes_") :].rsplit("_", 1)[0] for n in data if "boxes" in n}
        assert names == set(CONFIGURATIONS)
        assert len(list(golden.glob("scene_*.npz"))) == len(SCENES)


class TestFindBoundary:
    @quick
    @given(mask=masks(max_side=48), compat=st.booleans())
    def test_the_window_gives_what_the_whole_image_gives(self, mask, compat):
        xs, ys, score = find_boundary(mask, compat)
        found = list(zip(xs.tolist(), ys.tolist(), score.tolist(), strict=True))
        assert found == oracles.boundary(mask.to_array(), compat)

    def test_a_single_pixel_gives_its_three_by_three_square(self):
        array = np.zeros((7, 9), np.bool_)
        array[3, 4] = True
        xs, ys, score = find_boundary(Mask.from_array(array))
        assert sorted(zip(ys.tolist(), xs.tolist(), strict=True)) == [
            (y, x) for y in (2, 3, 4) for x in (3, 4, 5)
        ]
        assert set(score.tolist()) == {1}

    def test_holes_have_a_boundary_on_both_sides(self):
        array = np.ones((20, 30), np.bool_)
        array[8:12, 10:15] = False
        xs, ys, _ = find_boundary(Mask.from_array(array))
        band = np.zeros_like(array)
        band[7:13, 9:16] = True
        band[9:11, 11:14] = False
        np.testing.assert_array_equal(np.argwhere(band), np.stack([ys, xs], 1))

    def test_the_image_frame_is_no_boundary(self):
        whole = Mask.from_array(np.ones((30, 40), np.bool_))
        assert len(find_boundary(whole)[0]) == 0
        assert select_patches(whole, PatchSettings(patch_size=8)).shape == (0, 4)

    def test_the_image_frame_is_a_boundary_in_compat(self):
        whole = Mask.from_array(np.ones((30, 40), np.bool_))
        xs, ys, _ = find_boundary(whole, compat=True)
        assert len(xs) == 2 * 40 + 2 * 30 - 4
        assert ((xs == 0) | (xs == 39) | (ys == 0) | (ys == 29)).all()
        assert len(select_patches(whole, PatchSettings(patch_size=8, compat=True))) > 0

    def test_where_the_image_cuts_an_object_only_its_own_outline_counts(self):
        array = np.zeros((40, 60), np.bool_)
        array[10:30, 20:] = True  # touches the right border
        xs, ys, _ = find_boundary(Mask.from_array(array))
        on_the_border = set(ys[xs == 59].tolist())
        assert on_the_border == {9, 10, 29, 30}

    @pytest.mark.parametrize("compat", [False, True])
    def test_an_empty_mask_has_no_boundary(self, compat):
        xs, ys, score = find_boundary(Mask.from_array(np.zeros((9, 9))), compat)
        assert (len(xs), len(ys), len(score)) == (0, 0, 0)
        assert (xs.dtype, ys.dtype, score.dtype) == (np.int64, np.int64, np.uint8)


class TestSuppress:
    @thorough
    @given(data=st.data())
    def test_it_equals_the_plain_loop(self, data):
        size = data.draw(st.sampled_from([2, 4, 10, 16, 40, 64]), "size")
        # the last two meet exactly at some offsets of 40 and 64
        nms_iou = data.draw(st.sampled_from([0.05, 0.15, 0.5, 0.55, 1.0, 0.25, 0.6]), "nms_iou")
        spread = data.draw(st.sampled_from([3, size, 4 * size]), "spread")
        count = data.draw(st.integers(1, 120), "count")
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), "seed"))
        # Few scores and any order of arrival: ties are what most of the input is made of.
        arrival = rng.integers(-spread, spread + 1, (count, 2))
        order = np.argsort(-rng.integers(1, 3, count), kind="stable")
        xs, ys = arrival[order].T.astype(np.int64)
        kept = suppress(xs, ys, size, nms_iou)
        assert kept.dtype == np.int64
        assert kept.tolist() == oracles.suppress(xs, ys, size, nms_iou)

    @pytest.mark.parametrize(
        ("size", "nms_iou", "offset"),
        [(40, 0.25, (24, 0)), (40, 0.25, (0, 24)), (64, 0.6, (16, 0)), (64, 0.6, (0, -16))],
    )
    def test_an_overlap_of_exactly_the_threshold_is_dropped(self, size, nms_iou, offset):
        xs, ys = np.array([100, 100 + offset[0]]), np.array([100, 100 + offset[1]])
        assert suppress(xs, ys, size, nms_iou).tolist() == [0]

    @pytest.mark.parametrize(
        ("size", "nms_iou", "offset"), [(40, 0.25, 25), (64, 0.6, 17), (64, 1.0, 1)]
    )
    def test_an_overlap_just_below_the_threshold_is_kept(self, size, nms_iou, offset):
        xs, ys = np.array([100, 100 + offset]), np.array([100, 100])
        assert suppress(xs, ys, size, nms_iou).tolist() == [0, 1]

    @pytest.mark.parametrize("size", [2, 64, 250, 256])
    def test_equal_squares_drop_each_other_at_a_threshold_of_one(self, size):
        assert suppress(np.array([5, 5, 5]), np.array([7, 7, 7]), size, 1.0).tolist() == [0]

    def test_no_candidates_give_none(self):
        nothing = np.zeros(0, np.int64)
        kept = suppress(nothing, nothing, 64, 0.5)
        assert (kept.shape, kept.dtype) == ((0,), np.int64)


class TestSelectPatches:
    @thorough
    @given(mask=masks(), settings=patch_settings())
    def test_every_boundary_pixel_lies_in_a_patch(self, mask, settings):
        boxes = select_patches(mask, settings)
        xs, ys, _ = find_boundary(mask)
        assert oracles.covered(mask.size, boxes)[ys, xs].all()

    @thorough
    @given(mask=masks(), settings=patch_settings())
    def test_boxes_are_distinct_squares_inside_the_image(self, mask, settings):
        size = patch_size_for(mask, settings)
        boxes = select_patches(mask, settings)
        assert boxes.dtype == np.int64
        assert boxes.shape[1] == 4
        x0, y0, x1, y1 = boxes.T
        assert (x1 - x0 == size).all()
        assert (y1 - y0 == size).all()
        height, width = mask.size
        assert (x0 >= 0).all()
        assert (y0 >= 0).all()
        # a side shorter than a patch: the box starts at 0 and reaches beyond
        assert (x1 <= max(width, size)).all()
        assert (y1 <= max(height, size)).all()
        assert len(np.unique(boxes, axis=0)) == len(boxes)

    @quick
    @given(mask=masks(), settings=patch_settings(compat=True))
    def test_compat_boxes_leave_the_last_row_and_column_out(self, mask, settings):
        boxes = select_patches(mask, settings)
        if min(mask.size) <= settings.patch_size:
            assert len(boxes) == 0
        height, width = mask.size
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= width - 1).all()
        assert (boxes[:, 3] <= height - 1).all()

    @quick
    @given(mask=masks(), settings=patch_settings())
    def test_a_patch_anywhere_on_the_outline_would_overlap_one_as_nms_asks(self, mask, settings):
        """What the reference's suppression ensures, for the pixels of the object."""
        boxes = select_patches(mask, settings)
        size = patch_size_for(mask, settings)
        height, width = mask.size
        xs, ys, _ = find_boundary(mask)
        outline = ndimage.binary_erosion(mask.to_array(), border_value=1) ^ mask.to_array()
        for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
            if not outline[y, x]:
                continue
            x0 = min(max(x - size // 2, 0), max(width - size, 0))
            y0 = min(max(y - size // 2, 0), max(height - size, 0))
            along = np.maximum(size - np.abs(boxes[:, :2] - [x0, y0]), 0)
            overlap = np.prod(along, axis=1).astype(np.float32)
            assert (overlap / (2 * size * size - overlap)).max() >= np.float32(settings.nms_iou)

    def test_a_disc_takes_a_quarter_fewer_patches_than_suppression(self):
        y, x = np.mgrid[:400, :400]
        mask = Mask.from_array((x - 200) ** 2 + (y - 190) ** 2 < 150**2)
        for nms_iou in (0.25, 0.4, 0.55):
            settings = PatchSettings(patch_size=64, nms_iou=nms_iou)
            reference = select_patches(mask, replace(settings, compat=True))
            assert len(select_patches(mask, settings)) < 0.75 * len(reference)

    def test_a_straight_edge_gets_evenly_spaced_patches(self):
        array = np.zeros((600, 300), np.bool_)
        array[100:500, 100:200] = True
        boxes = select_patches(Mask.from_array(array), PatchSettings(patch_size=64, nms_iou=0.5))
        along = np.sort(boxes[(boxes[:, 0] + 32 == 100), 1])
        assert np.ptp(np.diff(along)[1:-1]) <= 2

    def test_the_last_row_and_column_are_reachable(self):
        array = np.zeros((100, 120), np.bool_)
        array[60:, 70:] = True
        boxes = select_patches(Mask.from_array(array), PatchSettings(patch_size=32))
        assert boxes[:, 2].max() == 120
        assert boxes[:, 3].max() == 100

    @pytest.mark.parametrize("compat", [False, True])
    def test_an_empty_mask_gives_no_patches(self, compat):
        mask = Mask.from_array(np.zeros((200, 200)))
        boxes = select_patches(mask, PatchSettings(patch_size=64, compat=compat))
        assert (boxes.shape, boxes.dtype) == ((0, 4), np.int64)

    def test_a_mask_smaller_than_a_patch_lies_in_one_patch(self):
        array = np.zeros((200, 300), np.bool_)
        array[100:110, 150:170] = True
        boxes = select_patches(Mask.from_array(array), PatchSettings(patch_size=64, nms_iou=0.05))
        assert oracles.covered(array.shape, boxes[:1])[array].all()

    def test_a_single_pixel_gives_a_patch_at_every_border(self):
        for y, x in [(0, 0), (0, 99), (79, 0), (79, 99), (40, 50)]:
            array = np.zeros((80, 100), np.bool_)
            array[y, x] = True
            boxes = select_patches(Mask.from_array(array), PatchSettings(patch_size=32))
            assert len(boxes) == 1
            assert oracles.covered(array.shape, boxes)[y, x]

    def test_an_image_smaller_than_a_patch_gets_one_box_from_its_corner(self):
        array = np.zeros((20, 30), np.bool_)
        array[5:15, 5:25] = True
        boxes = select_patches(Mask.from_array(array), PatchSettings(patch_size=64))
        assert boxes.tolist() == [[0, 0, 64, 64]]

    def test_far_components_get_patches_of_their_own(self):
        array = np.zeros((100, 400), np.bool_)
        array[40:60, 20:40] = array[40:60, 360:380] = True
        boxes = select_patches(Mask.from_array(array), PatchSettings(patch_size=48))
        assert (boxes[:, 2] <= 200).any()
        assert (boxes[:, 0] >= 200).any()


class TestReassemble:
    @thorough
    @given(mask=masks(), settings=patch_settings())
    def test_reassembling_untouched_patches_gives_back_the_mask(self, mask, settings):
        boxes = select_patches(mask, settings)
        untouched = np.array([mask.read(box) for box in boxes.tolist()], np.float32)
        refined = reassemble(mask, boxes, untouched)
        np.testing.assert_array_equal(refined.to_array(), mask.to_array())
        assert refined.size == mask.size

    @thorough
    @given(mask=masks(), settings=patch_settings(), seed=st.integers(0, 2**32 - 1))
    def test_pixels_outside_the_patches_keep_the_coarse_mask(self, mask, settings, seed):
        boxes = select_patches(mask, settings)
        size = patch_size_for(mask, settings)
        probability = np.random.default_rng(seed).random((len(boxes), size, size), np.float32)
        refined = reassemble(mask, boxes, probability).to_array()
        outside = ~oracles.covered(mask.size, boxes)
        np.testing.assert_array_equal(refined[outside], mask.to_array()[outside])

    @quick
    @given(
        mask=masks(max_side=36),
        settings=patch_settings(),
        seed=st.integers(0, 2**32 - 1),
        levels=st.sampled_from([2, 4, 256]),
    )
    def test_it_equals_the_average_pixel_by_pixel(self, mask, settings, seed, levels):
        boxes = select_patches(mask, replace(settings, nms_iou=0.8))
        size = patch_size_for(mask, settings)
        # few levels, so that averages of exactly 0.5 occur
        drawn = np.random.default_rng(seed).integers(0, levels + 1, (len(boxes), size, size))
        probability = (drawn / levels).astype(np.float32)
        refined = reassemble(mask, boxes, probability)
        expected = oracles.reassemble(mask.to_array(), boxes, probability)
        np.testing.assert_array_equal(refined.to_array(), expected)

    def test_a_mean_of_exactly_one_half_is_background(self):
        mask = Mask.from_array(np.ones((4, 6), np.bool_))
        boxes = np.array([[0, 0, 4, 4], [2, 0, 6, 4]])
        probability = np.zeros((2, 4, 4), np.float32)
        probability[0] = 1
        refined = reassemble(mask, boxes, probability).to_array()
        np.testing.assert_array_equal(refined, np.repeat([[True, True] + [False] * 4], 4, 0))

    def test_hundreds_of_patches_may_lie_on_one_pixel(self):
        mask = Mask.from_array(np.ones((8, 8), np.bool_))
        boxes = np.repeat([[0, 0, 8, 8]], 600, axis=0)
        # counted in uint8 the mean would be 150 / 88
        assert reassemble(mask, boxes, np.full((600, 8, 8), 0.25, np.float32)).is_empty

    def test_the_refined_mask_has_a_tight_window(self):
        array = np.zeros((50, 60), np.bool_)
        array[10:40, 10:50] = True
        probability = np.zeros((1, 40, 40), np.float32)
        probability[0, 5:9, 5:7] = 1
        refined = reassemble(Mask.from_array(array), np.array([[10, 5, 50, 45]]), probability)
        assert refined.window == (15, 10, 17, 14)

    def test_an_object_refined_away_is_an_empty_mask(self):
        array = np.zeros((50, 60), np.bool_)
        array[10:14, 10:14] = True
        nothing = np.zeros((1, 16, 16), np.float32)
        refined = reassemble(Mask.from_array(array), np.array([[4, 4, 20, 20]]), nothing)
        assert refined.is_empty
        assert refined.size == (50, 60)

    def test_no_patches_leave_the_mask_alone(self):
        mask = Mask.from_array(np.eye(5, dtype=np.bool_))
        nothing = np.zeros((0, 4), np.int64), np.zeros((0, 64, 64), np.float32)
        np.testing.assert_array_equal(reassemble(mask, *nothing).to_array(), mask.to_array())


class TestPatchSizeFor:
    @thorough
    @given(small=st.integers(1, 2000), more=st.integers(0, 500), other=st.integers(1, 2000))
    def test_auto_grows_with_the_long_side(self, small, more, other):
        auto = PatchSettings(patch_size=None)

        def chosen(long_side):
            shape = (min(long_side, other), long_side)
            return patch_size_for(Mask.from_array(np.ones(shape, np.bool_)), auto)

        least, most = AUTO_PATCH_SIZES
        assert least <= chosen(small) <= most
        assert chosen(small) % 2 == 0
        assert chosen(small) <= chosen(small + more)

    @pytest.mark.parametrize(
        ("long_side", "expected"),
        [(1, 24), (150, 24), (200, 32), (400, 64), (610, 98), (5000, 384)],
    )
    def test_auto_is_near_a_sixth_of_the_object(self, long_side, expected):
        mask = Mask.from_array(np.ones((1, long_side), np.bool_))
        assert patch_size_for(mask, PatchSettings(patch_size=None)) == expected

    @quick
    @given(mask=masks())
    def test_a_fixed_size_stays_whatever_the_object(self, mask):
        assert patch_size_for(mask, PatchSettings(patch_size=48)) == 48


class TestPatchSettings:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"patch_size": 63}, r"patch_size: expected an even int in 2..1024, got 63"),
            ({"patch_size": 0}, r"patch_size: expected an even int in 2..1024, got 0"),
            ({"patch_size": -2}, r"patch_size: expected an even int in 2..1024, got -2"),
            ({"patch_size": None, "compat": True}, r"patch_size: .* \(--patch-size 64\), got auto"),
            ({"patch_size": 1026}, r"patch_size: expected an even int in 2..1024, got 1026"),
            ({"padding": -1}, r"padding: expected an int in 0..1024, got -1"),
            ({"nms_iou": 0.0}, r"nms_iou: expected a number in \(0, 1\], got 0"),
            ({"nms_iou": 1.01}, r"nms_iou: expected a number in \(0, 1\], got 1.01"),
            ({"nms_iou": float("nan")}, r"nms_iou: expected a number in \(0, 1\], got nan"),
        ],
    )
    def test_a_bad_value_is_named_with_its_rule(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            PatchSettings(**arguments)
