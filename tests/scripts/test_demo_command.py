"""`bpr demo` as a newcomer sees it: with the weights that are shipped."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from bpr.pipeline.datasets.ground_truth import image_key
from bpr.pipeline.datasets.predictions import open_predictions
from bpr.pipeline.demo.drawing import draw_comparison
from bpr.pipeline.demo.inputs import input_files
from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.formats import yolo
from bpr.pipeline.formats.coco import load_images
from bpr.pipeline.instance import differing_pixels
from bpr.pipeline.metrics import mask_iou


def test_the_demo_sharpens_the_masks_and_draws_what_changed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bpr", "demo", "--out", str(tmp_path / "look")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    mean = next(line for line in done.stdout.splitlines() if line.startswith("mean"))
    numbers = [float(number) for number in re.findall(r"\d+\.\d", mean)]
    assert len(numbers) == 6, "coarse and refined of three metrics"
    for coarse, refined in zip(numbers[::2], numbers[1::2], strict=True):
        assert refined > coarse + 5

    scenes = {scene.name: scene for scene in load_demo_scenes()}
    pictures = sorted((tmp_path / "look").glob("*_comparison.png"))
    assert len(pictures) >= 3
    for path in pictures:
        scene = scenes[path.name.removesuffix("_comparison.png")]
        unchanged = draw_comparison(scene.image, scene.coarse, scene.coarse)
        with Image.open(path) as file:
            drawn = np.asarray(file)
        half = drawn.shape[1] // 2
        differs = (drawn != unchanged).any(axis=-1)
        assert not differs[:, :half].any(), "before: the coarse masks"
        assert differs[:, half:].mean() > 0.001, "after: other masks"
    assert len(list((tmp_path / "look").glob("*_closeups.png"))) == len(pictures)

    # the inputs lie beside the results, and the results are a prediction folder like the input
    look = tmp_path / "look"
    assert {path.name for path in look.iterdir() if path.is_dir()} == {
        "photos", "masks", "predictions", "yolo", "truth", "refined",
    }  # fmt: skip
    files = [sorted(path.name for path in (look / n).iterdir()) for n in ("predictions", "refined")]
    assert files[0] == files[1]


def test_every_format_of_the_inputs_holds_the_same_masks(tmp_path: Path) -> None:
    scenes = load_demo_scenes()
    for name, content in input_files(scenes).items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    images = load_images(tmp_path / "labels.json")
    names = {k: image_key(entry.file_name) for k, entry in images.items()}
    folder = open_predictions(tmp_path / "predictions", None, None)
    results = open_predictions(tmp_path / "results.json", None, names)
    for scene in scenes:
        size = scene.image.shape[:2]
        with Image.open(tmp_path / f"photos/{scene.name}.png") as file:
            np.testing.assert_array_equal(np.asarray(file), scene.image)
        as_yolo, _ = yolo.read_instances(yolo.parse(tmp_path / f"yolo/{scene.name}.txt"), size)
        of_folder, of_json = (side.read(scene.name, size) for side in (folder, results))
        for index, coarse in enumerate(scene.coarse):
            name = scene.names[index].replace(" ", "_")
            with Image.open(tmp_path / f"masks/{scene.name}_{name}.png") as file:
                np.testing.assert_array_equal(np.asarray(file) > 0, coarse.to_array())
            for side in (of_folder, of_json):
                assert differing_pixels(side.instances[index].mask, coarse) == 0
            assert mask_iou(as_yolo[index].mask, coarse) > 0.98
