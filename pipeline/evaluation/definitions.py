"""Definitions of every figure of the report."""

from __future__ import annotations

from bpr.pipeline.evaluation.error_types import FOUND, TOUCHED
from bpr.pipeline.evaluation.result import Evaluation
from bpr.pipeline.evaluation.scores import MEDIUM, SMALL


def definitions(evaluation: Evaluation) -> dict[str, str]:
    """Definitions by name, for the settings of this evaluation."""
    settings = evaluation.settings
    matching = settings.matching
    labels = (
        "of any label (labels are not compared here)" if matching.class_agnostic else "of its label"
    )
    patches = settings.patches
    size = "following the object" if patches.patch_size is None else f"{patches.patch_size} px"
    return {
        "matching": f"Each object of the ground truth is given its best positive prediction: the "
        f"instance {labels} with the largest mask IoU, at least {matching.positive_iou:g} (ties: "
        "the higher score, then the earlier). An instance may serve two objects. Objects without "
        "one are missed and count in no mean (RefineMask, appendix A.2).",
        "pairing": "Each object is compared with the same prediction before and after: the "
        "instance that was its best one before refinement. Where labels or scores differ before "
        "and after, each side is matched by itself, and means are over the objects found on both.",
        "mask IoU": "Intersection over union of the masks.",
        "Boundary IoU": "Intersection over union of the boundary regions: the object pixels at "
        f"most d from the outside of the object (chessboard distance), d = "
        f"{100 * settings.boundary_ratio:g} % of the image's diagonal, rounded, at least 1. The "
        "image border counts as outside. Objects thinner than 2 d are all boundary (Cheng et al., "
        "CVPR 2021).",
        "F at n px": "Harmonic mean of precision and recall of the outline (object pixels with "
        "background above, below, left or right): the share of outline pixels with one of the "
        "other outline at most n away (Euclidean). Where the image cuts an object there is no "
        "outline.",
        "ignored": "Pixels that the ground truth ignores (255 in 8-bit instance maps, void labels "
        "of Cityscapes) count in no figure; outlines are drawn before they are left out. Crowds "
        "and groups are no objects, and instances mostly inside them are no mistakes.",
        "interval": "± is half the width of the 95 % interval of the mean (percentile bootstrap): "
        "1000 times, as many images are drawn with replacement as there are, and the mean over "
        "their objects is taken. Images are drawn, not objects, because objects of one image "
        "resemble each other. No interval with fewer than two images. AP is not a mean over "
        "objects and has none.",
        "overlap": "Pixels that belong to two or more instances of an image, by the pixels that "
        "belong to at least one; over all instances, also to those of no object.",
        "missed, false": "Missed: an object without a positive prediction. False: an instance that "
        "is positive for no object and does not lie mostly in a crowd or in ignored pixels.",
        "errors by kind": "As TIDE sorts them (Bolya et al., ECCV 2020): an instance with mask IoU "
        f"{FOUND:g} or more is in the right place, from {TOUCHED:g} on it is near an object. Wrong "
        "category: right place, another category. Poor localisation: near an object of its "
        "category. Duplicate: an instance with a higher score has the object. Background: near no "
        "object. Missed: an object that no instance has and no error above explains. Instances of "
        "every score count.",
        "size": f"By pixels of the object in the ground truth: small below {SMALL}, medium below "
        f"{MEDIUM}, large above (COCO's borders).",
        "improved, worse": "Boundary IoU changed by more than "
        f"{100 * settings.threshold:g} percentage points.",
        "ceiling": "The instances before refinement with the ground truth inside their boundary "
        f"patches ({size}, NMS IoU {patches.nms_iou:g}): what a perfect network would reach. The "
        "share of the possible is (after - before) / (ceiling - before).",
        "average precision": evaluation.rules.masks,
        "boundary AP": f"d = {100 * settings.boundary_ratio:g} % of the diagonal. "
        + evaluation.rules.boundaries,
        "seconds per instance": "Time in the method by the number of instances, without reading "
        "files; one image at a time.",
    }
