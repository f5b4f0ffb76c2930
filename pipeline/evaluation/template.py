"""Pages that need nothing but themselves: style and script are inside, no network is used."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).with_name("pages")


@dataclass(frozen=True)
class Page:
    """A page and the pictures that lie beside it."""

    html: str
    files: Mapping[str, bytes]  # by path relative to the page; empty if all is in the page


@dataclass(frozen=True, kw_only=True)
class ObjectTable:
    """What `pages/objects.js` shows."""

    columns: Sequence[Mapping[str, Any]]  # title, kind
    rows: Sequence[Sequence[Any]]
    views: Mapping[int, Any]
    names: Sequence[str]  # of the masks of a view, in the order of its paths
    kinds: Sequence[str]  # classes of their lines: before, after, gt
    sort: Mapping[str, Any]  # column, descending
    coloured: bool  # whether a rise is good and a fall is bad

    @property
    def json(self) -> str:
        """The table for a script element; text of files cannot end the element."""
        content = {
            "columns": self.columns,
            "rows": self.rows,
            "views": self.views,
            "names": self.names,
            "kinds": self.kinds,
            "sort": self.sort,
            "coloured": self.coloured,
        }
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
        return text.replace("<", "\\u003c").replace("\u2028", "\\u2028")


def render(name: str, table: ObjectTable, files: Mapping[str, bytes], **values: Any) -> Page:
    """Fill a template of `pages/`.

    Args:
        name: of the template.
        table: of objects.
        files: pictures that lie beside the page.
        values: for the template.
    """
    environment = Environment(
        loader=FileSystemLoader(FOLDER, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (FOLDER / "objects.js").read_text(encoding="utf-8")
    html = environment.get_template(name).render(
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        script=script,
        policy=_policy(script, bool(files)),
        table=table,
        names=table.names,
        kinds=table.kinds,
        **values,
    )
    return Page(html, files)


def _policy(script: str, has_files: bool) -> str:
    """Nothing is loaded; of scripts only ours runs, whatever the names of files say."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    beside = " 'self' file:" if has_files else ""
    return (
        f"default-src 'none'; img-src data:{beside}; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
