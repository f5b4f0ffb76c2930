from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.coarse_masks import KINDS, main
from bpr.pipeline.formats.cityscapes import (
    find_prediction_files,
    parse_prediction_file,
    read_instances,
)


@pytest.fixture
def truth(tmp_path):
    instance_map = np.zeros((120, 160), np.uint8)
    instance_map[20:60, 20:70] = 1
    ys, xs = np.mgrid[:120, :160]
    instance_map[np.hypot(ys - 90, (xs - 120) / 1.4) < 25 + 3 * np.sin(xs / 3)] = 7
    instance_map[0, 0] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(instance_map).save(tmp_path / "masks" / "a.png")
    return tmp_path, instance_map


def masks(folder):
    (path,) = find_prediction_files(folder)
    instances = read_instances(parse_prediction_file(path, folder))
    return {Path(i.record["file"]).name: i.mask.to_array() for i in instances}


def test_perfect_masks_are_the_truth(truth, tmp_path):
    main([str(tmp_path), str(tmp_path / "out")])
    found = masks(tmp_path / "out")
    assert list(found) == ["a_1_perfect.png", "a_7_perfect.png"]
    for name, k in zip(found, (1, 7), strict=True):
        np.testing.assert_array_equal(found[name], truth[1] == k)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"perfect"}))
def test_other_kinds_differ_from_the_truth_and_repeat(truth, tmp_path, kind):
    for out in ("one", "two"):
        main([str(tmp_path), str(tmp_path / out), "--kind", kind])
    one, two = masks(tmp_path / "one"), masks(tmp_path / "two")
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert any(
        not np.array_equal(mask, truth[1] == k)
        for mask, k in zip(one.values(), (1, 7), strict=True)
    )
