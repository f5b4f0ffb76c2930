"""Sets everything up on a machine with git and Python, then runs the demo or the tests.

python3 scripts/bootstrap.py demo

It needs nothing but the standard library. The environment is `.venv` beside this repository's
pyproject.toml; a second call finds it ready.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv"
BIN = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")

USAGE = """usage: python3 scripts/bootstrap.py [--cpu] demo|test [arguments of bpr demo / pytest]

  demo   install bpr into .venv, without PyTorch, and refine coarse masks on sample photographs
  test   install bpr and its tools into .venv; check format, types and layout; run the tests
  --cpu  for test: take the CPU builds of PyTorch (0.4 GB to download instead of 3 GB with CUDA)
"""


def main(argv: list[str]) -> int:
    """Set up and run; returns the exit status."""
    cpu = "--cpu" in argv[:1]
    words = argv[1:] if cpu else argv
    if not words or words[0] not in ("demo", "test"):
        print(USAGE, file=sys.stderr)
        return 2
    if sys.version_info < (3, 10):  # noqa: UP036  whoever has an older one reads this
        print(f"expected Python 3.10 or later, got {sys.version.split()[0]}", file=sys.stderr)
        return 2
    try:
        install("run", cpu=False) if words[0] == "demo" else install("dev", cpu)
    except subprocess.CalledProcessError as error:
        print(f"\nsetting up failed at: {' '.join(map(str, error.cmd))}", file=sys.stderr)
        if "ensurepip" in map(str, error.cmd):
            print("On Debian and Ubuntu: apt install python3-venv", file=sys.stderr)
        return 1
    if words[0] == "demo":
        return subprocess.call([PYTHON, "-m", "bpr", "demo", *words[1:]], cwd=ROOT)
    return test(words[1:])


def install(requirements: str, cpu: bool) -> None:
    """Bring `.venv` to requirements/<requirements>.txt, unless it is there already."""
    pinned = ROOT / "requirements" / f"{requirements}.txt"
    content = pinned.read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    state = f"{hashlib.sha256(content).hexdigest()} cpu={cpu} {sys.version_info[:2]}"
    stamp = ENVIRONMENT / f"{requirements}.installed"
    if stamp.exists() and stamp.read_text() == state:
        return
    print(f"setting up {ENVIRONMENT} ...", flush=True)
    pip: list[Path | str] = [PYTHON, "-m", "pip", "--disable-pip-version-check"]
    if not PYTHON.exists() or subprocess.run([*pip, "--version"], capture_output=True).returncode:
        # also where an earlier call was interrupted
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
    # uv downloads in parallel: a minute instead of many
    folder = pinned.parent
    run([*pip, "install", "--quiet", "--require-hashes", "--requirement", folder / "uv.txt"])
    uv: list[Path | str] = [PYTHON, "-m", "uv", "pip", "install", "--quiet", "--python", PYTHON]
    if cpu:
        # The same versions, but PyTorch's CPU builds come from its own index: other hashes.
        plain = ENVIRONMENT / pinned.name
        lines = pinned.read_text().splitlines()
        names = [line.removesuffix("\\") for line in lines if not line.startswith((" ", "#"))]
        plain.write_text("\n".join(names) + "\n")
        run(
            [
                *uv,
                "--torch-backend",
                "cpu",
                "--constraint",
                plain,
                "--editable",
                f"{ROOT}[all,dev]",
            ]
        )
    else:
        run([*uv, "--require-hashes", "--requirement", pinned])
        run([*uv, "--no-deps", "--editable", ROOT])
    stamp.write_text(state)


def test(arguments: list[str]) -> int:
    """Everything that CI checks, in the order of how fast it fails."""
    checks = [
        ["ruff", "format", "--check", "."],
        ["ruff", "check", "."],
        ["mypy"],
        # three processes for two cores: many tests wait; a file's tests share what it sets up
        ["pytest", "--numprocesses", "3", "--dist", "loadfile", *arguments],
    ]
    for check in checks:
        print(f"== {' '.join(check)}", flush=True)
        status = subprocess.call([PYTHON, "-m", *check], cwd=ROOT)
        if status:
            return status
    return 0


def run(command: list[Path | str]) -> None:
    """Run a command and show what it prints; CalledProcessError if it fails."""
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
