import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import filtered_mask, guided_filter, main
from pipeline.instance import Mask


@pytest.fixture
def scene(tmp_path):
    """One image with two objects, their accurate masks and two predictions of them."""
    rng = np.random.default_rng(0)
    instance_map = np.zeros((120, 160), np.uint8)
    instance_map[20:60, 20:70] = 1
    instance_map[70:110, 90:150] = 2
    instance_map[0, 0] = 255
    colours = np.array([[40, 90, 40], [200, 60, 50], [60, 70, 210]] + [[0, 0, 0]] * 253)
    image = colours[instance_map] + rng.normal(0, 4, (120, 160, 3))
    for folder in ("truth/images", "truth/masks", "coarse", "refined"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(tmp_path / "truth/images/a.png")
    Image.fromarray(instance_map).save(tmp_path / "truth/masks/a.png")
    for folder, shift in (("coarse", 2), ("refined", 0)):
        lines = ""
        for k in (1, 2):
            mask = np.roll(instance_map == k, shift, axis=1)
            Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / folder / f"a_{k}_car.png")
            lines += f"a_{k}_car.png 26 0.9\n"
        (tmp_path / folder / "a_pred.txt").write_text(lines)
    return tmp_path


@pytest.fixture
def table(capsys):
    """Runs the command and splits what it prints into rows of cells."""

    def run(*arguments):
        main([str(argument) for argument in arguments])
        return cells(capsys.readouterr().out)

    return run


def cells(printed):
    rows = printed.splitlines()[1:]
    return [row.replace(" %", "%").split("  ") for row in rows]


def test_it_prints_a_row_per_folder_and_how_many_got_worse(scene, table):
    arguments = (scene / "refined", "--truth", scene / "truth", "--before", scene / "coarse")
    before, after = table(*arguments)
    assert after[-1].strip() == "0%"
    assert [cell.strip() for cell in after[1:-1] if cell] == ["2", *["100.0"] * 4]
    assert "%" not in "".join(before)


def test_masks_that_got_worse_are_counted(scene, table):
    arguments = (scene / "coarse", "--truth", scene / "truth", "--before", scene / "refined")
    assert table(*arguments)[1][-1].strip() == "100%"


def test_the_guided_filter_gets_a_row_in_the_same_table(scene, table):
    arguments = ("--truth", scene / "truth", "--before", scene / "coarse", "--guided-filter")
    _, row = table(*arguments)
    assert row[0].startswith("guided filter")


def test_folders_with_different_masks_are_not_compared(scene):
    (scene / "refined/a_pred.txt").write_text("a_1_car.png 26 0.9\n")
    arguments = (scene / "refined", "--truth", scene / "truth", "--before", scene / "coarse")
    with pytest.raises(SystemExit, match="1 differ"):
        main([str(argument) for argument in arguments])


def test_the_filter_pulls_a_mask_to_the_edge_in_the_image(scene):
    with Image.open(scene / "truth/images/a.png") as file:
        image = np.array(file)
    with Image.open(scene / "truth/masks/a.png") as file:
        gt = np.array(file) == 1
    coarse = np.roll(gt, 2, axis=1)
    filtered = filtered_mask(image, Mask.from_array(coarse), 4, 1e-4).to_array()
    assert np.count_nonzero(filtered ^ gt) < 0.5 * np.count_nonzero(coarse ^ gt)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_filter_is_a_regression_in_every_window(channels):
    rng = np.random.default_rng(1)
    guide = rng.random((12, 15, channels)).astype(np.float32)
    values = rng.random((12, 15)).astype(np.float32)
    radius, eps = 2, 0.01

    # The line through each window by least squares with a penalty on the slope, averaged.
    def window(array, y, x):
        padded = np.pad(array, [(radius, radius)] * 2 + [(0, 0)] * (array.ndim - 2), "symmetric")
        return padded[y : y + 2 * radius + 1, x : x + 2 * radius + 1]

    slopes, offsets = np.zeros((12, 15, channels)), np.zeros((12, 15))
    for y, x in np.ndindex(12, 15):
        inputs = window(guide, y, x).reshape(-1, channels).astype(np.float64)
        targets = window(values, y, x).reshape(-1).astype(np.float64)
        centred = inputs - inputs.mean(0)
        normal = centred.T @ centred / len(inputs) + eps * np.eye(channels)
        slopes[y, x] = np.linalg.solve(normal, centred.T @ targets / len(inputs))
        offsets[y, x] = targets.mean() - slopes[y, x] @ inputs.mean(0)
    expected = np.zeros((12, 15))
    for y, x in np.ndindex(12, 15):
        slope = window(slopes, y, x).mean((0, 1))
        expected[y, x] = slope @ guide[y, x] + window(offsets, y, x).mean()
    np.testing.assert_allclose(guided_filter(guide, values, radius, eps), expected, atol=1e-4)
