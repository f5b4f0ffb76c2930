"""In which images an earlier run of ours found nothing, by its report."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from bpr._paths import AnyPath
from bpr.pipeline.formats.cityscapes import SUFFIX


def found_nothing(report: AnyPath) -> frozenset[str]:
    """Txts that a run of `bpr detect` or `bpr refine` left empty, relative to their folder.

    Args:
        report: its `report.json`; without one, or with one of something else, there are none.
    """
    try:
        images = json.loads(report.read_bytes())["found_nothing"]
        return frozenset(
            name if name.endswith(SUFFIX) else str(PurePosixPath(name).with_suffix("")) + SUFFIX
            for name in images
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return frozenset()
