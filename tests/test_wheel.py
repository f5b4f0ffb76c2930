"""What `pip install bpr-refine` gives, in an environment and a folder of its own.

Slow: it builds the wheel and installs it with its pinned requirements from the registry.

    pytest -m slow tests/test_wheel.py -s
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bpr import __version__

ROOT = Path(__file__).parents[1]
MAX_INSTALLED = 500e6  # bytes
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The files of the repository, as a checkout has them; a stale build lies beside them."""
    tree = tmp_path_factory.mktemp("tree") / "bpr"
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        source, target = ROOT / name, tree / name
        if source.is_symlink() or source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    stale = tree / "build/lib/pipeline"
    stale.mkdir(parents=True)
    (stale / "__init__.py").write_text("")
    return tree


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, tree]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return wheel


def find_python(version):
    """An interpreter of a version: on the path, or one that pyenv holds."""
    found = shutil.which(f"python{version}")
    if found and subprocess.run([found, "--version"], capture_output=True).returncode == 0:
        return found
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return next(map(str, sorted(root.glob(f"versions/{version}.*/bin/python"))), None)


def install(python, folder, *what):
    """A new environment with these packages; its Python."""
    uv = (sys.executable, "-m", "uv")
    subprocess.run([*uv, "venv", "--quiet", "--python", python, folder], check=True)
    inside = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [*uv, "pip", "install", "--quiet", "--python", inside]
    subprocess.run([*pip, "--require-hashes", "-r", ROOT / "requirements/run.txt"], check=True)
    subprocess.run([*pip, "--no-deps", *what], check=True)
    return inside


def run(*words, folder):
    done = subprocess.run(
        list(map(str, words)), cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_holds_one_package_and_no_link(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"bpr", f"bpr_refine-{__version__}.dist-info"}
    for folder in ("detector", "refiner", "pipeline", "service", "scripts"):
        assert f"bpr/{folder}/__init__.py" in names
    for data in (
        "bpr/py.typed",
        "bpr/refiner/weights/hrnet18s.onnx",
        "bpr/refiner/weights/hrnet18s.safetensors",
        "bpr/detector/weights/lite.safetensors",
        "bpr/pipeline/demo/coffee.json",
        "bpr/pipeline/evaluation/pages/report.html",
        "bpr/service/page/index.html",
    ):
        assert data in names
    expected = {path for path in map(Path, names) if path.suffix == ".py"}
    sources = {
        Path("bpr", path.relative_to(ROOT))
        for folder in ("detector", "refiner", "pipeline", "service", "scripts")
        for path in (ROOT / folder).rglob("*.py")
    } | {path.relative_to(ROOT) for path in (ROOT / "bpr").glob("*.py")}
    assert expected == sources


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("version", PYTHONS)
def test_it_refines_where_other_programs_have_the_same_names(version, wheel, tmp_path):
    interpreter = find_python(version)
    if interpreter is None:
        pytest.skip(f"needs Python {version}")
    folder = tmp_path / "work"
    for name in ("scripts", "service", "detector"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise ImportError('not of bpr')\n")
    for name in ("pipeline", "refiner"):
        (folder / f"{name}.py").write_text("raise ImportError('not of bpr')\n")

    python = install(interpreter, tmp_path / "venv", wheel)
    site = Path(run(python, "-c", "import numpy; print(numpy.__path__[0])", folder=folder).strip())
    site = site.parent
    ours = [path.name for path in site.iterdir() if path.name.startswith(("bpr", *_FOLDERS))]
    assert sorted(ours) == ["bpr", f"bpr_refine-{__version__}.dist-info"]
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    print(f"Python {version}: {size / 1e6:.0f} MB installed")
    assert size < MAX_INSTALLED

    missing = subprocess.run([python, "-c", "import torch"], cwd=folder, capture_output=True)
    assert missing.returncode == 1
    bpr = python.with_name("bpr")
    assert "Boundary IoU" in run(bpr, "demo", "--out", "demo", folder=folder)
    (mask, *_) = sorted((folder / "demo").glob("coffee*.png"))
    assert mask.stat().st_size > 0
    run(python, "-c", _REFINE_ARRAYS, folder=folder)
    run(bpr, "refine", "photo.png", "--masks", "mask.png", "--out", "refined", folder=folder)
    assert (folder / "refined/mask.png").read_bytes()[:4] == b"\x89PNG"
    said = subprocess.run(
        [bpr, "refine", "photo.png", "--masks", "mask.png", "--out", "o", "--backend", "torch"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert said.returncode == 2
    assert "pip install 'bpr-refine[torch]'" in said.stderr


_FOLDERS = ("detector", "refiner", "pipeline", "service", "scripts")
_REFINE_ARRAYS = """
import cv2, numpy as np
from bpr import load_refiner

from bpr.pipeline.demo.scenes import load_demo_scenes

image = load_demo_scenes()[2].image
y, x = np.mgrid[: image.shape[0], : image.shape[1]]
mask = ((x - 320) / 170) ** 2 + ((y - 190) / 130) ** 2 < 1
refined = load_refiner()(image, mask[None])
assert refined.shape == (1, *mask.shape) and refined.any()
cv2.imwrite("photo.png", image[..., ::-1])
cv2.imwrite("mask.png", 255 * mask.astype(np.uint8))
"""
