"""RLEs of pycocotools, and lists of records with a `segmentation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bpr.pipeline.adapters.stacks import as_array, as_bool, instance_of, typed_like
from bpr.pipeline.formats import rle
from bpr.pipeline.formats.coco import refined_record
from bpr.pipeline.instance import Instance, Mask, Prediction, Size


class RLEAdapter:
    """One RLE {"size", "counts"} or a list of them; counts as bytes, text or a list of ints."""

    def accepts(self, masks: Any) -> bool:
        """A dict of these keys, or a list of such."""
        codes = masks if isinstance(masks, (list, tuple)) else [masks]
        return all(isinstance(code, dict) and "counts" in code for code in codes)

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per RLE."""
        codes = [masks] if isinstance(masks, dict) else masks
        return [Instance(mask=_decode(code, size), label=0, score=1.0) for code in codes]

    def write(self, masks: Any, refined: Prediction) -> Any:
        """RLEs with counts of the same type."""
        if isinstance(masks, dict):
            return _encode_like(masks, refined.instances[0].mask)
        new = [
            _encode_like(code, instance.mask)
            for code, instance in zip(masks, refined.instances, strict=True)
        ]
        return type(masks)(new)


class RecordsAdapter:
    """A list of dicts with `segmentation`: COCO results and annotations, SAM's mask generator.

    bbox and area follow the mask where a record has them, as COCO defines them. Polygons become
    RLE: they would lose holes.
    """

    def accepts(self, masks: Any) -> bool:
        """A list of dicts with a segmentation."""
        return isinstance(masks, list) and all(
            isinstance(record, dict) and "segmentation" in record for record in masks
        )

    def read(self, masks: Any, size: Size) -> list[Instance]:
        """One instance per record."""
        instances = []
        for index, record in enumerate(masks):
            try:
                segmentation = record["segmentation"]
                if hasattr(segmentation, "shape"):
                    if tuple(segmentation.shape) != size:
                        raise ValueError(
                            f"segmentation: expected the size of the image, {size} (height, "
                            f"width), got {tuple(segmentation.shape)}"
                        )
                    instances.append(instance_of(as_bool(as_array(segmentation)), size))
                else:
                    instances.append(Instance(mask=_decode(segmentation, size), label=0, score=1.0))
            except ValueError as error:
                raise ValueError(f"record {index}, {error}") from None
        return instances

    def write(self, masks: Any, refined: Prediction) -> Any:
        """Records with other segmentations."""
        records = []
        for record, instance in zip(masks, refined.instances, strict=True):
            new = refined_record(record, instance.mask)
            old = record["segmentation"]
            if hasattr(old, "shape"):
                new["segmentation"] = typed_like(old, instance.mask.to_array())
            elif isinstance(old, dict):
                new["segmentation"] = _encode_like(old, instance.mask)
            records.append(new)
        return records


def _decode(segmentation: Any, size: Size) -> Mask:
    if isinstance(segmentation, Mapping):
        counts = segmentation.get("counts")
        text = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
        claimed = [int(side) for side in segmentation.get("size", ())]
        segmentation = {"size": claimed, "counts": text}
    return rle.decode(segmentation, size)


def _encode_like(code: Mapping[str, Any], mask: Mask) -> dict[str, Any]:
    new = rle.encode(mask)
    if isinstance(code["counts"], bytes):
        new["counts"] = new["counts"].encode("ascii")
    elif isinstance(code["counts"], list):
        new["counts"] = rle.runs(mask)
    return {**code, **new}
