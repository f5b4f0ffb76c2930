"""POST /refine: the masks of `bpr refine`, in every form that goes in and comes out."""

from __future__ import annotations

import base64
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.formats import rle
from bpr.pipeline.formats.images import encode_mask, encode_png, read_mask
from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Instance, Prediction
from bpr.pipeline.refine import refine
from bpr.pipeline.settings import PatchSettings
from bpr.refiner.model_config import DEFAULT_WEIGHTS
from bpr.refiner.predictor import load_predictor
from bpr.scripts.main import main
from bpr.service.answers import safe_stem
from tests.networks import INPUT_SIZE
from tests.service.services import running


def bpr_refine(weights, *arguments):
    options = ["--weights", weights, "--backend", "torch", "--device", "cpu"]
    assert main([str(word) for word in ("refine", *arguments, *options)]) == 0


def arrays(answer):
    size = (answer["image"]["height"], answer["image"]["width"])
    return [rle.decode(item["segmentation"], size).to_array() for item in answer["instances"]]


@pytest.fixture(scope="module")
def expected(scene, predictor):
    """What the library gives for the scene."""
    prediction = Prediction(
        scene.image.shape[:2], tuple(Instance(mask=m, label=0, score=1.0) for m in scene.masks)
    )
    refined = refine(
        scene.image, prediction, HostRunner(predictor), PatchSettings(patch_size=INPUT_SIZE)
    )
    result = [instance.mask.to_array() for instance in refined.instances]
    for before, after in zip(scene.arrays, result, strict=True):
        assert (before != after).sum() > 50  # else equality would prove little
    return result


class TestTheSameMasksAsTheBatchJob:
    def test_mask_files(self, service, scene, weights, tmp_path):
        (tmp_path / "scene.png").write_bytes(encode_png(scene.image))
        names = []
        for index, mask in enumerate(scene.masks):
            names.append(tmp_path / f"{index}.png")
            names[-1].write_bytes(encode_mask(mask))
        out = tmp_path / "out"
        bpr_refine(weights, tmp_path / "scene.png", "--masks", *names, "--out", out)
        answer = service.refine(scene.mask_parts)
        assert answer.status_code == 200
        for got, path in zip(arrays(answer.json()), names, strict=True):
            np.testing.assert_array_equal(got, read_mask(out / path.name))

    def test_coco_results(self, service, scene, weights, tmp_path):
        (tmp_path / "images").mkdir()
        (tmp_path / "images/5.png").write_bytes(encode_png(scene.image))
        (tmp_path / "results.json").write_text(json.dumps(scene.records))
        out = tmp_path / "out.json"
        bpr_refine(weights, tmp_path / "results.json", "--images", tmp_path / "images",
                   "--out", out)  # fmt: skip
        answer = service.refine(scene.coco_parts).json()
        written = json.loads(out.read_text())
        assert len(written) == len(answer["instances"]) == 3
        for got, record in zip(answer["instances"], written, strict=True):
            assert {key: got[key] for key in record} == record

    def test_a_cityscapes_folder_is_the_zip(self, service, scene, weights, tmp_path):
        folder = tmp_path / "predictions"
        folder.mkdir()
        (folder / "scene.png").write_bytes(encode_png(scene.image))
        lines = ""
        for index, record in enumerate(scene.records):
            name = f"scene_{index}.png"
            (folder / name).write_bytes(encode_mask(scene.masks[index]))
            lines += f"{name} {record['category_id']} {record['score']}\n"
        (folder / "scene_pred.txt").write_text(lines)
        out = tmp_path / "out"
        bpr_refine(weights, folder, "--images", folder, "--out", out)
        answer = service.refine(scene.coco_parts, "application/zip")
        assert answer.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.namelist() == [*(f"scene_{k}.png" for k in range(3)), "scene_pred.txt"]
            for name in archive.namelist():
                assert archive.read(name) == (out / name).read_bytes(), name

    def test_the_shipped_weights_on_photographs(self, tmp_path):
        with running(load_predictor(DEFAULT_WEIGHTS, "cpu", "auto")) as service:
            for scene in load_demo_scenes():
                folder = tmp_path / scene.name
                folder.mkdir()
                Image.fromarray(scene.image).save(folder / "photo.png")
                names = [folder / f"{name}.png" for name in scene.names]
                for path, mask in zip(names, scene.coarse, strict=True):
                    path.write_bytes(encode_mask(mask))
                command = ("refine", folder / "photo.png", "--masks", *names, "--device", "cpu",
                           "--out", folder / "out")  # fmt: skip
                assert main([str(word) for word in command]) == 0
                parts = [("image", ("photo.png", (folder / "photo.png").read_bytes()))]
                parts += [("masks", (path.name, path.read_bytes())) for path in names]
                answer = service.refine(parts).json()
                for got, path in zip(arrays(answer), names, strict=True):
                    np.testing.assert_array_equal(got, read_mask(folder / "out" / path.name))


class TestWhatGoesIn:
    def test_masks_instance_map_and_coco_give_the_same(self, service, scene, expected):
        for parts in (scene.mask_parts, scene.coco_parts):
            for got, want in zip(arrays(service.refine(parts).json()), expected, strict=True):
                np.testing.assert_array_equal(got, want)

    def test_every_value_but_0_of_a_map_is_an_instance(self, service, scene):
        answer = service.refine(scene.map_parts).json()
        assert [item["value"] for item in answer["instances"]] == [7, 255, 300]
        masks = [scene.map_values == value for value in (7, 255, 300)]
        # the same visible parts as mask files
        files = [encode_png(mask.astype(np.uint8)) for mask in masks]
        parts = [scene.image_part, *(("masks", ("m.png", file)) for file in files)]
        same = service.refine(parts).json()
        for got, want in zip(arrays(answer), arrays(same), strict=True):
            np.testing.assert_array_equal(got, want)

    @pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {})])
    def test_jpeg_and_webp_are_read_by_their_content_not_their_name(
        self, service, scene, kind, options
    ):
        buffer = io.BytesIO()
        Image.fromarray(scene.image).save(buffer, kind, **options)
        parts = [("image", ("photo.png", buffer.getvalue(), "image/png")), *scene.mask_parts[1:]]
        assert service.refine(parts).status_code == 200

    def test_exif_orientation_is_applied_and_said(self, service, scene):
        buffer = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.rot90(scene.image)).save(buffer, "PNG", exif=exif)
        parts = [("image", ("turned.png", buffer.getvalue())), *scene.mask_parts[1:]]
        answer = service.refine(parts).json()
        assert answer["notes"] == ["EXIF orientation 6 applied"]
        plain = service.refine(scene.mask_parts).json()
        assert [i["segmentation"] for i in answer["instances"]] == [
            i["segmentation"] for i in plain["instances"]
        ]

    def test_polygons(self, service, scene, predictor):
        records = [{"segmentation": [[10, 10, 50, 12.5, 45, 50, 12, 40]]}]
        parts = [scene.image_part, ("instances", ("i.json", json.dumps(records).encode()))]
        answer = service.refine(parts).json()
        coarse = rle.decode(records[0]["segmentation"], scene.image.shape[:2])
        prediction = Prediction(coarse.size, (Instance(mask=coarse, label=0, score=1.0),))
        want = refine(
            scene.image, prediction, HostRunner(predictor), PatchSettings(patch_size=INPUT_SIZE)
        )
        np.testing.assert_array_equal(arrays(answer)[0], want.instances[0].mask.to_array())

    def test_no_instance_at_all_is_fine(self, service, scene):
        parts = [scene.image_part, ("instances", ("i.json", b"[]"))]
        answer = service.refine(parts).json()
        assert answer["instances"] == []
        assert answer["patches"] == 0

    def test_an_empty_mask_stays_empty(self, service, scene):
        empty = encode_png(np.zeros(scene.image.shape[:2], np.uint8))
        answer = service.refine([scene.image_part, ("masks", ("m.png", empty))]).json()
        assert answer["instances"][0]["area"] == 0


class TestWhatComesOut:
    def test_json_says_what_changed(self, service, scene, expected):
        answer = service.refine(scene.coco_parts, params={"details": "true"}).json()
        assert answer["image"] == {"height": 60, "width": 80}
        for item, record, before, after in zip(
            answer["instances"], scene.records, scene.arrays, expected, strict=True
        ):
            for name in ("image_id", "category_id", "score", "note"):
                assert item[name] == record[name]
            assert item["area"] == after.sum()
            assert item["changed_pixels"] == (before ^ after).sum()
            ys, xs = np.nonzero(after)
            assert item["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert item["coarse"] == record["segmentation"]
            assert len(item["patch_boxes"]) == item["patches"] > 0
            for x0, y0, x1, y1 in item["patch_boxes"]:
                assert (x1 - x0, y1 - y0) == (INPUT_SIZE, INPUT_SIZE)
        assert answer["patches"] == sum(item["patches"] for item in answer["instances"])
        assert set(answer["timings"]) == {"decode", "plan", "queue", "network", "merge", "encode"}
        assert answer["model"]["name"] == "random"
        assert len(answer["model"]["weights_sha256"]) == 64
        plain = service.refine(scene.coco_parts).json()
        assert not {"patch_boxes", "coarse"} & set(plain["instances"][0])

    def test_an_instance_map_keeps_the_values_of_the_callers_map(self, service, scene):
        masks = arrays(service.refine(scene.map_parts).json())
        answer = service.refine(scene.map_parts, "image/png")
        with Image.open(io.BytesIO(answer.content)) as file:
            assert (file.format, file.mode) == ("PNG", "I;16")
            got = np.array(file)
        want = np.zeros_like(got)
        for value, mask in reversed(list(zip((7, 255, 300), masks, strict=True))):
            want[mask] = value  # scores are equal: the earlier lies on top
        np.testing.assert_array_equal(got, want)

    def test_in_an_instance_map_the_higher_score_is_seen(self, service, scene, expected):
        records = scene.records
        for record, score in zip(records, (0.2, 0.9, 0.5), strict=True):
            record["score"] = score
        parts = [scene.image_part, ("instances", ("i.json", json.dumps(records).encode()))]
        with Image.open(io.BytesIO(service.refine(parts, "image/png").content)) as file:
            assert file.mode == "L"
            got = np.array(file)
        want = np.zeros_like(got)
        for index in (0, 2, 1):
            want[expected[index]] = index + 1
        assert (expected[0] & expected[1]).any()
        np.testing.assert_array_equal(got, want)

    @pytest.mark.parametrize(
        ("accept", "media_type"),
        [
            ("*/*", "application/json"),
            ("text/html, application/xhtml+xml, */*;q=0.8", "application/json"),
            ("application/*", "application/json"),
            ("image/*", "image/png"),
            ("application/json;q=0.5, application/zip", "application/zip"),
            ("application/json;q=0, */*;q=0.1", "application/zip"),
            ("", "application/json"),
        ],
    )
    def test_accept_chooses_the_type(self, service, scene, accept, media_type):
        answer = service.refine(scene.mask_parts, accept)
        assert answer.headers["content-type"] == media_type

    def test_a_type_that_there_is_not_is_refused(self, service, scene):
        answer = service.refine(scene.mask_parts, "text/csv")
        assert answer.status_code == 406
        assert "application/json, application/zip, image/png" in answer.json()["detail"]

    @pytest.mark.parametrize(
        ("name", "stem"),
        [
            ("frankfurt_000000_leftImg8bit.png", "frankfurt_000000_leftImg8bit"),
            ("../../etc/passwd", "passwd"),
            ("a b\x00c\n.png", "a_b_c"),
            ("-rf.png", "rf"),
            ("猫と犬.png", "猫と犬"),
            ("кот.jpg", "кот"),
            ("हिन्दी.png", "हिन्दी"),
            ("..", "image"),
            ("", "image"),
        ],
    )
    def test_names_in_the_zip_are_harmless_and_keep_their_letters(self, service, scene, name, stem):
        assert safe_stem(name) == stem
        parts = [("image", (name, scene.image_part[1][1])), *scene.mask_parts[1:]]
        if name.isprintable() and name:
            answer = service.refine(parts, "application/zip")
            with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
                assert archive.namelist()[-1] == f"{stem}_pred.txt"


class TestProbabilities:
    def test_alpha_is_the_mask_above_half(self, service, scene):
        answer = service.refine(scene.mask_parts, params={"alpha": "true"}).json()
        size = (answer["image"]["height"], answer["image"]["width"])
        num_between = 0
        for item, mask in zip(answer["instances"], arrays(answer), strict=True):
            x0, y0, x1, y1 = item["alpha"]["box"]
            values = np.asarray(Image.open(io.BytesIO(base64.b64decode(item["alpha"]["png"]))))
            whole = np.zeros(size, np.uint8)
            whole[y0:y1, x0:x1] = values
            np.testing.assert_array_equal(whole > 127, mask)
            num_between += np.count_nonzero((whole > 0) & (whole < 255))
        assert num_between > 50
        plain = service.refine(scene.mask_parts).json()
        assert "alpha" not in plain["instances"][0]

    def test_a_cutout_shows_the_objects_on_nothing(self, service, scene):
        answer = service.refine(scene.mask_parts, params={"cutout": "true"}, accept="*/*")
        assert answer.headers["content-type"] == "image/png"
        bands = np.asarray(Image.open(io.BytesIO(answer.content)))
        np.testing.assert_array_equal(bands[..., :3], scene.image)
        masks = arrays(service.refine(scene.mask_parts).json())
        np.testing.assert_array_equal(bands[..., 3] > 127, np.any(masks, axis=0))
        wrong = service.refine(
            scene.mask_parts, params={"cutout": "true"}, accept="application/zip"
        )
        assert wrong.status_code == 406

    def test_void_and_stuff_of_a_map_stay_as_evaluate_reads_them(self, service, scene):
        numbers = np.unique(scene.map_values, return_inverse=True)[1].reshape(scene.image.shape[:2])
        eight = numbers.astype(np.uint8)
        eight[:5] = 255
        deep = np.where(numbers > 0, 26000 + numbers, 7)
        deep[:5] = 3
        for values, void, stuff in ((eight, 255, None), (deep.astype(np.uint16), 3, 7)):
            parts = [scene.image_part, ("instance_map", ("m.png", encode_png(values)))]
            found = service.refine(parts).json()["instances"]
            assert len(found) == len(scene.masks)
            content = service.refine(parts, accept="image/png").content
            after = np.asarray(Image.open(io.BytesIO(content)))
            np.testing.assert_array_equal(after == void, values == void)
            assert set(np.unique(after)) == set(np.unique(values))
            assert stuff is None or (after != 0).all()
