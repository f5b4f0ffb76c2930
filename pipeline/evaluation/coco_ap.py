"""The COCO family of average precision: pycocotools for masks, faster-coco-eval for the rest."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bpr._extras import needs_extra
from bpr.pipeline.datasets.coco_truth import CocoTruth
from bpr.pipeline.datasets.ground_truth import AnnotatedImage, Annotation
from bpr.pipeline.formats import rle
from bpr.pipeline.formats.coco import id_text
from bpr.pipeline.instance import Mask, Prediction

FAMILY = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
"""Names of the twelve numbers that pycocotools prints, in its order."""


@dataclass(frozen=True)
class CocoResult:
    """AP of a whole data set, each number in [0, 1]; NaN where there is nothing to find."""

    values: Mapping[str, float]
    by_label: Mapping[int, float]  # AP of each category id; empty where labels do not count


@dataclass(eq=False)
class CocoRecords:
    """The instances of one run as COCO results, RLE-compressed.

    Image ids are numbers of the ground truth.
    """

    class_agnostic: bool = False
    records: list[dict[str, Any]] = field(default_factory=list)

    def add(self, image_id: int, prediction: Prediction, as_read: bool = True) -> None:
        """Append the instances of an image.

        Where records have a bbox, pycocotools takes its area, not the mask's, as the size of an
        instance: so it stays if it is `as_read`, and follows the mask as in `bpr refine` if not.
        """
        for instance in prediction.instances:
            record = {
                "image_id": image_id,
                "category_id": 1 if self.class_agnostic else instance.label,
                "segmentation": encode(instance.mask),
                "score": instance.score,
            }
            if "bbox" in instance.record:
                x0, y0, x1, y1 = instance.mask.window
                tight = [x0, y0, x1 - x0, y1 - y0]
                record["bbox"] = instance.record["bbox"] if as_read else tight
            self.records.append(record)


@dataclass(eq=False)
class TruthRecords:
    """Annotated images as a COCO data set.

    Args:
        categories: names by id; None: all objects are of category 1.
        source: the json that the annotations come from; its own entries are then used, with
            their `area`, on which COCO's sizes depend. Images, annotations and categories are
            numbered anew: the evaluators know only numbers.
    """

    categories: Mapping[int, str] | None
    source: CocoTruth | None = None
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, image_id: int, truth: AnnotatedImage, key: str = "") -> None:
        """Append an image with its annotations; ignored pixels become a crowd of each label.

        Args:
            image_id: number of the image.
            truth: what is in it.
            key: name of the image in `source`.
        """
        height, width = truth.size
        image = {"id": image_id, "height": height, "width": width}
        if self.source is not None:
            self.images.append({**self._checked(self.source, key), **image})
            for item in truth.annotations:
                self._append_own(self.source, image_id, item)
            return
        self.images.append(image)
        for item in truth.annotations:
            label = item.label if self.categories else 1
            self._append(image_id, item.mask, encode(item.mask), label, item.is_crowd)
        if truth.ignore is not None:
            ignored = Mask.from_array(truth.ignore)
            code = encode(ignored)
            for label in self.categories or [1]:
                self._append(image_id, ignored, code, label, True)

    def dataset(self) -> dict[str, Any]:
        """The data set that the evaluators read."""
        named = self.categories or {1: "object"}
        categories: list[dict[str, Any]] = [{"id": key, "name": named[key]} for key in named]
        if self.source is not None and self.categories is not None:
            categories = [
                {**item, "id": self.source.labels[str(id_text(item["id"]))]}
                for item in self.source.content["categories"]
            ]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}

    def _checked(self, source: CocoTruth, key: str) -> dict[str, list[int]]:
        """The categories that LVIS says of an image: which were looked for, and how well."""
        said = source.entry(key)
        return {
            name: [source.labels[str(id_text(label))] for label in said[name]]
            for name in ("neg_category_ids", "not_exhaustive_category_ids")
            if isinstance(said.get(name), list)
        }

    def _append_own(self, source: CocoTruth, image_id: int, item: Annotation) -> None:
        """The entry of the json itself: its area decides about the sizes of COCO.

        LVIS has no iscrowd, and hand-made jsons often neither id nor area.
        """
        own = source.content["annotations"][item.index]
        segmentation = own["segmentation"]
        if isinstance(segmentation, list):
            segmentation = rle.with_area(segmentation)
        area = own.get("area")
        self.annotations.append(
            {
                **own,
                "iscrowd": int(item.is_crowd),
                "id": len(self.annotations) + 1,  # pycocotools takes id 0 as missed
                "image_id": image_id,
                "category_id": item.label if self.categories is not None else 1,
                "segmentation": segmentation,
                "area": area if isinstance(area, (int, float)) else item.mask.area,
            }
        )

    def _append(
        self, image_id: int, mask: Mask, code: dict[str, Any], label: int, crowd: bool
    ) -> None:
        x0, y0, x1, y1 = mask.window
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,  # pycocotools takes an object with id 0 as missed
                "image_id": image_id,
                "category_id": label,
                "segmentation": code,
                "area": mask.area,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": int(crowd),
            }
        )


def encode(mask: Mask) -> dict[str, Any]:
    """A mask as compressed RLE, found in its window: the cost follows the object."""
    height, width = mask.size
    x0, y0, _, _ = mask.window
    columns = np.zeros((mask.bitmap.shape[1], mask.bitmap.shape[0] + 2), np.int8)
    columns[:, 1:-1] = mask.bitmap.T
    # runs begin and end where a column of the window changes
    at = np.argwhere(np.diff(columns, axis=1))
    edges = (x0 + at[:, 0]) * height + y0 + at[:, 1]
    # a run to the foot of a column continues at the head of the next
    ends = 1 + 2 * np.flatnonzero(edges[1:-1:2] == edges[2::2])
    edges = np.delete(edges, np.concatenate([ends, ends + 1]))
    counts = np.diff(np.concatenate([[0], edges, [height * width]]))
    if counts[-1] == 0 and len(counts) > 1:
        counts = counts[:-1]
    code = coco_mask.frPyObjects(
        {"size": [height, width], "counts": counts.tolist()}, height, width
    )
    return {"size": [height, width], "counts": code["counts"].decode("ascii")}


def coco_ap(
    dataset: Mapping[str, Any], records: Sequence[Mapping[str, Any]], class_agnostic: bool = False
) -> CocoResult:
    """Mask AP by pycocotools.

    Args:
        dataset: COCO ground truth.
        records: COCO results with RLE.
        class_agnostic: whether all categories count as one.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, **_copied(dataset)}
        truth.createIndex()
        evaluation = COCOeval(truth, _results(truth, records), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return _result(evaluation, class_agnostic)


def boundary_ap(
    dataset: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    dilation_ratio: float,
    class_agnostic: bool = False,
) -> CocoResult:
    """Boundary AP by faster-coco-eval: IoU is the smaller of mask and Boundary IoU.

    Args:
        dataset: COCO ground truth.
        records: COCO results with RLE.
        dilation_ratio: width of a boundary region as a share of the image's diagonal.
        class_agnostic: whether all categories count as one.

    Source: Cheng et al., CVPR 2021 (arXiv:2103.16562). faster-coco-eval 1.8.0 erodes wrongly
    where a side of an image is below twice that width; such images do not exist in practice.
    """
    evaluation = _faster(dataset, records, "boundary", dilation_ratio, lvis=False)
    return _result(evaluation, class_agnostic)


def lvis_ap(
    dataset: Mapping[str, Any], records: Sequence[Mapping[str, Any]], boundary_ratio: float | None
) -> CocoResult:
    """AP by the rules of LVIS, through faster-coco-eval: up to 300 instances an image.

    A category is scored in the images where it was looked for: elsewhere its instances are
    dropped, and where it is not annotated exhaustively unmatched ones are not counted.

    Args:
        dataset: LVIS ground truth; images have neg_category_ids, not_exhaustive_category_ids.
        records: COCO results with RLE.
        boundary_ratio: as in `boundary_ap`; None: IoU of masks.
    """
    kind = "segm" if boundary_ratio is None else "boundary"
    # 1.8.0 drops them itself, but fails on an image where nothing else is
    looked_for = {
        image["id"]: set(image.get("neg_category_ids", [])) for image in dataset["images"]
    }
    for item in dataset["annotations"]:
        looked_for[item["image_id"]].add(item["category_id"])
    records = [item for item in records if item["category_id"] in looked_for[item["image_id"]]]
    categories = [{"frequency": "f", **category} for category in dataset["categories"]]
    named = {**dataset, "categories": categories}
    evaluation = _faster(named, records, kind, boundary_ratio or 0.02, lvis=True)
    result = _result(evaluation, class_agnostic=False)
    # it has other recalls, of up to 300 instances
    values = {name: value for name, value in result.values.items() if name.startswith("AP")}
    return CocoResult({**values, **_by_frequency(dataset, result.by_label)}, result.by_label)


def _by_frequency(dataset: Mapping[str, Any], by_label: Mapping[int, float]) -> dict[str, float]:
    """AP of rare, common and frequent categories, where the json says which those are."""
    values = {}
    for letter in "rcf":
        labels = [item["id"] for item in dataset["categories"] if item.get("frequency") == letter]
        known = [by_label[label] for label in labels if not math.isnan(by_label[label])]
        if labels:
            values[f"AP_{letter}"] = sum(known) / len(known) if known else math.nan
    return values


def _faster(
    dataset: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    kind: str,
    ratio: float,
    lvis: bool,
) -> Any:
    with needs_extra("COCO AP"):
        from faster_coco_eval import COCO as FasterCoco
        from faster_coco_eval import COCOeval_faster
    with contextlib.redirect_stdout(io.StringIO()):
        truth = FasterCoco({"info": {}, **_copied(dataset)})
        evaluation = COCOeval_faster(
            truth,
            _results(truth, records),
            kind,
            lvis_style=lvis,
            boundary_dilation_ratio=ratio,
            print_function=lambda *_: None,
        )
        if lvis:
            evaluation.params.maxDets = [300]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _results(truth: Any, records: Sequence[Mapping[str, Any]]) -> Any:
    """The library's own reading of results; it cannot read none."""
    if records:
        copies = [dict(record) for record in records]
        if not all("bbox" in record for record in copies):  # it looks at the first one only
            for record in copies:
                record.pop("bbox", None)
        return truth.loadRes(copies)
    nothing = type(truth)()
    nothing.dataset = {**truth.dataset, "annotations": []}
    nothing.createIndex()
    return nothing


def _copied(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluators write into annotations."""
    return {**dataset, "annotations": [dict(item) for item in dataset["annotations"]]}


def _result(evaluation: Any, class_agnostic: bool) -> CocoResult:
    """Numbers by name; -1, which stands for nothing to find, becomes NaN."""
    stats, precision = evaluation.stats[: len(FAMILY)], evaluation.eval["precision"]
    values = [float(value) if value > -1 else math.nan for value in stats]
    by_label = {}
    if not class_agnostic:
        for position, label in enumerate(evaluation.params.catIds):
            found = precision[:, :, position, 0, -1]
            found = found[found > -1]
            by_label[int(label)] = float(found.mean()) if found.size else math.nan
    return CocoResult(dict(zip(FAMILY, values, strict=True)), by_label)
