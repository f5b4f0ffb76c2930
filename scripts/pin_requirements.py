"""Pin what `scripts/bootstrap.py` installs: exact versions with hashes, no host names.

python3 scripts/pin_requirements.py
"""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {"run": ["openvino"], "dev": ["all", "dev"]}


def main() -> None:
    """Write requirements/run.txt and requirements/dev.txt for every supported Python."""
    for name, extras in EXTRAS.items():
        subprocess.run(
            [
                *("uv", "pip", "compile", "pyproject.toml", "--universal", "--generate-hashes"),
                *("--python-version", "3.10", "--no-emit-index-url", "--no-annotate", "--quiet"),
                *("--custom-compile-command", "python3 scripts/pin_requirements.py"),
                *(word for extra in extras for word in ("--extra", extra)),
                *("--output-file", f"requirements/{name}.txt"),
            ],
            check=True,
            cwd=ROOT,
        )


if __name__ == "__main__":
    main()
