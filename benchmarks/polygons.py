"""What writing masks as polygons costs: the accurate masks of the demo, traced and filled again.

python -m benchmarks.polygons
"""

from __future__ import annotations

import numpy as np

from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.formats import polygons, rle
from bpr.pipeline.instance import Mask
from bpr.pipeline.metrics import boundary_f, boundary_iou

TOLERANCES = (0.0, 0.5, 1.0, 2.0, 3.0)  # pixels


def main() -> None:
    masks = [mask for scene in load_demo_scenes() for mask in scene.truth]
    print(f"{len(masks)} masks, means; LabelMe and YOLO, then COCO polygons")
    print("tolerance px   points   Boundary IoU %   F at 1 px %   COCO: Boundary IoU %")
    for tolerance in TOLERANCES:
        rows = [_measure(mask, tolerance) for mask in masks]
        points, iou, f, coco_iou = np.mean(rows, axis=0)
        print(
            f"{tolerance:12.1f} {points:8.0f} {100 * iou:16.1f} {100 * f:13.1f} "
            f"{100 * coco_iou:22.1f}"
        )


def _measure(mask: Mask, tolerance: float) -> tuple[float, float, float, float]:
    parts = polygons.trace_pixels(mask, tolerance).parts
    array = np.any([polygons.fill(points, mask.size).to_array() for points in parts], axis=0)
    filled = Mask.from_array(array)
    rings = polygons.trace_edges(mask, tolerance).parts
    coco = rle.decode([points.ravel().tolist() for points in rings], mask.size)
    return (
        sum(map(len, parts)),
        boundary_iou(filled, mask),
        boundary_f(filled, mask, 1),
        boundary_iou(coco, mask),
    )


if __name__ == "__main__":
    main()
