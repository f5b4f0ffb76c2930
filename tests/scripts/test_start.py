"""`bpr refine` starts without what takes seconds to import."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.networks import save_random_network

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "timm", "ray", "fastapi", "scipy", "skimage", "matplotlib", "detector")


@pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)
def test_refining_an_image_with_known_weights_imports_nothing_heavy(tmp_path):
    weights = save_random_network(tmp_path / "small.safetensors")
    Image.fromarray(np.full((80, 100, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    mask = np.zeros((80, 100), np.uint8)
    mask[20:60, 30:70] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    code = (
        "import sys; from bpr.scripts.main import main; status = main(sys.argv[2:]); "
        "found = [name for name in sys.argv[1].split() if name in sys.modules]; "
        "sys.exit(status or ' '.join(found) or 0)"
    )
    command = [
        *(sys.executable, "-c", code, " ".join(HEAVY), "refine", str(tmp_path / "photo.png")),
        *("--masks", str(tmp_path / "mask.png"), "--weights", str(weights), "--device", "cpu"),
        *("--out", str(tmp_path / "out"), "--overwrite"),
    ]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    first = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert first.stderr.splitlines()[-1] == "torch timm"  # to convert the weights, once
    second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert (tmp_path / "out/mask.png").exists()
