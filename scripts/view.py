"""Compare two sources of masks in a page; no ground truth needed.

bpr view predictions refined --images photos
"""

from __future__ import annotations

import argparse
import tempfile
import webbrowser
from pathlib import Path

from bpr.pipeline.batch.job_predictions import open_masks
from bpr.pipeline.datasets.coco_images import image_keys
from bpr.pipeline.datasets.image_index import ImageIndex
from bpr.pipeline.evaluation.view import Comparison, compare_sources, render_view
from bpr.pipeline.files import write_atomically
from bpr.pipeline.formats import coco
from bpr.scripts.main import INPUT_FAILED
from bpr.scripts.options import parse_path, print_some
from bpr.scripts.progress import ProgressLine


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr view`."""
    kinds = "whatever bpr refine reads"
    parser.add_argument("first", type=parse_path, metavar="A", help=f"masks: {kinds}")
    parser.add_argument("second", type=parse_path, metavar="B", help="other masks, likewise")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="folder of the photographs"
    )
    parser.add_argument(
        "--images-json",
        type=Path,
        metavar="J",
        help="COCO json whose 'images' name the files of COCO results",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="OUT",
        help="folder for index.html (default: a temporary folder, and the page is opened)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the page; 1 where images could not be read."""
    sides = (arguments.first, arguments.second)
    out = arguments.out
    if out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: expected a folder for the page, got a file")
    if out is not None and any(path.resolve() == out.resolve() for path in sides):
        raise ValueError(f"--out {out}: expected a folder for the page alone, got that of masks")
    names = None
    if arguments.images_json:
        names = image_keys(coco.load_images(arguments.images_json))
    first, second = (open_masks(path, None, names, images=arguments.images) for path in sides)
    images = ImageIndex(arguments.images)
    with ProgressLine("images", len(first.keys())) as line:
        comparison = compare_sources(
            first, second, images, lambda done, total: line.show(done, f"of {total} in both")
        )
    shown = [path.name for path in sides] if sides[0].name != sides[1].name else map(str, sides)
    page = render_view(comparison, [*shown], images)
    folder = Path(tempfile.mkdtemp(prefix="bpr-view-")) if out is None else out
    for name, content in page.files.items():
        write_atomically(folder / name, content)
    index = folder / "index.html"
    write_atomically(index, page.html.encode())
    print(f"Page: {index}")
    if out is None:
        webbrowser.open(index.resolve().as_uri())
    return _conclude(comparison)


def _conclude(comparison: Comparison) -> int:
    print_some("failed", [f"{item.image}: {item.reason}" for item in comparison.failures], "")
    print_some("in one source only, not compared", comparison.only_in_one, "")
    return INPUT_FAILED if comparison.failures or comparison.only_in_one else 0
