"""Refine coarse masks on bundled photographs and draw what changed.

bpr demo --out bpr-demo
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bpr.pipeline.demo.drawing import draw_closeups, draw_comparison
from bpr.pipeline.demo.inputs import category_ids, input_files, prediction, prediction_files
from bpr.pipeline.demo.scenes import DemoScene, load_demo_scenes
from bpr.pipeline.files import write_atomically
from bpr.pipeline.formats.images import encode_png
from bpr.pipeline.instance import Prediction
from bpr.pipeline.metrics import boundary_f, boundary_iou
from bpr.pipeline.network import load_network
from bpr.pipeline.plan import Answer
from bpr.pipeline.refine import merge, plan, predict
from bpr.scripts.options import patch_settings
from bpr.scripts.progress import ProgressLine
from bpr.scripts.refine import add_refine_options, batch_size, chosen_weights

COLUMNS = ("Boundary IoU %", "F at 1 px %", "F at 3 px %")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr demo`."""
    parser.add_argument(
        "--out", type=Path, default=Path("bpr-demo"), help="folder (default: %(default)s)"
    )
    add_refine_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the inputs, refine them, draw the results and compare them with careful outlines."""
    network = load_network(chosen_weights(arguments), arguments.device, arguments.backend)
    config = network.config
    settings = patch_settings(arguments, config.patch_size, config.padding, arguments.compat)
    scenes = load_demo_scenes()
    ids = category_ids(scenes)
    for name, content in input_files(scenes).items():
        write_atomically(arguments.out / name, content)
    plans = [
        plan(scene.image, prediction(scene, scene.coarse, ids), settings, scene.name)
        for scene in scenes
    ]
    rows = []
    with ProgressLine("photographs", len(scenes)) as line:
        answers = predict(plans, network.runner(batch_size(arguments, network.batch_size)))
        for done, (scene, answer) in enumerate(zip(scenes, answers, strict=True), start=1):
            refined = merge(answer)
            _write_results(arguments.out, scene, refined, ids)
            rows += _rows(scene, answer, refined)
            line.show(done, scene.name)
    _print_table(rows)
    print(f"Look at: {arguments.out}/*_comparison.png and *_closeups.png")
    print(f"Refined masks: {arguments.out}/refined. The inputs lie beside it, in every format.")
    return 0


def _write_results(out: Path, scene: DemoScene, refined: Prediction, ids: dict[str, int]) -> None:
    masks = [instance.mask for instance in refined.instances]
    pictures = {
        f"{scene.name}_comparison.png": draw_comparison(scene.image, scene.coarse, masks),
        f"{scene.name}_closeups.png": draw_closeups(scene.image, scene.coarse, masks),
    }
    for name, picture in pictures.items():
        write_atomically(out / name, encode_png(picture))
    for name, content in prediction_files("refined", scene, masks, ids).items():
        write_atomically(out / name, content)


def _rows(scene: DemoScene, answer: Answer, refined: Prediction) -> list[tuple[str, list[float]]]:
    """A row per object: its name, then every metric before and every metric after."""
    rows = []
    for name, coarse, instance, truth, boxes in zip(
        scene.names, scene.coarse, refined.instances, scene.truth, answer.boxes, strict=True
    ):
        values = []
        for mask in (coarse, instance.mask):
            values += [
                boundary_iou(mask, truth, ignore=scene.ignore),
                boundary_f(mask, truth, 1, scene.ignore),
                boundary_f(mask, truth, 3, scene.ignore),
            ]
        rows.append((f"{scene.name}: {name} ({len(boxes)} patches)", values))
    return rows


def _print_table(rows: list[tuple[str, list[float]]]) -> None:
    """Print every metric before and after, by object and as a mean."""
    mean = [sum(column) / len(rows) for column in zip(*(row[1] for row in rows), strict=True)]
    print("Before -> after, measured against careful outlines:")
    print(" " * 42, end="")
    print("".join(f"{name:>20}" for name in COLUMNS))
    for name, values in [*rows, ("mean", mean)]:
        before, after = values[: len(COLUMNS)], values[len(COLUMNS) :]
        cells = [f"{100 * b:.1f} -> {100 * a:.1f}" for b, a in zip(before, after, strict=True)]
        print(f"{name:<42}" + "".join(f"{cell:>20}" for cell in cells))
