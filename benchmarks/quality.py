"""How well masks fit before and after: boundary metrics of prediction folders, as a table.

    python -m benchmarks.quality refined/ --truth DATA/val \
        --before DATA/val_predictions/maskhead --guided-filter

A prediction folder is in the Cityscapes layout; `<stem>_<k>_<anything>.png` is instance k of
`masks/<stem>.png` in the truth's folder (8-bit indices, 255 not scored). Every row comes from
the same run, so that both sides of a comparison are scored by the same code.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bpr.pipeline.evaluation.rivals import band, filtered_mask
from bpr.pipeline.formats.cityscapes import (
    find_prediction_files,
    image_stem,
    parse_prediction_file,
    read_instances,
)
from bpr.pipeline.formats.images import IGNORE, read_image, read_instance_map
from bpr.pipeline.instance import BoolArray, Mask
from bpr.pipeline.metrics import boundary_f, boundary_iou

TOLERANCES = (1, 2, 3)  # px
WORSE = 0.01  # Boundary IoU that an instance may lose before it counts as worse

# Radius of the filter as a share of the diagonal of the object's window. Errors grow with the
# object, so no fixed radius suits both kinds of coarse mask of CONTRIBUTING.md: of 4, 6, 8, 12 and
# 16 px with eps 1e-4, 1e-3, 1e-2, by colour and by grey, the best were 12 px (maskhead,
# 80.95 bIoU) and 6 px (polygon, 84.58), both by colour at 1e-4; shares reach 80.95 and 85.23.
RADIUS_SHARES = (0.02, 0.03, 0.04, 0.06)
EPS = 1e-4  # of colours in 0..1


@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """A predicted mask and the truth about it."""

    name: str  # of the mask's file, below its folder
    image: Path
    mask: Mask
    gt: Mask
    ignore: BoolArray  # (H, W)


def read_pairs(predictions: Path, truth: Path) -> Iterator[Pair]:
    """All masks of a prediction folder with their ground truth, by image and in file order."""
    for path in find_prediction_files(predictions):
        stem = image_stem(path)
        instance_map = read_instance_map(truth / "masks" / f"{stem}.png")
        (image,) = (truth / "images").glob(f"{stem}.*")
        for instance in read_instances(parse_prediction_file(path, predictions)):
            name = Path(instance.record["file"]).name
            number = re.match(rf"{re.escape(stem)}_(\d+)_", name)
            if number is None:
                raise ValueError(f"{path}: expected masks named {stem}_<k>_..., got {name}")
            gt = Mask.from_array(instance_map == int(number[1]))
            yield Pair(
                name=name, image=image, mask=instance.mask, gt=gt, ignore=instance_map == IGNORE
            )


def scores(pair: Pair) -> tuple[float, ...]:
    """Boundary IoU, then F at each of `TOLERANCES`."""
    return (
        boundary_iou(pair.mask, pair.gt, ignore=pair.ignore),
        *(boundary_f(pair.mask, pair.gt, t, pair.ignore) for t in TOLERANCES),
    )


def guided_filter_scores(
    predictions: Path, truth: Path
) -> tuple[str, dict[str, tuple[float, ...]]]:
    """The scores of the best of `RADIUS_SHARES` by mean Boundary IoU on this very data.

    The choice favours the filter: a user without ground truth could not make it.
    """
    found: dict[float, dict[str, tuple[float, ...]]] = {share: {} for share in RADIUS_SHARES}
    for pair in read_pairs(predictions, truth):
        image = read_image(pair.image).pixels
        for share, table in found.items():
            filtered = filtered_mask(image, pair.mask, band(pair.mask, share), EPS)
            table[pair.name] = scores(replace(pair, mask=filtered))
    share = max(found, key=lambda share: float(np.mean([row[0] for row in found[share].values()])))
    return f"guided filter (radius {share:.0%} of object)", found[share]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("predictions", nargs="*", type=Path)
    parser.add_argument("--truth", type=Path, required=True, help="folder with images/ and masks/")
    parser.add_argument(
        "--before", type=Path, help="coarse masks of the same instances: adds the share made worse"
    )
    parser.add_argument(
        "--guided-filter",
        dest="with_filter",
        action="store_true",
        help="add the guided filter on --before",
    )
    arguments = parser.parse_args(argv)
    truth, before, with_filter = arguments.truth, arguments.before, arguments.with_filter
    if with_filter and before is None:
        parser.error("--guided-filter: expected --before, the masks to filter")
    folders = [*([before] if before else []), *arguments.predictions]
    if not folders:
        parser.error("PREDICTIONS: expected a folder, or --before")
    rows = [
        (str(folder), {pair.name: scores(pair) for pair in read_pairs(folder, truth)})
        for folder in folders
    ]
    if with_filter:
        rows.insert(1, guided_filter_scores(before, truth))
    reference = rows[0][1] if before else None
    width = max(len(name) for name, _ in rows)
    columns = ["n", "bIoU", *(f"F@{t}" for t in TOLERANCES), "worse"]
    print(" " * width + "".join(f"{column:>8}" for column in columns))
    for name, table in rows:
        if reference is not None and table.keys() != reference.keys():
            differ = len(table.keys() ^ reference.keys())
            raise SystemExit(f"{name}: expected the masks of {before}, {differ} differ")
        means = 100 * np.mean(list(table.values()), axis=0)
        cells = "".join(f"{mean:8.1f}" for mean in means)
        lost = [table[k][0] < reference[k][0] - WORSE for k in table] if reference else []
        worse = f"{100 * np.mean(lost):6.0f} %" if reference and table is not reference else ""
        print(f"{name:{width}}{len(table):8}{cells}{worse:>8}")


if __name__ == "__main__":
    main()
