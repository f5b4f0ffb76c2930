"""Curves, repeats of rare categories, and pictures of what was found."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bpr.pipeline.formats.images import read_image
from bpr.pipeline.instance import Instance, Mask, Prediction
from bpr.pipeline.instance_pictures import draw_instances, tile
from bpr.pipeline.training.curves import draw_curves, read_curves
from bpr.pipeline.training.repeat_factors import repeat_factors


def test_curves_are_the_columns_of_the_log_that_are_numbers(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(
        "step,loss,learning_rate,images_per_s\n20,1.5,0.1,3\n40,nan,0.1,3\n60,0.5,0.1,3\n"
    )
    assert read_curves(log) == {"loss": [(20, 1.5), (60, 0.5)]}
    draw_curves([log, tmp_path / "validation.csv"], tmp_path / "curves.png")
    pixels = read_image(tmp_path / "curves.png").pixels
    assert pixels.shape == (320, 900, 3)
    assert (pixels == (0, 0x72, 0xB2)).all(axis=-1).sum() > 100, "the curve, in its colour"
    (tmp_path / "validation.csv").write_text("step,AP\n60,0.3\n")
    draw_curves([log, tmp_path / "validation.csv"], tmp_path / "curves.png")
    assert read_image(tmp_path / "curves.png").pixels.shape == (640, 900, 3)


def test_nothing_is_drawn_without_a_log(tmp_path: Path) -> None:
    draw_curves([tmp_path / "log.csv"], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_an_image_comes_as_often_as_its_rarest_category_wants() -> None:
    labels = {f"image {n}": {1} for n in range(10_000)}
    labels["image 7"] = {1, 2}
    labels["image 8"] = set()
    times = repeat_factors(labels, 1e-3)
    assert times["image 7"] == math.ceil(math.sqrt(1e-3 / 1e-4)) == 4
    assert times["image 8"] == times["image 9"] == 1
    assert set(repeat_factors(labels, 0.0).values()) == {1}


def test_masks_are_drawn_where_they_lie() -> None:
    image = np.full((40, 60, 3), 100, np.uint8)
    bitmap = np.zeros((40, 60), np.bool_)
    bitmap[20:35, 10:30] = True
    prediction = Prediction((40, 60), (Instance(mask=Mask.from_array(bitmap), label=3, score=0.9),))
    drawn = draw_instances(image, prediction, {3: "cat"})
    assert (image == 100).all(), "the image itself stays"
    changed = (drawn != image).any(axis=-1)
    assert changed[bitmap].all()
    assert not changed[:15].any()


@pytest.mark.parametrize("number", [1, 4, 5])
def test_pictures_lie_beside_and_below_each_other(number: int) -> None:
    pictures = [np.full((30, 60, 3), 10 * (n + 1), np.uint8) for n in range(number)]
    whole = tile(pictures, 4, 20)
    assert whole.shape == (20 * -(-number // 4), 80, 3)
    assert whole[5, 10].tolist() == [10, 10, 10]
    assert whole[-1, -1].tolist() == [255, 255, 255]
