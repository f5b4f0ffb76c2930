"""The 80 categories of COCO in the vocabulary of LVIS, for AP* (COCO results on LVIS masks)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# COCO category id by WordNet synset, from coco_to_synset.json of lvis-api.
COCO_BY_SYNSET = {
    "person.n.01": 1, "bicycle.n.01": 2, "car.n.01": 3, "motorcycle.n.01": 4,
    "airplane.n.01": 5, "bus.n.01": 6, "train.n.01": 7, "truck.n.01": 8, "boat.n.01": 9,
    "traffic_light.n.01": 10, "fireplug.n.01": 11, "stop_sign.n.01": 13,
    "parking_meter.n.01": 14, "bench.n.01": 15, "bird.n.01": 16, "cat.n.01": 17,
    "dog.n.01": 18, "horse.n.01": 19, "sheep.n.01": 20, "beef.n.01": 21,
    "elephant.n.01": 22, "bear.n.01": 23, "zebra.n.01": 24, "giraffe.n.01": 25,
    "backpack.n.01": 27, "umbrella.n.01": 28, "bag.n.04": 31, "necktie.n.01": 32,
    "bag.n.06": 33, "frisbee.n.01": 34, "ski.n.01": 35, "snowboard.n.01": 36,
    "ball.n.06": 37, "kite.n.03": 38, "baseball_bat.n.01": 39, "baseball_glove.n.01": 40,
    "skateboard.n.01": 41, "surfboard.n.01": 42, "tennis_racket.n.01": 43,
    "bottle.n.01": 44, "wineglass.n.01": 46, "cup.n.01": 47, "fork.n.01": 48,
    "knife.n.01": 49, "spoon.n.01": 50, "bowl.n.03": 51, "banana.n.02": 52,
    "apple.n.01": 53, "sandwich.n.01": 54, "orange.n.01": 55, "broccoli.n.01": 56,
    "carrot.n.01": 57, "frank.n.02": 58, "pizza.n.01": 59, "doughnut.n.02": 60,
    "cake.n.03": 61, "chair.n.01": 62, "sofa.n.01": 63, "pot.n.04": 64, "bed.n.01": 65,
    "dining_table.n.01": 67, "toilet.n.02": 70, "television_receiver.n.01": 72,
    "laptop.n.01": 73, "mouse.n.04": 74, "remote_control.n.01": 75,
    "computer_keyboard.n.01": 76, "cellular_telephone.n.01": 77, "microwave.n.02": 78,
    "oven.n.01": 79, "toaster.n.02": 80, "sink.n.01": 81, "electric_refrigerator.n.01": 82,
    "book.n.01": 84, "clock.n.01": 85, "vase.n.01": 86, "scissors.n.01": 87,
    "teddy.n.01": 88, "hand_blower.n.01": 89, "toothbrush.n.01": 90,
}  # fmt: skip


def with_coco_categories(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Keep what LVIS says of COCO's categories, under COCO's ids.

    Args:
        content: LVIS json; its categories have a synset.
        where: its name, for the message.

    Raises:
        ValueError: a category has no synset, or none is one of COCO's.
    """
    ids = {}
    for index, category in enumerate(content["categories"]):
        if "synset" not in category:
            raise ValueError(
                f"{where}, categories, entry {index}: expected an LVIS category with a synset, "
                f"got {sorted(category)}"
            )
        if category["synset"] in COCO_BY_SYNSET:
            ids[category["id"]] = COCO_BY_SYNSET[category["synset"]]
    if not ids:
        raise ValueError(f"{where}: expected some of COCO's 80 categories, found none")
    images = [
        {
            **image,
            **{
                name: [ids[label] for label in image.get(name, []) if label in ids]
                for name in ("neg_category_ids", "not_exhaustive_category_ids")
            },
        }
        for image in content["images"]
    ]
    return {
        **content,
        "images": images,
        "annotations": [
            {**item, "category_id": ids[item["category_id"]]}
            for item in content["annotations"]
            if item["category_id"] in ids
        ],
        "categories": [
            {**category, "id": ids[category["id"]]}
            for category in content["categories"]
            if category["id"] in ids
        ],
    }
