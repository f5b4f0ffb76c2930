"""Average precision as others publish it: their code on files, or their rules in plain loops."""

from __future__ import annotations

import contextlib
import io
import os
import warnings

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

OVERLAPS = np.arange(0.5, 1.0, 0.05)


@contextlib.contextmanager
def cityscapes_evaluator(folder):
    """cityscapesscripts' evaluator, made to run on today's numpy and to leave no files behind."""
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as evaluator

    kept = evaluator.writeDict2JSON
    evaluator.writeDict2JSON = lambda *_: None  # fails on numpy's integers, and litters
    added = not hasattr(np, "in1d")
    if added:
        setattr(np, "in1d", np.isin)  # noqa: B010
    arguments = evaluator.args
    old = vars(arguments).copy()
    arguments.gtInstancesFile = str(folder / "gtInstances.json")
    arguments.exportFile = str(folder / "results.json")
    try:
        yield evaluator, arguments
    finally:
        evaluator.writeDict2JSON = kept
        vars(arguments).clear()
        vars(arguments).update(old)
        if added:
            delattr(np, "in1d")


def cityscapes_printed(predictions, gt_fine, folder):
    """Run the evaluator as its script does.

    Returns:
        {category or "average": (AP, AP50)} as printed, and the json that it would write.
    """
    truths = sorted(str(path) for path in gt_fine.rglob("*_gtFine_instanceIds.png"))
    out = io.StringIO()
    with cityscapes_evaluator(folder) as (evaluator, arguments), contextlib.redirect_stdout(out):
        arguments.predictionPath, arguments.predictionWalk = str(predictions), None
        arguments.colorized = False
        files = [evaluator.getPrediction(truth, arguments) for truth in truths]
        result = evaluator.evaluateImgLists(files, truths, arguments)
    rows = [line.split(":") for line in out.getvalue().splitlines() if ":" in line]
    printed = {
        row[0].strip(): tuple(float(cell) for cell in row[1].split())
        for row in rows[1:]
        if len(row) == 2 and "AP" not in row[1] and "Images" not in row[0]
    }
    return printed, result


def boundary(mask, ratio):
    """`mask_to_boundary` of boundary-iou-api in a plain loop: pixels near the outside."""
    height, width = mask.shape
    distance = max(round(ratio * float(np.hypot(height, width))), 1)
    padded = np.pad(mask, distance)
    eroded = np.ones_like(mask)
    for dy in range(2 * distance + 1):
        for dx in range(2 * distance + 1):
            eroded &= padded[dy : dy + height, dx : dx + width]
    return mask & ~eroded


def cityscapes_boundary_ap(predictions, gt_fine, ratio, names):
    """Boundary AP by Cityscapes' rules, on whole images: {category: [AP at each overlap]}."""
    from cityscapesscripts.helpers.labels import labels

    void = [label.id for label in labels if label.ignoreInEval]
    scenes = []
    for path in sorted(gt_fine.rglob("*_gtFine_instanceIds.png")):
        values = np.array(Image.open(path))
        stem = path.name.replace("_gtFine_instanceIds.png", "_leftImg8bit")
        lines = (predictions / f"{stem}_pred.txt").read_text().split("\n")
        masks = []
        for line in filter(None, lines):
            file, label, score = line.split()
            mask = np.array(Image.open(predictions / file)) != 0
            if mask.any():
                masks.append((mask, int(label), float(score), boundary(mask, ratio)))
        scenes.append((values, np.isin(values, void), masks))
    found = {}
    for label, name in names.items():
        found[name] = [_cityscapes_ap(scenes, label, overlap, ratio) for overlap in OVERLAPS]
    return found


def _cityscapes_ap(scenes, label, threshold, ratio):
    true, scores, missed, have_gt, have_pred = [], [], 0, False, False
    for values, void, masks in scenes:
        truths = [
            (value, values == value, boundary(values == value, ratio))
            for value in np.unique(values).tolist()
            if (value if value < 1000 else value // 1000) == label
        ]
        mine = [item for item in masks if item[1] == label]
        have_pred |= bool(mine)
        pairs = {}
        for i, (mask, _, _, edge) in enumerate(mine):
            for j, (_, gt, gt_edge) in enumerate(truths):
                common, shared = (mask & gt).sum(), (edge & gt_edge).sum()
                if common and shared:
                    iou = common / (mask | gt).sum()
                    pairs[i, j] = min(iou, shared / (edge | gt_edge).sum())
        for j, (value, gt, _) in enumerate(truths):
            if value < 1000 or gt.sum() < 100:
                continue
            have_gt = True
            over = [mine[i][2] for i in range(len(mine)) if pairs.get((i, j), 0) > threshold]
            if not over:
                missed += 1
            for rank, score in enumerate(sorted(over, reverse=True)):
                true.append(int(rank == 0))
                scores.append(score)
        for i, (mask, _, score, _) in enumerate(mine):
            if any(pairs.get((i, j), 0) > threshold for j in range(len(truths))):
                continue
            ignored = (mask & void).sum()
            for j, (value, gt, _) in enumerate(truths):
                if (i, j) in pairs:
                    ignored += (mask & gt).sum() * ((value < 1000) + (gt.sum() < 100))
            if ignored / mask.sum() <= threshold:
                true.append(0)
                scores.append(score)
    if not have_gt:
        return np.nan
    return _area_under(np.array(true), np.array(scores), missed) if have_pred else 0.0


def _area_under(true, scores, missed):
    """Precision at each distinct score, weighted by half the recall around it."""
    precision, recall = [], []
    for score in sorted(set(scores.tolist())):
        taken = scores >= score
        hits = true[taken].sum()
        precision.append(hits / taken.sum())
        recall.append(hits / (true.sum() + missed))
    precision, recall = [*precision, 1.0], [*recall, 0.0]
    extended = [recall[0], *recall, 0.0]
    steps = [(extended[k] - extended[k + 2]) / 2 for k in range(len(recall))]
    return float(np.dot(precision, steps))


def coco_stats(truth_path, results_path, image_ids=None):
    """The twelve numbers of pycocotools, from files."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(os.fspath(truth_path))
        evaluation = COCOeval(truth, truth.loadRes(os.fspath(results_path)), "segm")
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


class BoundaryEval(COCOeval):
    """pycocotools' evaluation with the published IoU: the smaller of mask and boundary IoU."""

    ratio = 0.02

    def computeIoU(self, image_id, category_id):
        ious = super().computeIoU(image_id, category_id)
        if len(ious) == 0:
            return ious
        truths = self._gts[image_id, category_id]
        found = self._dts[image_id, category_id]
        order = np.argsort([-item["score"] for item in found], kind="mergesort")
        found = [found[i] for i in order][: self.params.maxDets[-1]]
        edges = [self._edge(item) for item in found]
        for j, truth in enumerate(truths):
            if truth.get("iscrowd"):
                continue
            edge = self._edge(truth)
            for i, other in enumerate(edges):
                union = (edge | other).sum()
                iou = (edge & other).sum() / union if union else 0.0
                ious[i, j] = min(ious[i, j], iou)
        return ious

    def _edge(self, item):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools 2.0.11, numpy 2.4
            mask = coco_mask.decode(item["segmentation"])
        return boundary(mask.astype(bool), self.ratio)


def coco_boundary_stats(truth_path, results_path, ratio):
    """As `coco_stats`, of boundary AP."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(os.fspath(truth_path))
        evaluation = BoundaryEval(truth, truth.loadRes(os.fspath(results_path)), "segm")
        evaluation.ratio = ratio
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats
