"""What the labels of published detectors mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CITYSCAPES = {
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""Name -> label id, in the order of the detectors' labels."""

_COCO_NAMES = (  # noqa: SIM905 (eighty lines otherwise)
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,,"
    "backpack,umbrella,,,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,"
    "baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,,wine glass,cup,fork,"
    "knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,"
    "chair,couch,potted plant,bed,,dining table,,,toilet,,tv,laptop,mouse,remote,keyboard,"
    "cell phone,microwave,oven,toaster,sink,refrigerator,,book,clock,vase,scissors,teddy bear,"
    "hair drier,toothbrush"
).split(",")
"""By category id - 1; ids that no object has are empty."""

COCO = {name: number for number, name in enumerate(_COCO_NAMES, 1) if name}
"""Name -> category id, in the order of the detectors' labels."""


@dataclass(frozen=True)
class Categories:
    """Names and ids of a detector's labels; label 1 is the first of them."""

    names: tuple[str, ...]  # unique
    ids: tuple[int, ...]  # unique; those of the data set

    def __post_init__(self) -> None:
        for what, values in (("names", self.names), ("ids", self.ids)):
            if not values or len(set(values)) != len(values):
                raise ValueError(f"category {what}: expected different ones, got {values}")
        if len(self.names) != len(self.ids):
            raise ValueError(
                f"categories: expected as many ids as names, got {len(self.ids)} ids for "
                f"{len(self.names)} names"
            )

    def __len__(self) -> int:
        return len(self.names)


def published_categories(number: int, names: Sequence[str] = ()) -> Categories:
    """Categories of a published checkpoint, as far as they can be known.

    Args:
        number: how many it has.
        names: those kept in the file, if any.

    Returns:
        Ids of COCO or Cityscapes where the names are theirs, else 1 to `number`.
    """
    if len(names) == number:
        # mmdetection writes names in one word
        by_word = {name.replace(" ", "_"): name for name in COCO}
        plain = tuple(by_word.get(name, name) for name in names)
        for known in (COCO, CITYSCAPES):
            if set(plain) == set(known):
                return Categories(plain, tuple(known[name] for name in plain))
        return Categories(tuple(names), tuple(range(1, number + 1)))
    for known in (COCO, CITYSCAPES):
        if number == len(known):
            return Categories(tuple(known), tuple(known.values()))
    if number == len(_COCO_NAMES):  # torchvision keeps COCO's gaps
        ids = tuple(range(1, number + 1))
        return Categories(
            tuple(name or f"unused {id_}" for name, id_ in zip(_COCO_NAMES, ids, strict=True)), ids
        )
    return Categories(
        tuple(f"category {label}" for label in range(1, number + 1)),
        tuple(range(1, number + 1)),
    )
