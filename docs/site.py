"""Hooks of mkdocs: pages beside docs/ join the site, links to source code become plain text."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("docker/README.md", "refiner/weights/*.md", "detector/weights/*.md")
API = """# Python API

`load_refiner` is all that most programs need.

::: bpr.pipeline.adapters.refiner

## Below it

These may change between minor versions.

::: bpr.pipeline.refine

::: bpr.pipeline.instance

::: bpr.pipeline.settings

::: bpr.pipeline.adapters.adapter
"""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie beside docs/, and the API reference."""
    for pattern in BESIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    files.append(File.generated(config, "api.md", content=API))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Point every link at a page of the site; keep the text of links to other files."""
    source = Path(page.file.abs_src_path) if page.file.abs_src_path else ROOT / "docs/api.md"
    folder = Path(page.file.src_uri).parent

    def replaced(found: re.Match[str]) -> str:
        text, target = found[1], found[2]
        if "://" in target or target.startswith("#"):
            return found[0]
        path, _, anchor = target.partition("#")
        place = Path(os.path.normpath(source.parent / path))
        base = ROOT / "docs" if place.is_relative_to(ROOT / "docs") else ROOT
        uri = place.relative_to(base).as_posix()
        if files.get_file_from_path(uri) is None:
            return text
        return f"[{text}]({os.path.relpath(uri, folder)}{'#' + anchor if anchor else ''})"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", replaced, markdown)
