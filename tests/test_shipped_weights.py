"""The weights that come along, as they are shipped."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from bpr.pipeline.demo.scenes import load_demo_scenes
from bpr.pipeline.detection import DetectionSettings, InstanceDetector

SHIPPED = sorted(Path(__file__).parents[1].glob("*/weights/*.safetensors"))
LARGEST = 20_000_000  # bytes; everybody downloads them with the code


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_weights_are_those_of_their_card(path: Path) -> None:
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    (sha256,) = re.findall(rf"SHA-256 of `{path.stem}\.safetensors`: `(\w+)`", card)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stat().st_size < LARGEST
    assert "non-commercial" in card


def test_all_weights_are_found() -> None:
    assert [path.stem for path in SHIPPED] == ["lite", "hrnet18s", "tiny", "unet-lite0"]


def test_lite_finds_what_the_demo_shows() -> None:
    """Photographs of scikit-image, of which the training saw none."""
    detector = InstanceDetector("lite", "cpu", DetectionSettings(score=0.3))
    best = []
    for scene in load_demo_scenes():
        found = [instance.mask.to_array() for instance in detector(scene.image).instances]
        for truth in scene.truth:
            known = truth.to_array()
            overlaps = [(known & mask).sum() / (known | mask).sum() for mask in found]
            best.append(max(overlaps, default=0.0))
    assert len(best) == 7
    assert (np.array(best) > 0.5).sum() >= 4
