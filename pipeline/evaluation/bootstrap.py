"""How far a mean over objects would move if other images had been drawn.

Objects of one image resemble each other, so whole images are drawn again, not objects.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentiles).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.float64]

NUM_DRAWS = 1000
COVERAGE = 0.95
_SEED = 0


class ImageBootstrap:
    """Draws of images with replacement, the same ones for every mean.

    Args:
        image_of: (N,) int, number of the image of each object.
        num_images: how many images there are; those without objects are drawn too.
        num_draws: how often.
    """

    def __init__(
        self, image_of: npt.NDArray[np.int64], num_images: int, num_draws: int = NUM_DRAWS
    ) -> None:
        self._image_of, self._num_images = image_of, num_images
        chances = np.full(num_images, 1 / num_images)
        draws = np.random.default_rng(_SEED).multinomial(num_images, chances, num_draws)
        self._draws = draws.astype(np.float32)  # (draws, images): how often each was drawn

    def interval(self, values: Table, chosen: npt.NDArray[np.bool_]) -> Table:
        """The interval of the mean of each column over the chosen objects.

        Args:
            values: (N, K); the chosen rows have no NaN.
            chosen: (N,).

        Returns:
            (2, K): lower and upper end, in which the mean lies in 95 % of the draws. NaN where
            fewer than two images have a chosen object.
        """
        images = self._image_of[chosen]
        nothing = np.full((2, values.shape[1]), np.nan)
        if len(np.unique(images)) < 2:
            return nothing
        counts = np.bincount(images, minlength=self._num_images)
        sums = np.zeros((self._num_images, values.shape[1]))
        np.add.at(sums, images, values[chosen])
        drawn = self._draws @ counts.astype(np.float32)
        seen = drawn > 0
        means = (self._draws[seen] @ sums.astype(np.float64)) / drawn[seen, None]
        tail = (1 - COVERAGE) / 2
        return np.asarray(np.quantile(means, (tail, 1 - tail), axis=0))
