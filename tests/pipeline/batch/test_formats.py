"""Formats of other tools: read, refined, and written back with every other byte as it was."""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from bpr.pipeline.batch.engine import InThisProcess
from bpr.pipeline.batch.job_predictions import open_masks
from bpr.pipeline.batch.open_job import (
    COCO,
    DARWIN,
    KAGGLE,
    LABEL_MAPS,
    LABELME,
    MASKS,
    PANOPTIC,
    SAM,
    SEGMENTS_AI,
    SUPERVISELY,
    VIA,
    YOLO,
    JobRequest,
    open_job,
)
from bpr.pipeline.batch.run_batch import run_batch
from bpr.pipeline.formats import darwin, kaggle, polygons, rle, supervisely
from bpr.pipeline.formats.text import encode_like
from bpr.pipeline.host import HostRunner
from bpr.pipeline.instance import Instance, Mask, Prediction
from bpr.pipeline.predictor import KeepCoarse
from bpr.pipeline.settings import PatchSettings
from tests.strategies import bitmaps, quick

SIZE = (48, 64)
HEIGHT, WIDTH = SIZE
NAME = "größe.png"


def ring(x=20, y=20, outer=12, inner=5):
    """A disc with a hole."""
    canvas = np.zeros(SIZE, np.uint8)
    cv2.circle(canvas, (x, y), outer, 1, -1)
    if inner:
        cv2.circle(canvas, (x, y), inner, 0, -1)
    return canvas


def disc(x=46, y=26, radius=11):
    return ring(x, y, radius, 0)


def outline(mask):
    """The points of a mask's largest part, through its pixels."""
    return polygons.trace_pixels(Mask.from_array(mask), 0).parts[0]


def packed(mask):
    """A bitmap as the SDK of Supervisely packs it."""
    x, y, w, h = cv2.boundingRect(mask)
    picture = Image.fromarray(mask[y : y + h, x : x + w] * 255)
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    data = base64.b64encode(zlib.compress(buffer.getvalue())).decode()
    return {"data": data, "origin": [x, y]}


def kaggle_runs(mask):
    """Column-major from 1, as the kernels of Kaggle's competitions write it."""
    pixels = np.concatenate([[0], mask.T.flatten(), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(map(str, runs))


def odd_json(value):
    """A json in a style that bpr itself never writes."""
    text = json.dumps(value, indent=3, ensure_ascii=False, separators=(" ,", " : "))
    return text.replace("7.125", "7.1250").replace("\n", "\r\n")


class Sample:
    """A data set of one image with two objects, in some format.

    Args:
        root: folder.
        kind: of FORMATS.
    """

    def __init__(self, root, kind):
        self.root, self.kind = root, kind
        (root / "images").mkdir(parents=True)
        Image.new("RGB", SIZE[::-1]).save(root / "images" / NAME)
        self.masks = [disc(), disc(16, 18, 9)]
        self.name, self.content = getattr(self, "make_" + kind.replace("-", "_"))()
        path = root / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.content)
        self.pred = path if kind in (VIA, KAGGLE, PANOPTIC, SEGMENTS_AI, COCO) else path.parent
        if kind in (LABELME, YOLO, SUPERVISELY, DARWIN, SAM):
            self.pred = root / self.name.split("/")[0]

    def open(self, out="out", **more):
        out = self.root / (f"{out}.json" if self.kind == COCO else out)
        return open_job(JobRequest(pred=self.pred, images=self.root / "images", out=out, **more))

    def written(self, out="out"):
        if self.kind == COCO:
            return (self.root / f"{out}.json").read_bytes()
        name = self.name if self.pred.is_file() else self.name.split("/", 1)[1]
        return (self.root / out / name).read_bytes()

    def make_via(self):
        regions = [
            {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": points[:, 0].astype(int).tolist(),
                    "all_points_y": points[:, 1].astype(int).tolist(),
                },
                "region_attributes": {"n": 7.125, "größe": "ä"},
            }
            for points in map(outline, self.masks)
        ]
        regions.insert(1, {"shape_attributes": {"name": "rect", "x": 1}, "region_attributes": {}})
        images = {f"{NAME}99": {"filename": NAME, "size": 99, "regions": regions}}
        images["other"] = {"filename": "other.png", "size": 1, "regions": []}
        return "via.json", odd_json(
            {"_via_settings": {"a": 7.125}, "_via_img_metadata": images}
        ).encode()

    def make_kaggle(self):
        rows = [f"größe,{kaggle_runs(mask)},7.1250" for mask in self.masks]
        text = "\r\n".join(["ImageId,EncodedPixels,other", *rows, "größe,,x", ""])
        return "train.csv", b"\xef\xbb\xbf" + text.encode()

    def make_supervisely(self):
        points = outline(self.masks[0]).astype(int).tolist()
        objects = [
            {"id": 1, "geometryType": "polygon", "points": {"exterior": points, "interior": []}},
            {"id": 2, "geometryType": "rectangle", "points": {"exterior": [[1, 1], [2, 2]]}},
            {"id": 3, "geometryType": "bitmap", "bitmap": packed(self.masks[1]), "tags": [7.125]},
        ]
        content = {"size": {"height": HEIGHT, "width": WIDTH}, "tags": [], "objects": objects}
        return f"project/ds/ann/{NAME}.json", odd_json(content).encode("utf-8-sig")

    def make_sam(self):
        """As SA-1B is: compressed runs, and uncompressed ones for the second mask."""
        codes = [rle.encode(Mask.from_array(mask)) for mask in self.masks]
        codes[1]["counts"] = rle.runs(Mask.from_array(self.masks[1]))
        records = [
            {
                "id": n,
                "segmentation": code,
                "bbox": [1, 2, 3, 4],
                "area": 5,
                "predicted_iou": 7.125,
                "point_coords": [[1.5, 2.5]],
            }
            for n, code in enumerate(codes)
        ]
        about = {"image_id": 3, "file_name": NAME, "height": HEIGHT, "width": WIDTH}
        return "sam/sa_3.json", odd_json({"image": about, "annotations": records}).encode()

    def make_darwin(self):
        edges = polygons.trace_edges(Mask.from_array(self.masks[0]), 0).parts[0].tolist()
        layer = self.masks[1] * 7
        starts = np.flatnonzero(np.diff(layer.ravel(), prepend=99))
        lengths = np.diff(starts, append=layer.size)
        code = np.column_stack([layer.ravel()[starts], lengths]).ravel().tolist()
        annotations = [
            {
                "id": "p",
                "name": "cup",
                "bounding_box": {"h": 1, "w": 1, "x": 0, "y": 0},
                "polygon": {"paths": [[{"x": x, "y": y} for x, y in edges]]},
            },
            {"id": "m", "mask": {}, "name": "cup"},
            {
                "id": "r",
                "name": "__raster_layer__",
                "raster_layer": {
                    "dense_rle": code,
                    "mask_annotation_ids_mapping": {"m": 7},
                    "total_pixels": layer.size,
                },
            },
            {"id": "t", "tag": {}, "properties": [7.125]},
        ]
        slots = [{"height": HEIGHT, "width": WIDTH, "slot_name": "0"}]
        item = {"name": NAME, "path": "/", "slots": slots}
        content = {"version": "2.0", "item": item, "annotations": annotations}
        return "release/a.json", odd_json(content).encode("utf-16")

    def make_labelme(self):
        shapes = [
            {"label": "ä", "points": outline(mask).tolist(), "shape_type": "polygon", "f": 7.125}
            for mask in self.masks
        ]
        shapes.insert(1, {"label": "x", "points": [[7.125, 1]], "shape_type": "point"})
        content = {"shapes": shapes, "imagePath": NAME, "imageHeight": HEIGHT, "imageWidth": WIDTH}
        return "labels/a.json", odd_json(content).encode("utf-16")

    def make_yolo(self):
        rows = [
            " ".join(
                ["3", *(f"{v:.6f}" for v in ((outline(mask) + 0.5) / (WIDTH, HEIGHT)).ravel())]
            )
            for mask in self.masks
        ]
        return "labels/größe.txt", "\r\n".join(
            [rows[0], "1 0.5 0.5 0.10 0.1", rows[1], ""]
        ).encode()

    def make_coco(self):
        annotations = [
            {
                "image_id": 7,
                "segmentation": rle.encode(Mask.from_array(mask)),
                "x": 7.125,
                "id": n,
                "bbox": list(cv2.boundingRect(mask)),
                "area": int(mask.sum()),
            }
            for n, mask in enumerate(self.masks)
        ]
        annotations.insert(1, {"id": 9, "image_id": 7, "category_id": 1, "keypoints": [7.125]})
        images = [{"id": 7, "file_name": NAME, "height": HEIGHT, "width": WIDTH}]
        content = {"info": {"größe": 7.125}, "annotations": annotations, "images": images}
        return "labels.json", odd_json(content).encode()

    def make_panoptic(self):
        return "pan.json", self._segments([300, 70000], "pan/größe.png", "RGB")

    def make_segments_ai(self):
        return "release.json", self._segments([1, 2], "größe_label_ground-truth.png", "RGBA")

    def _segments(self, ids, png, mode):
        values = np.zeros(SIZE, np.int64)
        for number, mask in zip(ids, self.masks, strict=True):
            values[mask > 0] = number
        bands = [values & 255, values >> 8 & 255, values >> 16, np.full(SIZE, 255)]
        pixels = np.stack(bands[: len(mode)], -1).astype(np.uint8)
        (self.root / png).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels, mode).save(self.root / png)
        self.png = self.root / png
        if mode == "RGBA":
            annotations = [{"id": number, "category_id": 1} for number in ids]
            attributes = {
                "annotations": annotations,
                "segmentation_bitmap": {"url": ""},
                "x": 7.125,
            }
            labels = {"ground-truth": {"attributes": attributes}}
            sample = {"name": NAME, "labels": labels}
            return odd_json({"name": "v1", "dataset": {"samples": [sample]}}).encode()
        segments = [
            {"id": number, "category_id": 1, "area": 1, "bbox": [0, 0, 1, 1], "iscrowd": 0}
            for number in ids
        ]
        content = {
            "images": [{"id": 1, "file_name": NAME, "height": HEIGHT, "width": WIDTH}],
            "annotations": [{"image_id": 1, "file_name": "größe.png", "segments_info": segments}],
            "categories": [{"id": 1, "name": "ä", "isthing": 1, "x": 7.125}],
        }
        return odd_json(content).encode()


ALL = [VIA, KAGGLE, SUPERVISELY, DARWIN, SAM, LABELME, YOLO, COCO, PANOPTIC, SEGMENTS_AI]


def write(opened, masks=None):
    """Read every image, put other masks in the place of its own, and write."""
    job = opened.job
    job.work.mkdir(parents=True, exist_ok=True)
    entries = {}
    for key in job.keys():  # noqa: SIM118
        loaded = job.read(key)
        instances = loaded.prediction.instances
        if masks is not None:
            instances = tuple(
                Instance(mask=Mask.from_array(mask), label=0, score=1.0) for mask in masks
            )
        prediction = Prediction(loaded.prediction.size, instances)
        entries[key] = json.loads(json.dumps(job.write(key, loaded.source, prediction)))
    job.finish(Journal(entries), frozenset())


class Journal(dict):
    """Entries by key."""

    def read(self, key):
        return self[key]


@pytest.mark.parametrize("kind", ALL)
def test_each_format_is_recognised_and_read(tmp_path, kind):
    sample = Sample(tmp_path, kind)
    opened = sample.open()
    assert opened.format == kind
    (key,) = opened.job.keys()
    for job in (opened.job, pickle.loads(pickle.dumps(opened.job.part(key)))):
        loaded = job.read(key)
        found = [one.mask.to_array() for one in loaded.prediction.instances]
        np.testing.assert_array_equal(found, np.array(sample.masks) > 0)
        assert job.stamp(key) == opened.job.stamp(key)


@pytest.mark.parametrize("kind", ALL)
def test_evaluate_extract_and_view_read_the_same_masks(tmp_path, kind):
    sample = Sample(tmp_path, kind)
    predictions = open_masks(sample.pred, None, None, images=tmp_path / "images")
    (key,) = predictions.keys()
    assert key == "größe"
    found = [one.mask.to_array() for one in predictions.read(key, SIZE).instances]
    np.testing.assert_array_equal(found, np.array(sample.masks) > 0)


@pytest.mark.parametrize("kind", ALL)
def test_what_refining_does_not_change_is_written_byte_for_byte(tmp_path, kind):
    sample = Sample(tmp_path, kind)
    write(sample.open())
    if kind != PANOPTIC:  # area and bbox are corrected
        assert sample.written() == sample.content
    new = [disc(44, 28, 12), disc(15, 17, 8)]
    write(sample.open("other"), new)
    before, after = sample.content, sample.written("other")
    if kind == SEGMENTS_AI:
        assert after == before  # the masks are in the PNG
    else:
        # what stands before the first mask and behind the last one
        assert kind == YOLO or common(before, after) > 30
        assert kind == YOLO or common(before[::-1], after[::-1]) > 5
    encoding = "utf-16" if before[:2] == b"\xff\xfe" else "utf-8-sig"
    assert after.decode(encoding).count("7.1250") == before.decode(encoding).count("7.1250")
    assert after.decode(encoding).count("größe") == before.decode(encoding).count("größe")
    again = Sample.__new__(Sample)
    again.__dict__ = {**sample.__dict__, "pred": sample.root / "other"}
    if sample.pred.is_file():
        again.pred = sample.root / ("other.json" if kind == COCO else f"other/{sample.name}")
    (key,) = again.open("third").job.keys()
    found = [one.mask.to_array() for one in again.open("third").job.read(key).prediction.instances]
    for mask, want, old in zip(found, new, sample.masks, strict=True):
        # polygons are simplified by half a pixel; a panoptic segment cannot grow into void
        expected = want & old if kind == PANOPTIC else want
        assert np.count_nonzero(mask & (expected == 0)) <= (99 if kind == PANOPTIC else 20)
        assert np.count_nonzero(~mask & (expected > 0)) <= 20


def common(first, second):
    """How many bytes two files begin with together."""
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


@pytest.mark.parametrize("kind", [VIA, KAGGLE, PANOPTIC, COCO])
def test_a_run_writes_the_file_as_a_whole(tmp_path, kind):
    sample = Sample(tmp_path, kind)
    opened = sample.open()
    progress = run_batch(
        opened.job, InThisProcess(HostRunner(KeepCoarse(64), 32)), PatchSettings(), {}
    )
    assert (progress.done, progress.instances) == (1, 2)
    assert sample.written()
    again = run_batch(
        sample.open().job, InThisProcess(HostRunner(KeepCoarse(64), 32)), PatchSettings(), {}
    )
    assert again.already_done == 1


@pytest.mark.parametrize("kind", [VIA, KAGGLE, PANOPTIC, SEGMENTS_AI])
def test_a_folder_with_one_such_file_is_it(tmp_path, kind):
    sample = Sample(tmp_path, kind)
    assert open_job(JobRequest(pred=tmp_path, images=None, out=tmp_path / "o")).format == kind
    sample.pred = tmp_path
    assert sample.open(format=kind).format == kind


# ---- readers alone, on every awkward mask


@quick
@given(array=bitmaps(size=SIZE))
def test_kaggle_runs_are_those_of_its_kernels(array):
    mask = Mask.from_array(array)
    text, _ = kaggle.KaggleFile(path=None, rows={}, by_image={}).refined(mask, 0)
    assert text == kaggle_runs(array.astype(np.uint8))
    file = kaggle.KaggleFile(path=None, rows={1: text}, by_image={"a": (1,)})
    instances, left = file.read_instances("a", SIZE)
    assert not left
    if array.any():
        np.testing.assert_array_equal(instances[1].mask.to_array(), array)


@quick
@given(text=st.text("0123456789 -x", max_size=20))
def test_runs_are_read_or_refused(text):
    file = kaggle.KaggleFile(path=None, rows={1: text}, by_image={"a": (1,)})
    instances, left = file.read_instances("a", SIZE)
    assert len(instances) + len(left) == (text.strip() not in ("", "-1"))


@quick
@given(array=bitmaps(size=SIZE))
def test_paths_of_darwin_hold_every_mask_with_its_holes(array):
    mask = Mask.from_array(array)
    if mask.is_empty:
        return
    paths = darwin._written({"paths": []}, mask, 0)
    found = polygons.fill_even_odd(darwin._paths(paths, SIZE), SIZE)
    np.testing.assert_array_equal(found.to_array(), array)


@quick
@given(array=bitmaps(size=SIZE))
def test_supervisely_holds_every_mask(array):
    mask = Mask.from_array(array)
    if mask.is_empty:
        return
    bitmap = supervisely._bitmap(mask)
    np.testing.assert_array_equal(
        supervisely._read_bitmap({"bitmap": bitmap}, SIZE).to_array(), array
    )
    # as the SDK reads it: alpha of four channels, else the only one
    pixels = cv2.imdecode(
        np.frombuffer(zlib.decompress(base64.b64decode(bitmap["data"])), np.uint8),
        cv2.IMREAD_UNCHANGED,
    )
    decoded = pixels[..., 3] if pixels.ndim == 3 and pixels.shape[2] == 4 else pixels
    np.testing.assert_array_equal(decoded > 0, mask.bitmap)
    points, parts = supervisely._points(mask, 0)
    if parts == 1:  # a polygon cannot hold more
        found = supervisely._read_polygon({"points": points}, SIZE)
        np.testing.assert_array_equal(found.to_array(), array)


def test_a_hole_survives_in_the_formats_that_have_holes(tmp_path):
    for kind in (SUPERVISELY, DARWIN):
        sample = Sample(tmp_path / kind, kind)
        write(sample.open(), [ring(), disc()])
        again = open_job(
            JobRequest(
                pred=sample.root / "out", images=sample.root / "images", out=sample.root / "x"
            )
        )
        (key,) = again.job.keys()
        found = again.job.read(key).prediction.instances[0].mask.to_array()
        assert not found[20, 20]
        assert found[20, 11]


@given(
    points=st.lists(
        st.tuples(st.integers(-20, WIDTH + 20), st.integers(-20, HEIGHT + 20)),
        min_size=3,
        max_size=9,
    )
)
@example(points=[(0, 36), (62, 50), (78, 24)])
@quick
def test_even_odd_is_that_of_opencv(points):
    """Between the pixels, so twice as large and on odd pixels, where OpenCV's borders are not."""
    outline_ = np.array(points, np.float64)
    found = polygons.fill_even_odd([outline_], SIZE).to_array()
    scale, margin = 2, 20  # all points inside: OpenCV clips lines to whole pixels
    corners = ((outline_ + margin) * scale).astype(np.int32)
    shape = ((HEIGHT + 2 * margin) * scale, (WIDTH + 2 * margin) * scale)
    middles = np.s_[
        2 * margin + 1 : 2 * (margin + HEIGHT) : 2, 2 * margin + 1 : 2 * (margin + WIDTH) : 2
    ]
    expected = cv2.fillPoly(np.zeros(shape, np.uint8), [corners], 1)[middles] > 0
    inner = cv2.polylines(np.zeros(shape, np.uint8), [corners], True, 1, 3)[middles] == 0
    np.testing.assert_array_equal(found[inner], expected[inner])


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        (VIA, (b'"all_points_x"', b'"all_points_z"'), "region 0"),
        (KAGGLE, (b",7.1250", b" 7,7.1250"), "row 1"),
        (SUPERVISELY, (b'"origin"', b'"origen"'), "object 2"),
        (DARWIN, ('"paths"'.encode("utf-16-le"), '"pathz"'.encode("utf-16-le")), "annotation 0"),
    ],
)
def test_one_bad_object_costs_only_itself(tmp_path, kind, change, said):
    sample = Sample(tmp_path, kind)
    (tmp_path / sample.name).write_bytes(sample.content.replace(*change, 1))
    opened = sample.open()
    (key,) = opened.job.keys()
    loaded = opened.job.read(key)
    assert len(loaded.prediction.instances) == 1
    assert any(note.startswith(said) for note in loaded.notes)


@quick
@given(
    text=st.text(max_size=20),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0"]),
)
def test_text_is_written_in_the_encoding_of_its_file(text, mark):
    from bpr.pipeline.formats.text import decode_text

    content = encode_like(text, mark)
    assert content.startswith(mark)
    assert decode_text(content) == text or text.startswith("\ufeff")
    assert encode_like(decode_text(content), content) == content


def test_a_plain_list_of_sam_is_found_by_its_name_and_may_be_given_alone(tmp_path):
    """As `scripts/amg.py --convert-to-rle` writes it."""
    sample = Sample(tmp_path, SAM)
    path = tmp_path / "sam" / f"{NAME.removesuffix('.png')}.json"
    (tmp_path / sample.name).rename(path)
    path.write_text(json.dumps(json.loads(sample.content)["annotations"]), encoding="utf-8")
    (tmp_path / "sam/other.json").write_text("[]")
    request = {"images": tmp_path / "images", "out": tmp_path / "out"}
    opened = open_job(JobRequest(pred=path, **request))
    assert opened.format == SAM
    new = [disc(44, 28, 12), disc(15, 17, 8)]
    write(opened, new)
    (written,) = (tmp_path / "out").glob("*.json")
    assert written.name == path.name
    for record, mask in zip(json.loads(written.read_text()), new, strict=True):
        found = rle.decode(record["segmentation"], SIZE).to_array()
        np.testing.assert_array_equal(found, mask > 0)
        assert record["area"] == np.count_nonzero(mask)
        assert record["bbox"] == list(cv2.boundingRect(mask))
    with pytest.raises(ValueError, match="expected a folder for the refined"):
        open_job(JobRequest(pred=path, images=tmp_path / "images", out=tmp_path / "o.json"))


# ---- label maps and panoptic


def save_map(path, pixels, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


PALETTE = [channel for n in range(256) for channel in (n, 255 - n, n // 2)]


@pytest.mark.parametrize(
    ("name", "values", "palette", "kind"),
    [
        ("a_gtFine_labelIds", (7, 11, 0), None, LABEL_MAPS),
        ("a_gtFine_labelTrainIds", (0, 1, 255), None, LABEL_MAPS),
        ("a", (0, 15, 255), PALETTE, LABEL_MAPS),  # VOC's classes
        ("a", (0, 1, 2), PALETTE, MASKS),  # VOC's objects
        ("a", (3, 4, 5), None, LABEL_MAPS),  # no background
        ("a", (0, 1, 2), None, MASKS),
        ("a", (0, 255, 255), None, MASKS),
    ],
)
def test_label_maps_are_told_from_instance_maps(tmp_path, name, values, palette, kind):
    pixels = np.full(SIZE, values[0], np.uint8)
    pixels[ring() > 0], pixels[disc() > 0] = values[1], values[2]
    save_map(tmp_path / f"maps/{name}.png", pixels, palette)
    save_map(tmp_path / "images/a_leftImg8bit.png", np.zeros((*SIZE, 3), np.uint8))
    opened = open_job(
        JobRequest(pred=tmp_path / "maps", images=tmp_path / "images", out=tmp_path / "out")
    )
    assert opened.format == kind
    write(opened)
    after = Image.open(tmp_path / f"out/{name}.png")
    np.testing.assert_array_equal(np.asarray(after), pixels)
    assert (after.mode == "P") == (palette is not None)


@quick
@given(seed=st.integers(0, 2**32 - 1), background=st.sampled_from([0, None]))
def test_a_refined_label_map_has_no_holes_and_void_stays(seed, background):
    from bpr.pipeline.formats.label_maps import LabelScheme, regions_of

    rng = np.random.default_rng(seed)

    def box():
        mask = np.zeros((12, 16), np.bool_)
        (y, x), (dy, dx) = rng.integers(0, (12, 16)), rng.integers(1, 12, 2)
        mask[y : y + dy, x : x + dx] = True
        return mask

    values = np.zeros((12, 16), np.uint8)
    for value in (1, 2, 255, 1):
        values[box()] = value
    regions = regions_of(values, LabelScheme(frozenset({255}), background))
    refined = [Mask.from_array(box()) for _ in regions.objects]
    new = regions.with_masks(refined)
    np.testing.assert_array_equal(new == 255, values == 255)
    assert set(np.unique(new)) <= set(np.unique(values))
    assert {value for value, _ in regions.objects} <= set(np.unique(new).tolist())
    kept = regions.with_masks([mask for _, mask in regions.objects])
    np.testing.assert_array_equal(kept, values)


def test_stuff_and_void_of_cityscapes_stay_in_an_instance_map(tmp_path):
    values = np.full(SIZE, 7, np.uint16)  # road
    values[:10] = 3  # out of roi
    values[ring(20, 30) > 0], values[disc() > 0] = 26001, 24000
    save_map(tmp_path / "maps/a_gtFine_instanceIds.png", values)
    save_map(tmp_path / "images/a_leftImg8bit.png", np.zeros((*SIZE, 3), np.uint8))
    opened = open_job(
        JobRequest(pred=tmp_path / "maps", images=tmp_path / "images", out=tmp_path / "out")
    )
    assert opened.format == MASKS
    (key,) = opened.job.keys()
    assert len(opened.job.read(key).prediction.instances) == 2
    write(opened, [np.zeros(SIZE, np.uint8) + disc(10, 12, 9), disc(46, 26, 9)])
    after = np.asarray(Image.open(tmp_path / "out/a_gtFine_instanceIds.png"))
    np.testing.assert_array_equal(after == 3, values == 3)
    assert set(np.unique(after)) == {3, 7, 24000, 26001}  # no hole


def test_panoptic_segments_keep_void_and_crowds(tmp_path):
    sample = Sample(tmp_path, PANOPTIC)
    content = json.loads(sample.content)
    content["annotations"][0]["segments_info"][1]["iscrowd"] = 1
    (tmp_path / sample.name).write_text(json.dumps(content))
    write(sample.open(), [disc(30, 20, 20)])
    after = np.asarray(Image.open(tmp_path / "out/pan/größe.png")).astype(int) @ [1, 256, 65536]
    before = np.asarray(Image.open(sample.png)).astype(int) @ [1, 256, 65536]
    np.testing.assert_array_equal(after, before)  # beside it is nothing but void and the crowd
    assert sample.written() == (tmp_path / sample.name).read_bytes()


def test_splits_of_a_data_set_are_found_by_their_folder(tmp_path):
    for split in ("train", "valid"):
        sample = Sample(tmp_path / "made" / split, COCO)
        folder = tmp_path / "export" / split
        folder.mkdir(parents=True)
        (folder / "_annotations.coco.json").write_bytes(sample.content)
        Image.new("RGB", SIZE[::-1]).save(folder / NAME)
    (tmp_path / "export/README.txt").write_text("hello")
    one = open_job(JobRequest(pred=tmp_path / "export/train", out=tmp_path / "one"))
    write(one)
    assert (tmp_path / "one/_annotations.coco.json").read_bytes() == sample.content
    both = open_job(JobRequest(pred=tmp_path / "export", out=tmp_path / "both"))
    assert (both.format, len(both.job.keys())) == (COCO, 2)
    progress = run_batch(
        both.job, InThisProcess(HostRunner(KeepCoarse(64), 32)), PatchSettings(), {}
    )
    assert (progress.done, progress.instances) == (2, 4)
    for split in ("train", "valid"):
        assert (tmp_path / f"both/{split}/_annotations.coco.json").read_bytes()
