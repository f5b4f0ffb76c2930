"""Coarse masks of one kind for every instance of labelled photographs, as a prediction folder.

    python -m benchmarks.coarse_masks DATA/val coarse --kind low_resolution

The kinds are those of `pipeline/datasets/simulate.py`; `perfect` writes the accurate masks, to see
that refining leaves them alone. `bpr refine` and `benchmarks.quality` take the folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bpr.pipeline.datasets.simulate import SIMULATORS
from bpr.pipeline.formats.images import IGNORE, encode_mask, read_instance_map
from bpr.pipeline.instance import Mask

KINDS = {kind.__name__: kind for kind in SIMULATORS}
LABEL = 26  # car in Cityscapes: any will do
SCORE = 0.9


def write_coarse_masks(truth: Path, out: Path, kind: str, seed: int = 0) -> int:
    """Write `<stem>_pred.txt` and `<stem>_<k>_<kind>.png` for each instance map.

    Args:
        truth: folder with masks/<stem>.png (8-bit, 0 background, 255 ignore).
        out: made if it is not there.
        kind: of error, a key of KINDS.
        seed: of the errors.

    Returns:
        The number of masks written; what an error leaves nothing of is written accurately.
    """
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for number, path in enumerate(sorted((truth / "masks").glob("*.png"))):
        instance_map = read_instance_map(path)
        lines = []
        for k in np.unique(instance_map).tolist():
            if k in (0, IGNORE):
                continue
            gt = instance_map == k
            coarse = KINDS[kind](gt, np.random.default_rng([seed, number, k]))
            name = f"{path.stem}_{k}_{kind}.png"
            (out / name).write_bytes(encode_mask(Mask.from_array(coarse if coarse.any() else gt)))
            lines.append(f"{name} {LABEL} {SCORE}\n")
        (out / f"{path.stem}_pred.txt").write_text("".join(lines))
        count += len(lines)
    return count


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("truth", type=Path, help="folder with masks/")
    parser.add_argument("out", type=Path)
    parser.add_argument("--kind", choices=list(KINDS), default="perfect")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    kind, seed = arguments.kind, arguments.seed
    count = write_coarse_masks(arguments.truth, arguments.out, kind, seed)
    print(f"{arguments.out}: {count} masks of kind {kind}")


if __name__ == "__main__":
    main()
