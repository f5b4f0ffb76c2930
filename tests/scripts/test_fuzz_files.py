"""Whatever is in a file: refine, extract and evaluate answer in sentences.

pytest -m slow tests/scripts/test_fuzz_files.py
"""

from __future__ import annotations

import base64
import io
import json
import random
import shutil
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from bpr.pipeline.batch.open_job import JobRequest, open_job
from bpr.pipeline.formats import rle
from bpr.pipeline.instance import Mask
from bpr.scripts.main import main

SIZE = (48, 64)
ODD = [None, [], {}, "", "x", -1, 0, 1.5, 1e308, float("nan"), True, [[]], [None], "é" * 9, 2**70]
MASKS = ["pred/a_0.png", "pred/a_1.png", "map/a.png"]
FILES = ["labels.json", "results.json", "yolo/a.txt", "labelme/a.json", "images/a.jpg",
         "pred/a_pred.txt", "via.json", "train.csv", "supervisely/ann/a.jpg.json",
         "darwin/a.json", "panoptic.json", "panoptic/a.png", "release.json",
         "classes/a_labelIds.png", *MASKS]  # fmt: skip


def blob(x, y, radius):
    canvas = np.zeros(SIZE, np.uint8)
    cv2.circle(canvas, (x, y), radius, 255, -1)
    return canvas


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small data set in every format."""
    root = tmp_path_factory.mktemp("sound")
    for name in ("images", "pred", "map", "yolo", "labelme"):
        (root / name).mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 1
    Image.fromarray(noise).save(root / "images/a.jpg", exif=exif)
    masks = [blob(20, 20, 12), blob(44, 30, 11)]
    codes = [rle.encode(Mask.from_array(mask)) for mask in masks]
    square = [10, 10, 30, 10, 30, 30, 10, 30]
    image = {"id": 1, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": codes[0], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 2, "segmentation": [square], "bbox": [1, 1, 2, 2]},
        {"id": 3, "image_id": 1, "category_id": 1, "segmentation": codes[1], "iscrowd": 1},
    ]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    labels = {"images": [image], "annotations": annotations, "categories": categories}
    (root / "labels.json").write_text(json.dumps(labels))
    results = [
        {"image_id": 1, "category_id": 1 + n, "score": 0.9, "segmentation": code}
        for n, code in enumerate(codes)
    ]
    (root / "results.json").write_text(json.dumps(results))
    lines = "".join(f"a_{n}.png {24 + n} 0.9\n" for n in range(2))
    (root / "pred/a_pred.txt").write_text(lines)
    for number, mask in enumerate(masks):
        Image.fromarray(mask).save(root / f"pred/a_{number}.png")
    Image.fromarray((masks[0] // 255) + 2 * (masks[1] // 255)).save(root / "map/a.png")
    outline = "0.1 0.1 0.5 0.1 0.5 0.5 0.2 0.6"
    (root / "yolo/a.txt").write_text(f"0 {outline}\n1 {outline} 0.9\n2 0.5 0.5 0.1 0.1\n")
    points = [[10, 10], [30, 10], [30, 30]]
    shapes = [{"label": "a", "points": points, "shape_type": kind} for kind in ("polygon", None)]
    content = {"shapes": shapes, "imagePath": "a.jpg", "imageHeight": 48, "imageWidth": 64}
    (root / "labelme/a.json").write_text(json.dumps(content))
    write_other_formats(root, masks)
    return root


def write_other_formats(root, masks):
    points = cv2.findContours(masks[0], cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0][0][:, 0]
    xs, ys = points[:, 0].tolist(), points[:, 1].tolist()
    shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
    regions = [{"shape_attributes": shape, "region_attributes": {}}] * 2
    image = {"filename": "a.jpg", "size": 1, "regions": regions}
    (root / "via.json").write_text(json.dumps({"_via_img_metadata": {"a.jpg1": image}}))
    (root / "train.csv").write_text("ImageId,EncodedPixels\na.jpg,500 9 548 9\na.jpg,1 3\n")
    buffer = io.BytesIO()
    Image.fromarray(masks[1][10:45, 30:60]).save(buffer, "png")
    packed = base64.b64encode(zlib.compress(buffer.getvalue())).decode()
    outline = {"exterior": points.tolist(), "interior": []}
    objects = [
        {"geometryType": "bitmap", "bitmap": {"data": packed, "origin": [30, 10]}},
        {"geometryType": "polygon", "points": outline},
    ]
    content = {"size": {"height": SIZE[0], "width": SIZE[1]}, "objects": objects}
    (root / "supervisely/ann").mkdir(parents=True)
    (root / "supervisely/ann/a.jpg.json").write_text(json.dumps(content))
    layer = {"dense_rle": [0, 1000, 1, 50, 0, 2022], "mask_annotation_ids_mapping": {"m": 1}}
    annotations = [
        {"id": "p", "polygon": {"paths": [[{"x": x, "y": y} for x, y in points.tolist()]]}},
        {"id": "m", "mask": {}},
        {"id": "r", "raster_layer": layer},
    ]
    slots = [{"height": SIZE[0], "width": SIZE[1]}]
    content = {"item": {"name": "a.jpg", "slots": slots}, "annotations": annotations}
    (root / "darwin").mkdir()
    (root / "darwin/a.json").write_text(json.dumps(content))
    (root / "panoptic").mkdir()
    ids = np.zeros((*SIZE, 3), np.uint8)
    ids[masks[0] > 0, 0], ids[masks[1] > 0, 0] = 5, 9
    for name in ("panoptic/a.png", "a_label_ground-truth.png"):
        Image.fromarray(ids).save(root / name)
    segments = [{"id": n, "category_id": 1, "area": 1, "bbox": [0, 0, 1, 1]} for n in (5, 9)]
    entry = {"image_id": 1, "file_name": "a.png", "segments_info": segments}
    images = [{"id": 1, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}]
    content = {"images": images, "annotations": [entry], "categories": [{"id": 1, "isthing": 0}]}
    (root / "panoptic.json").write_text(json.dumps(content))
    labels = {"ground-truth": {"attributes": {"annotations": segments}}}
    content = {"dataset": {"samples": [{"name": "a.jpg", "labels": labels}]}}
    (root / "release.json").write_text(json.dumps(content))
    (root / "classes").mkdir()
    Image.fromarray(ids[..., 0] + 7).save(root / "classes/a_labelIds.png")


def mutate_json(value, chance):
    """Put something odd in the place of a value, drop it, or double it."""
    if chance.random() < 0.08:
        return chance.choice(ODD)
    if isinstance(value, dict):
        return {
            key: mutate_json(item, chance) for key, item in value.items() if chance.random() > 0.03
        }
    if isinstance(value, list):
        items = [mutate_json(item, chance) for item in value if chance.random() > 0.02]
        return items + items[-1:] if chance.random() < 0.05 else items
    return value


def mutate_bytes(content, chance):
    """Change, drop or double bytes."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[place : place + chance.randint(1, 20)]
            case 2:
                data[place:place] = data[place : place + 20]
            case _:
                data[place:place] = chance.choice([b"\0", b" ", b"\n", b"nan", b"-", b"9" * 30])
    return bytes(data)


def mutate_picture(content, chance):
    """The same picture in another mode, size or type, or with other values."""
    image = Image.open(io.BytesIO(content))
    match chance.randrange(4):
        case 0:
            image = image.resize((chance.randint(1, 80), chance.randint(1, 80)))
        case 1:
            image = image.convert(chance.choice(["1", "L", "P", "RGB", "RGBA", "I", "F", "LA"]))
        case 2:
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 99)
        case _:
            image = image.convert("L").point(lambda value: value % chance.randint(2, 200))
    buffer = io.BytesIO()
    kind = "tiff" if image.mode in ("F", "I") else chance.choice(["png", "tiff"])
    image.save(buffer, kind)
    return buffer.getvalue()


def mutate(path, chance):
    content = path.read_bytes()
    if path.suffix == ".json" and chance.random() < 0.7:
        text = json.dumps(mutate_json(json.loads(content), chance))
        content = text.encode(chance.choice(["utf-8", "utf-8-sig", "utf-16"]))
    elif path.suffix in (".png", ".jpg") and chance.random() < 0.5:
        content = mutate_picture(content, chance)
    else:
        content = mutate_bytes(content, chance)
    path.write_bytes(content)


class Entries(dict):
    """A journal."""

    def read(self, key):
        return self[key]


def cut(instance):
    """The instance without the left column of its mask, where something is left."""
    bitmap = np.array(instance.mask.bitmap)
    bitmap[:, :1] = False
    if not bitmap.any():
        return instance
    mask = Mask.from_array(bitmap, instance.mask.window[:2], instance.mask.size)
    return replace(instance, mask=mask)


def refine(root, name, capsys):
    """Read, and write again, what a file belongs to: all of `bpr refine` but the network."""
    folder = name.split("/")[0]
    pred = root / (name if "." in folder else folder)
    if folder in ("images", "panoptic"):
        pred = root / ("labels.json" if folder == "images" else "panoptic.json")
    out = root / ("out.json" if pred.suffix == ".json" else "out")
    images_json = root / "labels.json" if pred.name == "results.json" else None
    try:
        opened = open_job(
            JobRequest(pred=pred, out=out, images=root / "images", images_json=images_json)
        )
    except ValueError:
        return
    opened.job.work.mkdir(parents=True)
    entries = {}
    for key in opened.job.keys():  # noqa: SIM118
        try:
            loaded = opened.job.read(key)
        except ValueError:
            continue
        smaller = [cut(instance) for instance in loaded.prediction.instances]
        refined = replace(loaded.prediction, instances=tuple(smaller))
        entries[key] = json.loads(json.dumps(opened.job.write(key, loaded.source, refined)))
    failed = {key for key in opened.job.keys() if key not in entries}  # noqa: SIM118
    opened.job.finish(Entries(entries), failed)
    code = main(
        ["refine", str(pred), "--images", str(root / "images"), "--out", str(out), "--dry-run"]
    )
    assert code in (0, 1, 2)


def commands(root, name):
    images, out = ["--images", str(root / "images")], str(root / "more")
    labels = str(root / "labels.json")
    yield ["evaluate", str(root / "results.json"), "--ground-truth", labels, "--out", out + "e"]
    yield ["evaluate", str(root / "pred"), "--ground-truth", str(root / "map"), "--pictures", "0"]
    other = str(root / (name if "." in name.split("/")[0] else name.split("/")[0]))
    yield ["evaluate", other, *images, "--ground-truth", labels, "--pictures", "0"]
    yield [
        "extract", str(root / "results.json"), *images, "--ground-truth", labels, "--out", out,
        "--split", "val",
    ]  # fmt: skip


def attack(sound, folder, number, capsys):
    chance = random.Random(number)
    root = folder / str(number)
    shutil.copytree(sound, root)
    name = FILES[number % len(FILES)]
    mutate(root / name, chance)
    refine(root, name, capsys)
    for command in commands(root, name):
        code = main(command)
        assert code in (0, 1, 2), command
    assert "Traceback" not in capsys.readouterr().err
    shutil.rmtree(root)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("start", range(0, 27, 9))
def test_no_content_of_a_file_gives_a_traceback(sound, tmp_path, capsys, start):
    for number in range(start, start + 9):
        attack(sound, tmp_path, number, capsys)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("start", range(1000, 3000, 250))
def test_two_thousand_contents_give_no_traceback(sound, tmp_path, capsys, start):
    for number in range(start, start + 250):
        attack(sound, tmp_path, number, capsys)
