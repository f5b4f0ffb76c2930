"""How often an image comes in a round, so that rare categories are seen more often."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Set


def repeat_factors(labels: Mapping[str, Set[int]], threshold: float) -> dict[str, int]:
    """How many times each image comes in a round.

    A category in a share f of the images wants max(1, sqrt(threshold / f)) repeats; an image
    comes as often as its rarest category wants, rounded up.

    Args:
        labels: of the objects of each image, by its name.
        threshold: share of the images below which a category is repeated, in [0, 1]; 0 repeats
            nothing.

    Source: Gupta et al., CVPR 2019 (arXiv:1908.03195), appendix B.2; rounded up as mmdetection's
    `ClassBalancedDataset`, which RefineMask uses.
    """
    counts = Counter(label for of_image in labels.values() for label in of_image)
    wanted = {
        label: max(1.0, math.sqrt(threshold * len(labels) / count))
        for label, count in counts.items()
    }
    return {
        key: math.ceil(max((wanted[label] for label in of_image), default=1.0))
        for key, of_image in labels.items()
    }
