"""The `folders` layout against what the reference wrote, patch by patch."""

from __future__ import annotations

import ast
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.datasets.coco_truth import CocoTruth
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.datasets.predictions import CityscapesPredictions
from bpr.pipeline.extraction.extract import Extraction, extract
from bpr.pipeline.extraction.settings import FOLDERS, ExtractionSettings
from bpr.pipeline.extraction.source import Source
from bpr.pipeline.formats import rle
from bpr.pipeline.formats.images import read_image, read_mask
from bpr.pipeline.instance import Mask
from bpr.pipeline.settings import PatchSettings

SCENES = ["border", "components", "degenerate", "minimal", "skipped", "smallimage"]
CONFIGURATIONS = [
    "p64_pad0_t25",
    "p64_pad0_t55",
    "p64_pad0_t15",
    "p32_pad0_t25",
    "p96_pad0_t25",
    "p48_pad8_t25",
]


def run(source: Source, out: Path, patches: PatchSettings, min_iou: float | None = None) -> None:
    settings = ExtractionSettings(
        patches=patches, split="val", layout=FOLDERS, min_iou=min_iou, images_per_shard=1
    )
    progress = extract(Extraction(source, settings, out))
    assert progress.failures == ()


def details(out: Path) -> dict[int, dict]:
    """The reference's files of details, by number of the instance."""
    return {
        int(path.stem): ast.literal_eval(path.read_text())
        for path in sorted((out / "detail_dir/val").iterdir(), key=lambda path: int(path.stem))
    }


def boxes(detail: dict) -> list[list[int]]:
    rows = zip(detail["wlist"], detail["hlist"], strict=True)
    return [[x, y, x + width, y + height] for (x, width), (y, height) in rows]


def patch(out: Path, folder: str, number: int) -> np.ndarray:
    return np.asarray(Image.open(out / folder / "val" / f"{number}.png"))


def write_scene(data: np.lib.npyio.NpzFile, folder: Path) -> Source:
    """A scene of the goldens as files; each mask is its own ground truth, of its own label."""
    bgr = data["image_bgr"]
    masks = np.unpackbits(data["masks"], axis=-1)[..., : bgr.shape[1]]
    for name in ("images", "pred"):
        (folder / name).mkdir()
    Image.fromarray(bgr[..., ::-1].copy()).save(folder / "images/scene.png")
    lines, annotations = "", []
    for index, mask in enumerate(masks):
        Image.fromarray(mask * np.uint8(255)).save(folder / f"pred/{index}.png")
        lines += f"{index}.png {index} 0.5\n"
        code = rle.encode(Mask.from_array(mask))
        annotations.append({"image_id": 1, "category_id": index, "segmentation": code})
    (folder / "pred/scene_pred.txt").write_text(lines)
    size = {"height": bgr.shape[0], "width": bgr.shape[1]}
    truth = {
        "images": [{"id": 1, "file_name": "scene.png", **size}],
        "annotations": annotations,
        "categories": [{"id": index, "name": f"c{index}"} for index in range(len(masks))],
    }
    (folder / "gt.json").write_text(json.dumps(truth))
    return Source(
        CocoTruth(folder / "gt.json"),
        CityscapesPredictions(folder / "pred"),
        ImageIndex(folder / "images"),
    )


@pytest.mark.parametrize("scene", SCENES)
def test_compat_cuts_the_patches_of_the_reference(golden: Path, tmp_path: Path, scene: str) -> None:
    compared = 0
    with np.load(golden / f"scene_{scene}.npz") as data:
        source = write_scene(data, tmp_path)
        for configuration in CONFIGURATIONS:
            size, padding, threshold = (part.lstrip("padt") for part in configuration.split("_"))
            settings = PatchSettings(
                patch_size=int(size),
                padding=int(padding),
                nms_iou=int(threshold) / 100,
                compat=True,
            )
            out = tmp_path / configuration
            run(source, out, settings)
            expected = {
                k: data[f"boxes_{configuration}_{k}"].tolist()
                for k in range(len(data["masks"]))
                if len(data.get(f"boxes_{configuration}_{k}", ()))
            }
            found = details(out) if expected else {}
            assert {k: boxes(detail) for k, detail in found.items()} == expected
            for k, detail in found.items():
                assert detail["patches"] == [k * 100_000 + i for i in range(len(expected[k]))]
                for number, crcs in zip(
                    detail["patches"], data[f"patch_crc_{configuration}_{k}"], strict=True
                ):
                    bgr = patch(out, "img_dir", number)[..., ::-1]
                    coarse = patch(out, "mask_dir", number)
                    assert zlib.crc32(bgr.tobytes()) == crcs[0]
                    assert zlib.crc32((coarse // 255).tobytes()) == crcs[1]
                    assert np.array_equal(patch(out, "ann_dir", number), coarse)
                    compared += 1
    assert compared or scene == "skipped"


@pytest.fixture(scope="module")
def scenes(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two scenes of the whole-chain golden, with their images as files."""
    out = tmp_path_factory.mktemp("scenes")
    shutil.copytree(golden / "e2e_scenes", out, dirs_exist_ok=True)
    (out / "images/synth").mkdir(parents=True)
    with np.load(golden / "e2e_hrnet18s_128.npz") as data:
        for image in json.loads((out / "annotations.json").read_text())["images"]:
            pixels = data[f"image_rgb_{image['id']}"]
            Image.fromarray(pixels).save(out / "images" / image["file_name"])
    return out


def scene_source(scenes: Path, predictions: Path) -> Source:
    return Source(
        CocoTruth(scenes / "annotations.json"),
        CityscapesPredictions(predictions),
        ImageIndex(scenes / "images"),
    )


REFERENCE = PatchSettings(patch_size=64, padding=0, nms_iou=0.25, compat=True)


def test_instances_get_the_ground_truth_that_the_reference_gives_them(
    golden: Path, scenes: Path, tmp_path: Path
) -> None:
    records = json.loads((golden / "e2e_hrnet18s_128.json").read_text())
    truth = json.loads((scenes / "annotations.json").read_text())
    annotations = {item["id"]: item for item in truth["annotations"]}
    run(scene_source(scenes, scenes / "pred"), tmp_path, REFERENCE)
    # the reference lists a folder in the order of the disk, we sort: numbers differ
    by_file = {}
    for path in sorted((scenes / "pred").glob("*_pred.txt")):
        for line in path.read_text().splitlines():
            by_file[line.split()[0]] = len(by_file)
    found = details(tmp_path)
    with np.load(golden / "e2e_hrnet18s_128.npz") as data:
        for record in records:
            detail = found.pop(by_file[record["file"]])
            assert boxes(detail) == data[f"boxes_{record['index']}"].tolist()
            assert detail["category"]["id"] == record["category_id"]
            image = data[f"image_rgb_{record['image_id']}"]
            coarse = np.unpackbits(data[f"coarse_{record['index']}"], axis=-1)[..., :512]
            gt = np.zeros((256, 512), np.bool_)
            if record["matched_gt"] is not None:
                code = annotations[record["matched_gt"]]["segmentation"]
                gt = rle.decode(code, (256, 512)).to_array()
            assert np.count_nonzero(gt) == record["matched_mask_area"]
            for number, (x0, y0, x1, y1) in zip(detail["patches"], boxes(detail), strict=True):
                box = np.s_[y0:y1, x0:x1]
                assert np.array_equal(patch(tmp_path, "img_dir", number), image[box])
                assert np.array_equal(patch(tmp_path, "mask_dir", number), coarse[box] * 255)
                assert np.array_equal(patch(tmp_path, "ann_dir", number), gt[box] * 255)
    assert found == {}


def test_the_training_filter_keeps_the_instances_that_the_reference_keeps(
    golden: Path, scenes: Path, tmp_path: Path
) -> None:
    records = json.loads((golden / "e2e_hrnet18s_128.json").read_text())
    run(scene_source(scenes, scenes / "pred"), tmp_path, REFERENCE, min_iou=0.5)
    kept = [record for record in records if record["kept_by_training_filter"]]
    assert 0 < len(kept) < len(records)
    found = {
        (d["image_name"], d["category"]["id"], str(boxes(d))) for d in details(tmp_path).values()
    }
    with np.load(golden / "e2e_hrnet18s_128.npz") as data:
        names = {1: "synth_000000", 2: "synth_000001"}
        expected = {
            (
                f"synth/{names[record['image_id']]}_000019_leftImg8bit.png",
                record["category_id"],
                str(data[f"boxes_{record['index']}"].tolist()),
            )
            for record in kept
        }
    assert found == expected


def test_a_file_of_details_is_the_reference_s_byte_for_byte(
    golden: Path, scenes: Path, tmp_path: Path
) -> None:
    (tmp_path / "pred").mkdir()  # the golden's list begins with this image
    for path in (scenes / "pred").glob("synth_000001_*"):
        shutil.copy(path, tmp_path / "pred")
    run(scene_source(scenes, tmp_path / "pred"), tmp_path / "out", REFERENCE)
    expected = (golden / "formats/detail_0.txt").read_bytes()
    assert (tmp_path / "out/detail_dir/val/0.txt").read_bytes() == expected


def test_patches_that_the_trainer_reads_are_images_and_masks(scenes: Path, tmp_path: Path) -> None:
    run(scene_source(scenes, scenes / "pred"), tmp_path, REFERENCE)
    (first, *_) = (tmp_path / "img_dir/val").iterdir()
    assert read_image(first).pixels.shape == (64, 64, 3)
    for folder in ("mask_dir", "ann_dir"):
        assert read_mask(tmp_path / folder / "val" / first.name).shape == (64, 64)
