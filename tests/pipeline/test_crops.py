import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bpr.pipeline.crops import crop_patches, patch_probabilities
from bpr.pipeline.geometry import patch_size_for, select_patches
from bpr.pipeline.instance import Mask
from bpr.pipeline.settings import PatchSettings
from tests.strategies import masks, patch_settings, quick

COMPAT = PatchSettings(patch_size=64, compat=True)


def rgb(bgr):
    return np.ascontiguousarray(bgr[..., ::-1])


def noise_image(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def crc(array):
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


class TestTheReference:
    @pytest.mark.parametrize(
        "scene", ["border", "components", "degenerate", "minimal", "skipped", "smallimage"]
    )
    def test_compat_cuts_its_patches_padding_included(self, golden: Path, scene):
        compared = 0
        with np.load(golden / f"scene_{scene}.npz") as data:
            image = rgb(data["image_bgr"])
            unpacked = np.unpackbits(data["masks"], axis=-1)[..., : image.shape[1]]
            for name in [name for name in data if name.startswith("patch_crc_")]:
                _, _, size, padding, _, k = name.split("_")
                settings = PatchSettings(
                    patch_size=int(size[1:]), padding=int(padding[3:]), compat=True
                )
                boxes = data[name.replace("patch_crc", "boxes")].astype(np.int64)
                side = settings.patch_size + 2 * settings.padding  # so nothing is resized
                mask = Mask.from_array(unpacked[int(k)])
                patches = crop_patches(image, mask, boxes, side, settings)
                found = [(crc(p[..., 2::-1]), crc(p[..., 3])) for p in patches]
                np.testing.assert_array_equal(np.array(found, np.uint32).reshape(-1, 2), data[name])
                compared += len(found)
        assert compared > 0

    @pytest.mark.parametrize(
        ("patch", "side"),
        [(p, s) for p in ("0", "1", "2") for s in (128, 256)] + [("pad8", 128)],
    )
    def test_compat_resizes_image_and_mask_as_it_does(self, golden: Path, patch, side):
        with np.load(golden / "preprocess.npz") as data:
            image, mask = rgb(data[f"bgr_{patch}"]), Mask.from_array(data[f"mask_{patch}"])
            whole = np.array([[0, 0, image.shape[1], image.shape[0]]])
            batch = crop_patches(image, mask, whole, side, COMPAT)
            np.testing.assert_array_equal(
                batch[0, ..., :3], rgb(data[f"resized_bgr_{side}_{patch}"])
            )
            np.testing.assert_array_equal(batch[0, ..., 3], data[f"resized_mask_{side}_{patch}"])

    def test_the_padding_lies_around_the_box(self, golden: Path):
        with np.load(golden / "preprocess.npz") as data:
            image, mask = rgb(data["bgr_pad8"]), Mask.from_array(data["mask_pad8"])
            settings = PatchSettings(patch_size=64, padding=8, compat=True)
            batch = crop_patches(image, mask, np.array([[8, 8, 72, 72]]), 128, settings)
            np.testing.assert_array_equal(batch[0, ..., :3], rgb(data["resized_bgr_128_pad8"]))


class TestCropPatches:
    @quick
    @given(mask=masks(max_side=60), settings=patch_settings())
    def test_at_its_own_size_a_patch_is_a_plain_cut_of_the_edge_padded_image(self, mask, settings):
        boxes = select_patches(mask, settings)
        image = noise_image(mask.size)
        pad, size = settings.padding, patch_size_for(mask, settings)
        batch = crop_patches(image, mask, boxes, size + 2 * pad, settings)
        beyond = pad + size  # boxes reach beyond images smaller than a patch
        around = np.pad(image, ((pad, beyond), (pad, beyond), (0, 0)), mode="edge")
        coarse = np.pad(mask.to_array(), (pad, beyond), mode="edge")
        assert batch.shape == (len(boxes), size + 2 * pad, size + 2 * pad, 4)
        for patch, (x0, y0, x1, y1) in zip(batch, boxes.tolist(), strict=True):
            cut = np.s_[y0 : y1 + 2 * pad, x0 : x1 + 2 * pad]
            np.testing.assert_array_equal(patch[..., :3], around[cut])
            np.testing.assert_array_equal(patch[..., 3], coarse[cut])

    @quick
    @given(mask=masks(max_side=60), settings=patch_settings(), side=st.sampled_from([8, 32, 64]))
    def test_the_coarse_channel_stays_binary_at_any_input_size(self, mask, settings, side):
        boxes = select_patches(mask, settings)
        batch = crop_patches(noise_image(mask.size), mask, boxes, side, settings)
        assert batch.dtype == np.uint8
        assert batch.shape == (len(boxes), side, side, 4)
        assert batch[..., 3].max(initial=0) <= 1

    def test_beyond_the_border_is_zero_in_compat_and_the_edge_by_default(self):
        image = np.full((40, 40, 3), 200, np.uint8)
        mask = Mask.from_array(np.ones((40, 40), np.bool_))
        box = np.array([[0, 0, 16, 16]])
        compat = crop_patches(
            image, mask, box, 24, PatchSettings(patch_size=16, padding=4, compat=True)
        )[0]
        assert (compat[:4] == 0).all()
        assert (compat[:, :4] == 0).all()
        assert (compat[4:, 4:, :3] == 200).all()
        default = crop_patches(image, mask, box, 24, PatchSettings(patch_size=16, padding=4))[0]
        assert (default == [200, 200, 200, 1]).all()

    def test_large_patches_are_averaged_not_sampled(self):
        stripes = np.zeros((128, 128, 3), np.uint8)
        stripes[:, ::4] = 200  # one column in four: sampling every fourth pixel sees a constant
        mask = Mask.from_array(np.ones((128, 128), np.bool_))
        box = np.array([[0, 0, 128, 128]])
        patch = crop_patches(stripes, mask, box, 32, PatchSettings(patch_size=128))[0]
        assert (patch[..., :3] == 50).all()
        compat = crop_patches(stripes, mask, box, 32, PatchSettings(patch_size=128, compat=True))[0]
        bilinear = cv2.resize(stripes, (32, 32), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(compat[..., :3], bilinear)

    def test_no_boxes_give_an_empty_batch(self):
        mask = Mask.from_array(np.zeros((40, 40)))
        nothing = np.zeros((0, 4), np.int64)
        batch = crop_patches(noise_image((40, 40)), mask, nothing, 64, COMPAT)
        assert (batch.shape, batch.dtype) == ((0, 64, 64, 4), np.uint8)


class TestPatchProbabilities:
    @pytest.mark.parametrize(
        ("input_size", "patch_size", "padding"),
        [(64, 64, 0), (128, 64, 0), (256, 64, 0), (64, 96, 0), (64, 48, 8), (96, 250, 3)],
    )
    def test_it_is_bilinear_resizing_then_the_sigmoid(self, input_size, patch_size, padding):
        logits = 10 * np.random.default_rng(3).normal(size=(5, input_size, input_size))
        logits = logits.astype(np.float32)
        side = patch_size + 2 * padding
        resized = torch.nn.functional.interpolate(
            # in float64: torch's own float32 weights are off by 1e-6, times logits of 40
            torch.from_numpy(logits)[:, None].double(),
            (side, side),
            mode="bilinear",
            align_corners=False,
        )
        inner = slice(padding, padding + patch_size)
        expected = torch.sigmoid(resized)[:, 0, inner, inner].numpy()
        found = patch_probabilities(logits, patch_size, padding)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("scale", [1e4, 1e30])
    def test_large_logits_saturate_without_a_warning(self, scale):
        logits = np.full((2, 16, 16), scale, np.float32)
        logits[1] *= -1
        probability = patch_probabilities(logits, 16, 0)
        assert (probability[0] == 1).all()
        assert (probability[1] == 0).all()

    def test_a_logit_of_zero_is_one_half(self):
        assert (patch_probabilities(np.zeros((1, 8, 8), np.float32), 16, 2) == 0.5).all()

    def test_the_logits_stay_as_they_were(self):
        logits = np.ones((2, 16, 16), np.float32)
        patch_probabilities(logits, 16, 0)
        assert (logits == 1).all()

    def test_no_patches_give_no_probabilities(self):
        found = patch_probabilities(np.zeros((0, 64, 64), np.float32), 48, 8)
        assert (found.shape, found.dtype) == ((0, 48, 48), np.float32)
