import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import main


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
