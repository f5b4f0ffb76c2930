"""Masks and polygons of a CVAT task or job, refined.

Objects of cvat-sdk come in and go out; who calls has the connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bpr.pipeline.adapters.cvat_drawn import Drawn, Shape, Track
from bpr.pipeline.adapters.refiner import Refiner
from bpr.pipeline.formats import polygons, rle
from bpr.pipeline.formats.images import NamedFile, read_image
from bpr.pipeline.instance import Instance, Mask, Prediction, Size, differing_pixels
from bpr.pipeline.refine import refine

PARTS = ("version", "tags", "shapes", "tracks")
LATER_PARTS = ("intervals",)  # that newer servers have


@dataclass(frozen=True, eq=False, kw_only=True)
class RefinedFrame:
    """The result of one frame."""

    frame: int
    changed: tuple[Drawn, ...] = ()  # with their new points
    num_drawn: int = 0  # masks and polygons of the frame
    changed_pixels: int = 0
    reason: str = ""  # why the frame failed
    left: tuple[str, ...] = ()  # masks and polygons that stay as they are, and why
    lost: tuple[str, ...] = ()  # polygons that could not hold the refined mask, and why


def refine_frames(
    by_frame: Mapping[int, list[Drawn]],
    fetch: Callable[[int], bytes],
    refiner: Refiner,
    polygon_tolerance: float | None,
) -> Iterator[RefinedFrame]:
    """Refine frame by frame. A frame that fails gives its reason, and the next one follows.

    Args:
        by_frame: of `group_by_frame`.
        fetch: gives the image file of a frame. ValueError: it cannot be had.
        refiner: of `load_refiner`.
        polygon_tolerance: write polygons within so many pixels of the refined outline; None
            makes masks of single polygons. Polygons of tracks stay polygons: CVAT interpolates
            between them.
    """
    for frame, drawn in by_frame.items():
        try:
            image = read_image(NamedFile(fetch(frame), f"frame {frame}")).pixels
            size = (image.shape[0], image.shape[1])
            readable, left = _read_all(drawn, size)
        except ValueError as error:
            yield RefinedFrame(frame=frame, num_drawn=len(drawn), reason=str(error))
            continue
        coarse = [mask for _, mask in readable]
        prediction = Prediction(
            size, tuple(Instance(mask=mask, label=0, score=1.0) for mask in coarse)
        )
        refined = refine(
            image, prediction, refiner.network.runner(refiner.network.batch_size), refiner.settings
        )
        changed, lost, pixels = [], [], 0
        for (one, before), instance in zip(readable, refined.instances, strict=True):
            difference = differing_pixels(before, instance.mask)
            if difference and not instance.mask.is_empty:
                written, notes = _write(one, instance.mask, polygon_tolerance)
                changed.append(replace(one, shape={**one.shape, **written}))
                lost += [f"{one.name}: {note}" for note in notes]
                pixels += difference
        yield RefinedFrame(
            frame=frame,
            changed=tuple(changed),
            num_drawn=len(drawn),
            changed_pixels=pixels,
            left=tuple(left),
            lost=tuple(lost),
        )


def fetch_annotations(entity: Any) -> bytes:
    """The annotations of a task or job as the server's json, byte by byte: the backup."""
    _, response = entity.api.retrieve_annotations(entity.id, _parse_response=False)
    content: bytes = response.data
    return content


def push(entity: Any, shapes: Collection[Shape], tracks: Collection[Track]) -> None:
    """Put shapes and tracks in the place of those with their ids, all at once."""
    from cvat_sdk import models
    from cvat_sdk.core.proxies.annotations import AnnotationUpdateAction

    data = models.PatchedLabeledDataRequest(
        shapes=[models.LabeledShapeRequest(**shape) for shape in shapes],
        tracks=[models.LabeledTrackRequest(**track) for track in tracks],
    )
    entity.update_annotations(data, action=AnnotationUpdateAction.UPDATE)


def restore(entity: Any, backup: bytes) -> None:
    """Put all annotations back as `fetch_annotations` found them.

    Raises:
        ValueError: no such backup.
    """
    from cvat_sdk import models

    try:
        content = json.loads(backup)
        parts = {name: content[name] for name in PARTS}
        parts |= {name: content[name] for name in LATER_PARTS if name in content}
        data = models.LabeledDataRequest(**parts)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"expected a backup of `bpr cvat`, got: {error}") from None
    entity.set_annotations(data)


def _read_all(drawn: list[Drawn], size: Size) -> tuple[list[tuple[Drawn, Mask]], list[str]]:
    """Those that can be read, with their masks, and what is wrong with the rest.

    Raises:
        ValueError: none can be read.
    """
    readable, left = [], []
    for one in drawn:
        try:
            readable.append((one, _read(one, size)))
        except ValueError as error:
            left.append(str(error))
    if left and not readable:
        raise ValueError(left[0])
    return readable, left


def _read(one: Drawn, size: Size) -> Mask:
    from cvat_sdk.masks import decode_mask

    height, width = size
    try:
        if one.shape["type"] == "polygon":
            return rle.decode([list(one.shape["points"])], size)
        array = decode_mask(one.shape["points"], image_width=width, image_height=height)
    except ValueError as error:
        raise ValueError(f"{one.name} of an image of {width} x {height}: {error}") from None
    return Mask.from_array(array)


def _write(one: Drawn, mask: Mask, tolerance: float | None) -> tuple[dict[str, Any], list[str]]:
    """The new fields of a shape, and what they cannot hold."""
    from cvat_sdk.masks import encode_mask

    if one.track is not None and tolerance is None:
        tolerance = polygons.DEFAULT_TOLERANCE
    if one.shape["type"] == "polygon" and tolerance is not None:
        outlines = polygons.trace_edges(mask, tolerance)
        notes = polygons.describe_loss(outlines.num_holes)
        if len(outlines.parts) > 1:
            notes.append(f"the largest of {len(outlines.parts)} parts is kept")
        return {"points": outlines.parts[0].ravel().tolist()}, notes
    points = encode_mask(mask.to_array(), mask.window)
    return {"type": "mask", "points": [float(value) for value in points]}, []
