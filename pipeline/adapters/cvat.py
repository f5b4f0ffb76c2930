"""Masks and polygons of a CVAT task or job, refined.

Objects of cvat-sdk come in and go out; who calls has the connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bpr.pipeline.adapters.refiner import Refiner
from bpr.pipeline.formats import polygons, rle
from bpr.pipeline.formats.images import NamedFile, read_image
from bpr.pipeline.instance import Instance, Mask, Prediction, Size, differing_pixels
from bpr.pipeline.refine import refine

REFINED_TYPES = ("mask", "polygon")

Shape = Mapping[str, Any]
"""A shape as CVAT's API has it in json: id, type, frame, points, label_id ..."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RefinedFrame:
    """What has become of the shapes of a frame."""

    frame: int
    changed: tuple[Shape, ...] = ()  # those that are others now
    num_shapes: int = 0
    changed_pixels: int = 0
    reason: str = ""  # why the frame failed
    left: tuple[str, ...] = ()  # shapes that cannot be read and stay as they are, and why


def group_by_frame(
    shapes: Collection[Shape], frames: Collection[int] | None = None
) -> dict[int, list[Shape]]:
    """The shapes that can be refined, by frame, in order.

    Args:
        shapes: of a task.
        frames: to keep; None keeps all.
    """
    grouped: dict[int, list[Shape]] = {}
    for shape in shapes:
        if shape["type"] in REFINED_TYPES and (frames is None or shape["frame"] in frames):
            grouped.setdefault(shape["frame"], []).append(shape)
    return dict(sorted(grouped.items()))


def refine_frames(
    by_frame: Mapping[int, list[Shape]],
    fetch: Callable[[int], bytes],
    refiner: Refiner,
    polygon_tolerance: float | None,
) -> Iterator[RefinedFrame]:
    """Refine frame by frame; one that fails says why, and the others go on.

    Args:
        by_frame: of `group_by_frame`.
        fetch: gives the image file of a frame. ValueError: it cannot be had.
        refiner: of `load_refiner`.
        polygon_tolerance: write polygons within so many pixels of the refined outline; None
            makes masks of them.
    """
    for frame, shapes in by_frame.items():
        try:
            image = read_image(NamedFile(fetch(frame), f"frame {frame}")).pixels
            size = (image.shape[0], image.shape[1])
            readable, left = _read_shapes(shapes, size)
        except ValueError as error:
            yield RefinedFrame(frame=frame, num_shapes=len(shapes), reason=str(error))
            continue
        coarse = [mask for _, mask in readable]
        prediction = Prediction(size, tuple(Instance(mask, 0, 1.0) for mask in coarse))
        refined = refine(
            image, prediction, refiner.network.runner(refiner.network.batch_size), refiner.settings
        )
        changed, pixels = [], 0
        for (shape, before), instance in zip(readable, refined.instances, strict=True):
            difference = differing_pixels(before, instance.mask)
            if difference and not instance.mask.is_empty:
                changed.append({**shape, **_write(shape, instance.mask, polygon_tolerance)})
                pixels += difference
        yield RefinedFrame(
            frame=frame,
            changed=tuple(changed),
            num_shapes=len(shapes),
            changed_pixels=pixels,
            left=tuple(left),
        )


def fetch_annotations(entity: Any) -> bytes:
    """The annotations of a task or job as the server's json, byte by byte: the backup."""
    _, response = entity.api.retrieve_annotations(entity.id, _parse_response=False)
    content: bytes = response.data
    return content


def push_shapes(entity: Any, shapes: Collection[Shape]) -> None:
    """Put shapes in the place of those with their ids, all at once."""
    from cvat_sdk import models
    from cvat_sdk.core.proxies.annotations import AnnotationUpdateAction

    requests = [models.LabeledShapeRequest(**shape) for shape in shapes]
    data = models.PatchedLabeledDataRequest(shapes=requests)
    entity.update_annotations(data, action=AnnotationUpdateAction.UPDATE)


def restore(entity: Any, backup: bytes) -> None:
    """Put all annotations back as `fetch_annotations` found them.

    Raises:
        ValueError: no such backup.
    """
    from cvat_sdk import models

    try:
        content = json.loads(backup)
        data = models.LabeledDataRequest(
            **{name: content[name] for name in ("version", "tags", "shapes", "tracks")}
        )
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"expected a backup of `bpr cvat`, got: {error}") from None
    entity.set_annotations(data)


def _read_shapes(shapes: list[Shape], size: Size) -> tuple[list[tuple[Shape, Mask]], list[str]]:
    """The shapes that can be read, with their masks, and what is wrong with the others.

    Raises:
        ValueError: none can be read.
    """
    readable, left = [], []
    for shape in shapes:
        try:
            readable.append((shape, _read(shape, size)))
        except ValueError as error:
            left.append(str(error))
    if left and not readable:
        raise ValueError(left[0])
    return readable, left


def _read(shape: Shape, size: Size) -> Mask:
    from cvat_sdk.masks import decode_mask

    height, width = size
    try:
        if shape["type"] == "polygon":
            return rle.decode([list(shape["points"])], size)
        array = decode_mask(shape["points"], image_width=width, image_height=height)
    except ValueError as error:
        raise ValueError(
            f"shape {shape['id']} of an image of {width} x {height}: {error}"
        ) from None
    return Mask.from_array(array)


def _write(shape: Shape, mask: Mask, tolerance: float | None) -> dict[str, Any]:
    from cvat_sdk.masks import encode_mask

    if shape["type"] == "polygon" and tolerance is not None:
        outlines = polygons.trace_edges(mask, tolerance)
        return {"points": outlines.parts[0].ravel().tolist()}
    points = encode_mask(mask.to_array(), mask.window)
    return {"type": "mask", "points": [float(value) for value in points]}
