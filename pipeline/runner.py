"""The seam between the refine path and the processor that runs the network.

A runner owns one batch. Images are opened, their patches added as far as the batch has room, and
the batch run; the runner remembers to which image each patch belongs. Who adds patches decides
what is fair: a folder is refined image by image, the service deals shares to its requests.

`pipeline/host.py` cuts patches on the CPU for any predictor of arrays, `pipeline/chain_runner.py`
does so pass after pass, and `pipeline/device.py` cuts and averages them on a GPU.
`pipeline/network.py` chooses between them where weights are loaded; no other code does.
"""

from __future__ import annotations

from typing import Protocol

from bpr.pipeline.plan import Answer, Plan


class PendingImage(Protocol):
    """An image whose patches are being predicted, in pieces of any size."""

    @property
    def uncut(self) -> int:
        """Patches that no batch has taken yet."""

    @property
    def is_complete(self) -> bool:
        """Whether every patch is predicted."""

    def answer(self) -> Answer:
        """What the network said, once the image is complete; may wait for a device."""


class Runner(Protocol):
    """Runs the network over patches of many images. One thread at a time uses a runner."""

    @property
    def input_size(self) -> int:
        """S, the side of the patches that the network takes, in pixels."""

    @property
    def batch_size(self) -> int:
        """Patches predicted together."""

    @property
    def room(self) -> int:
        """Patches that still fit into the batch."""

    @property
    def max_coming_back(self) -> int:
        """Complete images whose answers may wait while others are run: 0 without a device."""

    def open(self, planned: Plan) -> PendingImage:
        """Prepare an image. Its patches are added later."""

    def add(self, image: PendingImage, at_most: int | None = None) -> None:
        """Add an image's next patches: as many as there are, fit in, and `at_most` allows.

        Args:
            image: from `open` of this runner.
            at_most: None allows any number.
        """

    def run(self) -> None:
        """Predict the batch, give the results to their images, and be empty again."""

    def clear(self) -> None:
        """Forget the patches of the batch, after a failure."""
