"""Masks and polygons in CVAT's annotations, by frame: single shapes and keyframes of tracks.

A track is one object of a video. CVAT stores the frames in which somebody drew it, its keyframes,
and interpolates between them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

REFINED_TYPES = ("mask", "polygon")

Shape = Mapping[str, Any]
"""A shape as CVAT's API has it in json: id, type, frame, points, label_id ..."""
Track = Mapping[str, Any]
"""A track as CVAT's API has it in json: id, frame, label_id, and its keyframes as shapes."""
Annotations = Mapping[str, Any]
"""The annotations of a task or job as CVAT's API has them in json: shapes, tracks, tags."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """A mask or polygon that somebody drew in a frame."""

    shape: Shape
    track: int | None = None  # index of its track; None: a single shape
    keyframe: int = 0  # index in the shapes of its track

    @property
    def name(self) -> str:
        """To name it in a message."""
        if self.track is None:
            return f"shape {self.shape['id']}"
        return f"track {self.track + 1}, frame {self.shape['frame']}"


def group_by_frame(
    annotations: Annotations, frames: Collection[int] | None = None
) -> dict[int, list[Drawn]]:
    """The masks and polygons that can be refined, by frame, in order.

    Keyframes at which an object has left the picture are left out.

    Args:
        annotations: of a task or job.
        frames: to keep; None keeps all.
    """
    drawn = [Drawn(shape) for shape in annotations["shapes"]]
    for index, track in enumerate(annotations["tracks"]):
        drawn += [
            Drawn(shape, index, keyframe)
            for keyframe, shape in enumerate(track["shapes"])
            if not shape["outside"]
        ]
    grouped: dict[int, list[Drawn]] = {}
    for one in drawn:
        frame = one.shape["frame"]
        if one.shape["type"] in REFINED_TYPES and (frames is None or frame in frames):
            grouped.setdefault(frame, []).append(one)
    return dict(sorted(grouped.items()))


def changed_shapes(changed: Collection[Drawn]) -> list[Shape]:
    """The single shapes among them."""
    return [one.shape for one in changed if one.track is None]


def changed_tracks(annotations: Annotations, changed: Collection[Drawn]) -> list[Track]:
    """The tracks with a changed keyframe, whole: CVAT replaces a track, not a keyframe.

    Args:
        annotations: as they were.
        changed: keyframes and single shapes; the latter are ignored.
    """
    new: dict[int, dict[int, Shape]] = {}
    for one in changed:
        if one.track is not None:
            new.setdefault(one.track, {})[one.keyframe] = one.shape
    return [
        {
            **annotations["tracks"][index],
            "shapes": [
                keyframes.get(number, shape)
                for number, shape in enumerate(annotations["tracks"][index]["shapes"])
            ],
        }
        for index, keyframes in sorted(new.items())
    ]
