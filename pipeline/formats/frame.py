"""Which way up an image is meant, told by what is known of its masks.

EXIF orientation is applied, as OpenCV and every viewer do. But some programs label the stored
pixels: then the masks fit the image only as it is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bpr.pipeline.instance import Size, size_text

_LEAVES = 1.0  # pixels by which an outline must leave a frame to say that it is not the frame

_FAR = 1.05  # times the side of an image: no slip of the hand


@dataclass(frozen=True)
class Frame:
    """What the masks of an image say about its size."""

    bitmaps: Size | None = None  # (height, width) of RLE or mask files: leaves no doubt
    reach: tuple[float, float] | None = None  # largest x and y of outlines, in pixels
    claimed: Size | None = None  # (height, width) that an annotation file names beside the image

    def is_stored(self, stored: Size, turned: Size) -> tuple[bool, str]:
        """Whether the masks belong to the stored pixels, and what told so.

        Args:
            stored: (height, width) of the file.
            turned: the same after EXIF orientation.

        Returns:
            True to leave the orientation out, and the reason, for a note.
        """
        if stored == turned:
            return False, ""
        if self.bitmaps in (stored, turned):
            return self.bitmaps == stored, "the masks fit the stored pixels"
        if self.reach is not None:
            in_stored, in_turned = self.is_inside(stored), self.is_inside(turned)
            if in_stored != in_turned:
                return in_stored, "the outlines fit the stored pixels alone"
        if self.claimed == stored:
            return True, "the annotations name the size of the stored pixels"
        return False, ""

    def check(self, size: Size, stored: Size, where: str) -> None:
        """Compare the claimed size with the image.

        Args:
            size: (height, width) of the image as it is used.
            stored: of its file: programs that ignore EXIF orientation name this one.
            where: the image, for the message.

        Raises:
            ValueError: the annotations belong to an image of another size.
        """
        if self.claimed is not None and self.claimed not in (size, stored):
            raise ValueError(
                f"{where}: expected an image of {size_text(self.claimed)}, as its annotations "
                f"say, got {size_text(size)}"
            )

    def clearly_leaves(self, size: Size) -> bool:
        """Outlines are so far outside that an unsteady hand does not explain it."""
        if self.reach is None:
            return False
        return self.reach[0] > _FAR * size[1] or self.reach[1] > _FAR * size[0]

    def is_inside(self, size: Size) -> bool:
        """No outline leaves the image."""
        if self.reach is None:
            return True
        return self.reach[0] <= size[1] + _LEAVES and self.reach[1] <= size[0] + _LEAVES


def frame_of(segmentations: Iterable[Any], claimed: Size | None = None) -> Frame:
    """What COCO segmentations say about the size of their image.

    Args:
        segmentations: RLE, polygons, or anything else, which says nothing.
        claimed: the size that the images of the json name.
    """
    bitmaps: Size | None = None
    xs, ys = [0.0], [0.0]
    for segmentation in segmentations:
        if isinstance(segmentation, dict):
            match segmentation.get("size"):
                case [int(height), int(width)] if bitmaps is None:
                    bitmaps = (height, width)
        elif isinstance(segmentation, list):
            for ring in segmentation:
                if isinstance(ring, list):
                    xs += [x for x in ring[0::2] if type(x) in (int, float)]
                    ys += [y for y in ring[1::2] if type(y) in (int, float)]
    reach = (max(xs), max(ys)) if len(xs) > 1 and len(ys) > 1 else None
    return Frame(bitmaps, reach, claimed)
