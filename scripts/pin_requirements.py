"""Pin what `scripts/bootstrap.py` installs: exact versions with hashes, no host names.

python3 scripts/pin_requirements.py
"""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {
    "run": [],
    "serve": ["serve"],
    "serve-cuda": ["detect", "serve"],
    "cluster": ["detect", "serve-ray", "stores"],
    "dev": ["all", "dev"],
}
COMPILE = (
    *("uv", "pip", "compile", "--universal", "--generate-hashes", "--python-version", "3.10"),
    *("--no-emit-index-url", "--no-annotate", "--quiet"),
    *("--custom-compile-command", "python3 scripts/pin_requirements.py"),
)


def main() -> None:
    """Write requirements/*.txt for every supported Python: one per use, and uv itself.

    `serve` and `cluster` are what the images of docker/ hold.
    """
    for name, extras in EXTRAS.items():
        words = [word for extra in extras for word in ("--extra", extra)]
        compile_("pyproject.toml", *words, "--output-file", f"requirements/{name}.txt")
    compile_("-", "--output-file", "requirements/uv.txt", given="uv")


def compile_(*words: str, given: str | None = None) -> None:
    """Run uv's compiler; CalledProcessError if it fails."""
    subprocess.run([*COMPILE, *words], check=True, cwd=ROOT, input=given, text=True)


if __name__ == "__main__":
    main()
