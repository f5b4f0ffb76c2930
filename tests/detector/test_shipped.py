"""The detector that comes along, as it is shipped."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from pipeline.demo_scenes import load_demo_scenes
from pipeline.detection import DetectionSettings, InstanceDetector

WEIGHTS = Path(__file__).parents[2] / "detector/weights"
LARGEST = 20_000_000  # bytes; everybody downloads them with the code


def test_weights_are_those_of_their_card():
    content = (WEIGHTS / "lite.safetensors").read_bytes()
    card = (WEIGHTS / "lite.md").read_text(encoding="utf-8")
    (sha256,) = re.findall(r"SHA-256 of `lite\.safetensors`: `(\w+)`", card)
    assert sha256 == hashlib.sha256(content).hexdigest()
    assert len(content) < LARGEST


def test_lite_finds_what_the_demo_shows():
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
