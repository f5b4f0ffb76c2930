"""Objects of the real packages: refined masks come back in them, all else untouched.

Packages that are not among the test requirements are tested where they are installed:

    pip install ultralytics transformers mmengine && pytest -m slow tests/pipeline/adapters
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.ops import masks_to_boxes

from bpr import load_refiner
from bpr.pipeline.adapters.find import find_adapter
from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.formats import rle
from bpr.pipeline.instance import Instance, Mask, Prediction
from bpr.pipeline.refine import refine


@pytest.fixture(scope="module")
def refiner():
    return load_refiner(device="cpu", backend="torch", nms_iou=0.25)


# pycocotools hands numpy an object that does not know numpy 2
reads_rle = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Material:
    """A photograph of the demo, two coarse masks and an empty one, and what they become."""

    def __init__(self, refiner):
        (scene,) = (scene for scene in load_demo_scenes() if scene.name == "coffee")
        self.image = scene.image
        self.size = scene.image.shape[:2]
        masks = [*scene.coarse[:2], Mask.from_array(np.zeros(self.size, np.bool_))]
        self.coarse = np.stack([mask.to_array() for mask in masks])
        prediction = Prediction(
            self.size, tuple(Instance(mask=mask, label=0, score=1.0) for mask in masks)
        )
        after = refine(scene.image, prediction, refiner.network.runner(32), refiner.settings)
        self.refined = np.stack([instance.mask.to_array() for instance in after.instances])
        assert np.count_nonzero(self.coarse != self.refined) > 500


@pytest.fixture(scope="module")
def material(refiner):
    torch.set_num_threads(1)
    return Material(refiner)


def test_arrays(refiner, material):
    before = material.coarse.copy()
    refined = refiner(material.image, material.coarse)
    assert refined.dtype == np.bool_
    np.testing.assert_array_equal(refined, material.refined)
    np.testing.assert_array_equal(material.coarse, before)


def test_an_image_of_pillow_and_one_turned_around_by_a_view(refiner, material):
    for image in (Image.fromarray(material.image), material.image[..., ::-1].copy()[..., ::-1]):
        np.testing.assert_array_equal(refiner(image, material.coarse), material.refined)


def test_no_masks_are_no_masks(refiner, material):
    nothing = np.zeros((0, *material.size), np.bool_)
    assert refiner(material.image, nothing).shape == nothing.shape
    assert refiner(material.image, []) == []


@pytest.mark.parametrize("shape", [(3, -1), (3, 1, -1)])
def test_tensors(refiner, material, shape):
    masks = torch.from_numpy(material.coarse)
    masks = masks[:, None] if len(shape) == 3 else masks
    refined = refiner(material.image, masks)
    assert refined.dtype == torch.bool
    assert refined.shape == masks.shape
    np.testing.assert_array_equal(refined.numpy().reshape(material.refined.shape), material.refined)


def test_torchvision_dicts(refiner, material):
    probability = torch.from_numpy(np.where(material.coarse, 0.7, 0.2).astype(np.float32))
    output = {
        "boxes": torch.rand(3, 4),
        "labels": torch.tensor([5, 3, 5]),
        "scores": torch.tensor([0.9, 0.3, 0.1]),
        "masks": probability[:, None],
    }
    refined = refiner(material.image, output)
    assert refined.keys() == output.keys()
    assert all(refined[name] is output[name] for name in ("boxes", "labels", "scores"))
    assert refined["masks"].dtype == torch.float32
    assert refined["masks"].shape == output["masks"].shape
    np.testing.assert_array_equal((refined["masks"] > 0.5).numpy()[:, 0], material.refined)
    assert float(output["masks"].max()) == pytest.approx(0.7)  # the input stays


def test_the_output_of_a_torchvision_model(refiner, material):
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3, box_score_thresh=0.0,
        box_detections_per_img=3, min_size=128, max_size=160, rpn_post_nms_top_n_test=20,
    ).eval()  # fmt: skip
    image = torch.from_numpy(material.image.copy()).permute(2, 0, 1) / 255
    with torch.inference_mode():
        (output,) = model([image])
    assert len(output["masks"]) > 0
    refined = refiner(material.image, output)
    assert refined["masks"].shape == output["masks"].shape
    want = refiner(material.image, (output["masks"] > 0.5).numpy())
    np.testing.assert_array_equal((refined["masks"] > 0.5).numpy(), want)


def test_torchvision_targets_keep_their_bytes(refiner, material):
    target = {"masks": torch.from_numpy(material.coarse.astype(np.uint8))}
    refined = refiner(material.image, target)["masks"]
    assert refined.dtype == torch.uint8
    np.testing.assert_array_equal(refined.numpy(), material.refined)


@pytest.mark.parametrize("is_compact", [False, True])
def test_supervision_detections(refiner, material, is_compact):
    sv = pytest.importorskip("supervision", reason="needs supervision")
    boxes = sv.mask_to_xyxy(material.coarse).astype(np.float32)
    masks = material.coarse
    if is_compact:
        from supervision.detection.compact_mask import CompactMask

        masks = CompactMask.from_dense(masks, boxes, material.size)
    detections = sv.Detections(
        xyxy=boxes,
        mask=masks,
        confidence=np.array([0.9, 0.4, 0.2]),
        class_id=np.array([7, 1, 7]),
        tracker_id=np.array([31, 12, 5]),
        data={"class_name": np.array(["cup", "spoon", "cup"])},
        metadata={"camera": "left"},
    )
    refined = refiner(material.image, detections)
    assert type(refined) is sv.Detections
    assert type(refined.mask) is type(masks)
    np.testing.assert_array_equal(np.asarray(refined.mask), material.refined)
    np.testing.assert_array_equal(np.asarray(detections.mask), material.coarse)
    for name in ("confidence", "class_id", "tracker_id"):
        np.testing.assert_array_equal(getattr(refined, name), getattr(detections, name))
    assert refined.data == detections.data
    assert refined.metadata == {"camera": "left"}


def test_supervision_without_detections(refiner, material):
    sv = pytest.importorskip("supervision", reason="needs supervision")
    assert len(refiner(material.image, sv.Detections.empty())) == 0
    with pytest.raises(ValueError, match=r"detections\.mask: expected masks, got None"):
        refiner(material.image, sv.Detections(xyxy=np.zeros((1, 4))))


@reads_rle
@pytest.mark.parametrize("counts", ["bytes", "text", "ints"])
def test_rles_of_pycocotools(refiner, material, counts):
    codes = coco_mask.encode(np.asfortranarray(material.coarse.astype(np.uint8).transpose(1, 2, 0)))
    for code, mask in zip(codes, material.coarse, strict=True):
        if counts == "text":
            code["counts"] = code["counts"].decode()
        elif counts == "ints":
            code["counts"] = rle.runs(Mask.from_array(mask))
    refined = refiner(material.image, codes)
    assert [type(code["counts"]) for code in refined] == [type(code["counts"]) for code in codes]
    if counts == "ints":
        refined = [coco_mask.frPyObjects(code, *material.size) for code in refined]
    np.testing.assert_array_equal(coco_mask.decode(refined).transpose(2, 0, 1), material.refined)
    if counts != "ints":
        alone = refiner(material.image, material.coarse[:1])[0]  # it has no neighbour to avoid
        np.testing.assert_array_equal(coco_mask.decode(refiner(material.image, codes[0])), alone)


@reads_rle
def test_records_of_coco_and_of_sam(refiner, material):
    records = [
        {
            "id": 5,
            "image_id": 9,
            "category_id": 2,
            "segmentation": rle.encode(Mask.from_array(material.coarse[0])),
            "bbox": [0, 0, 1, 1],
            "score": 0.5,
        },
        {"segmentation": material.coarse[1], "area": 3, "predicted_iou": 0.9, "crop_box": [0]},
    ]
    first, second = refiner(material.image, records)
    assert (first["id"], first["image_id"], first["category_id"], first["score"]) == (5, 9, 2, 0.5)
    np.testing.assert_array_equal(coco_mask.decode(first["segmentation"]), material.refined[0])
    assert first["bbox"] == coco_mask.toBbox(first["segmentation"]).tolist()
    assert (second["predicted_iou"], second["crop_box"]) == (0.9, [0])
    np.testing.assert_array_equal(second["segmentation"], material.refined[1])
    assert second["area"] == material.refined[1].sum()
    assert records[1]["area"] == 3


class Instances:
    """What detectron2's class of this name does with its fields; its wheels are on no registry.

    Source: detectron2/structures/instances.py.
    """

    def __init__(self, image_size, **fields):
        self._image_size = image_size
        self._fields = {}
        for name, value in fields.items():
            self.set(name, value)

    @property
    def image_size(self):
        return self._image_size

    def __setattr__(self, name, value):
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name):
        if name == "_fields" or name not in self._fields:
            raise AttributeError(name)
        return self._fields[name]

    def set(self, name, value):
        assert not self._fields or len(value) == len(next(iter(self._fields.values())))
        self._fields[name] = value

    def get_fields(self):
        return self._fields


@pytest.mark.parametrize("is_in_dict", [False, True])
def test_instances_of_detectron2(refiner, material, is_in_dict):
    instances = Instances(
        material.size,
        pred_boxes=torch.rand(3, 4),
        scores=torch.tensor([0.9, 0.5, 0.1]),
        pred_classes=torch.tensor([2, 0, 1]),
        pred_masks=torch.from_numpy(material.coarse),
    )
    masks = {"instances": instances, "sem_seg": None} if is_in_dict else instances
    refined = refiner(material.image, masks)
    if is_in_dict:
        assert refined["sem_seg"] is None
        refined = refined["instances"]
    assert type(refined) is Instances
    assert list(refined.get_fields()) == list(instances.get_fields())
    for name in ("pred_boxes", "scores", "pred_classes"):
        assert refined.get_fields()[name] is instances.get_fields()[name]
    np.testing.assert_array_equal(refined.pred_masks.numpy(), material.refined)
    np.testing.assert_array_equal(instances.pred_masks.numpy(), material.coarse)


ENDS = torch.tensor([0, 0, 1, 1])  # torchvision's boxes end at the last pixel, ours after it


@pytest.mark.slow
def test_results_of_ultralytics(refiner, material):
    pytest.importorskip("ultralytics", reason="needs pip install ultralytics")
    from ultralytics.engine.results import Results

    boxes = torch.tensor(
        [[1, 2, 30, 40, 8, 0.9, 3], [4, 5, 60, 70, 2, 0.7, 1], [0, 0, 1, 1, 5, 0.5, 1]]
    )
    results = Results(
        orig_img=material.image[..., ::-1],
        path="coffee.png",
        names={1: "spoon", 3: "cup"},
        boxes=boxes.float(),
        masks=torch.from_numpy(material.coarse.astype(np.uint8)),
    )
    refined = refiner(results.orig_img[..., ::-1], results)
    assert type(refined) is Results
    assert refiner(results.orig_img[..., ::-1], results, boxes="keep").boxes is results.boxes
    np.testing.assert_array_equal(refined.boxes.xyxy, masks_to_boxes(refined.masks.data) + ENDS)
    np.testing.assert_array_equal(refined.boxes.data[:, 4:], results.boxes.data[:, 4:])
    np.testing.assert_array_equal(results.boxes.data, boxes)
    assert refined.names == results.names
    assert refined.masks.data.dtype == torch.uint8
    np.testing.assert_array_equal(refined.masks.data.numpy(), material.refined)
    np.testing.assert_array_equal(results.masks.data.numpy(), material.coarse)
    as_numpy = refiner(material.image, results.numpy())
    np.testing.assert_array_equal(as_numpy.masks.data, material.refined)
    assert len(refined.masks.xy) == 3  # polygons are made of the new masks


@pytest.mark.slow
@pytest.mark.parametrize("retina_masks", [False, True])
def test_a_yolo_model_from_the_photograph_to_its_results(refiner, material, retina_masks, tmp_path):
    pytest.importorskip("ultralytics", reason="needs pip install ultralytics")
    from ultralytics import YOLO
    from ultralytics.utils import ops

    torch.manual_seed(0)
    model = YOLO("yolo11n-seg.yaml")  # random weights: what they find is noise
    for head in model.model.model[-1].cv4:  # coefficients near 0 would give empty masks
        head[-1].bias.data.normal_(0, 3)
    (results,) = model.predict(
        material.image[..., ::-1].copy(), conf=1e-9, max_det=3, imgsz=320, verbose=False,
        retina_masks=retina_masks, save=False, project=str(tmp_path), device="cpu",
    )  # fmt: skip
    assert len(results) == 3
    refined = refiner(material.image, results)
    assert refined.masks.data.shape == (3, *material.size)
    np.testing.assert_array_equal(refined.boxes.data[:, 4:], results.boxes.data[:, 4:])
    scaled = ops.scale_masks(results.masks.data[:, None].float(), material.size)[:, 0] > 0.5
    want = refiner(material.image, scaled.numpy())
    different = np.count_nonzero(want != refined.masks.data.bool().numpy())
    assert different <= 1e-4 * want.size  # interpolation rounds differently at 0.5


@pytest.mark.slow
@pytest.mark.parametrize("binary_maps", [False, True])
def test_segments_of_transformers(refiner, material, binary_maps):
    transformers = pytest.importorskip("transformers", reason="needs pip install transformers")
    module = "transformers.models.mask2former.modeling_mask2former"
    output_type = __import__(module, fromlist=["x"]).Mask2FormerForUniversalSegmentationOutput
    processor = transformers.Mask2FormerImageProcessor()
    masks = torch.from_numpy(np.where(material.coarse, 8.0, -8.0).astype(np.float32))[None]
    classes = torch.full((1, 3, 5), -9.0)
    classes[0, [0, 1, 2], [3, 1, 2]] = torch.tensor([9.0, 8.0, 7.0])
    outputs = output_type(class_queries_logits=classes, masks_queries_logits=masks)
    (segments,) = processor.post_process_instance_segmentation(
        outputs, target_sizes=[material.size], return_binary_maps=binary_maps
    )
    assert len(segments["segments_info"]) == 2  # the empty mask is left out
    refined = refiner(material.image, segments)
    assert refined["segments_info"] is segments["segments_info"]
    before, after = segments["segmentation"], refined["segmentation"]
    assert (before.dtype, before.shape) == (after.dtype, after.shape)
    ids = [segment["id"] for segment in segments["segments_info"]]
    coarse = before.bool() if binary_maps else torch.stack([before == i for i in ids])
    want = refiner(material.image, coarse.numpy())
    got = after.bool() if binary_maps else torch.stack([after == i for i in ids])
    if not binary_maps:
        scores = [segment["score"] for segment in segments["segments_info"]]
        want[np.argmin(scores)] &= ~want[np.argmax(scores)]
        assert set(np.unique(after)) <= {-1.0, *ids}
    np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.slow
def test_a_transformers_image_without_segments(refiner, material):
    pytest.importorskip("transformers", reason="needs pip install transformers")
    nothing = {"segmentation": torch.zeros(material.size) - 1, "segments_info": []}
    assert torch.equal(refiner(material.image, nothing)["segmentation"], nothing["segmentation"])


@pytest.mark.slow
def test_instance_data_of_mmdetection(refiner, material):
    pytest.importorskip("mmengine", reason="needs pip install mmengine")
    from mmengine.structures import BaseDataElement, InstanceData

    data = InstanceData(
        metainfo={"img_id": 3},
        masks=torch.from_numpy(material.coarse),
        scores=torch.tensor([0.9, 0.5, 0.1]),
        labels=torch.tensor([2, 0, 1]),
    )
    refined = refiner(material.image, data)
    assert type(refined) is InstanceData
    assert refined.img_id == 3
    assert torch.equal(refined.scores, data.scores)
    assert torch.equal(refined.labels, data.labels)
    np.testing.assert_array_equal(refined.masks.numpy(), material.refined)
    np.testing.assert_array_equal(data.masks.numpy(), material.coarse)
    sample = BaseDataElement(pred_instances=data)
    again = refiner(material.image, sample)
    np.testing.assert_array_equal(again.pred_instances.masks.numpy(), material.refined)
    np.testing.assert_array_equal(sample.pred_instances.masks.numpy(), material.coarse)


WRONG = {
    "label map": (
        lambda masks: masks[0] + 2 * masks[1].astype(int),
        r"one mask for each value: refiner\(image, labels=\.\.\.\)",
    ),
    "size": (lambda masks: masks[:, 1:], r"expected masks of the size of their image"),
    "nothing": (lambda _: None, "masks, labels: expected one of them"),
    "list": (lambda masks: [masks, masks], r"list of ndarray; refine one image at a time"),
    "fields": (lambda _: Instances((3, 4), scores=[1]), "expected pred_masks, got scores"),
    "rle": (
        lambda _: [{"size": [4, 4], "counts": "04L4"}],
        r"expected RLE size \[400, 600\], got \[4, 4\]",
    ),
    "coco annotation": (
        lambda _: {"segmentation": [[1, 2]], "segments_info": [{"id": 1}]},
        "return_coco_annotation=False",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_masks_is_said(refiner, material, what):
    make, message = WRONG[what]
    with pytest.raises(ValueError, match=message):
        refiner(material.image, make(material.coarse))


def test_what_is_wrong_with_an_image_is_said(refiner, material):
    for image in (material.image[..., 0], material.image / 255):
        with pytest.raises(ValueError, match=r"image: expected uint8 RGB of shape"):
            refiner(image, material.coarse)


def test_nothing_is_imported_to_find_an_adapter():
    code = (
        "import sys, numpy\nfrom bpr.pipeline.adapters.find import find_adapter\n"
        "find_adapter(numpy.zeros((1, 2, 2), bool)), find_adapter([{'counts': ''}])\n"
        "heavy = {'torch', 'torchvision', 'supervision', 'ultralytics', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert find_adapter([]) is not None
