"""What stands between the masks of some library and a prediction."""

from __future__ import annotations

from typing import Any, Protocol

from bpr.pipeline.instance import Instance, Prediction, Size


class Adapter(Protocol):
    """One way in which programs hold the masks of an image.

    It imports no library: objects are told by the names of their types or by what they hold,
    and new ones are made by what came in.
    """

    def accepts(self, masks: Any) -> bool:
        """Whether an object is of this kind."""

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """The masks of an object, in order.

        Args:
            masks: an object that is accepted.
            size: (height, width) of the image.

        Raises:
            ValueError: it has no masks, or masks of another size than the image.
        """

    def write(self, masks: Any, refined: Prediction) -> Any:
        """A copy of the object with refined masks, all else as it is.

        Args:
            masks: what `read` was given; it is not changed.
            refined: what `read` gave, refined, in the same order.
        """


def is_named(value: Any, library: str, name: str) -> bool:
    """Whether a value is of a class of a library, or of one that inherits from it."""
    return any(
        kind.__name__ == name and kind.__module__.split(".")[0] == library
        for kind in type(value).__mro__
    )
