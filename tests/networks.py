"""Small real networks for tests of what is around them."""

from __future__ import annotations

from pathlib import Path

import torch

from bpr.detector.build import build_detector
from bpr.detector.categories import CITYSCAPES, Categories
from bpr.detector.checkpoints import DetectorInfo, save_detector
from bpr.detector.presets import PRESETS, change_preset
from bpr.refiner.checkpoints import save_model
from bpr.refiner.model_config import ModelConfig
from bpr.refiner.network import PatchNetwork, object_logits

INPUT_SIZE = 32


def save_random_network(path: Path, patch_size: int | None = INPUT_SIZE) -> Path:
    """Write random weights, the same every time, that change masks a lot.

    The classifier is scaled until the logits of noise have mean 0 and standard deviation 8: half
    of all pixels become object, and hardly one is so close to 0.5 that rounding decides.
    """
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        network = PatchNetwork("hrnet18s").eval()
        noise = torch.randint(0, 256, (8, INPUT_SIZE, INPUT_SIZE, 4), dtype=torch.uint8)
        noise[..., 3] %= 2
        classifier = network.head.classifier
        logits = object_logits(network, noise)
        classifier.weight *= 8 / logits.std()
        classifier.bias[1] -= object_logits(network, noise).mean()
    config = ModelConfig(
        architecture="hrnet18s", input_size=INPUT_SIZE, patch_size=patch_size, data="noise"
    )
    save_model(path, network, config, half=False)
    return path


def save_keypoint_detector(path: Path) -> Path:
    """A detector of persons with COCO's 17 points and random weights."""
    changes = {"keypoints": 17}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = build_detector(change_preset(PRESETS["lite"], changes), 1)
        last = model.roi_heads.mask_branch.mask_predictor.mask_fcn_logits
        torch.nn.init.normal_(last.weight, std=1.0)
    info = DetectorInfo(preset="lite", categories=Categories(("person",), (1,)), changes=changes)
    save_detector(path, model, info)
    return path


def save_random_detector(path: Path) -> Path:
    """A detector of Cityscapes' categories whose random masks have both kinds of pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = build_detector(PRESETS["lite"], len(CITYSCAPES))
        last = model.roi_heads.mask_branch.mask_predictor.mask_fcn_logits
        torch.nn.init.normal_(last.weight, std=1.0)
    categories = Categories(tuple(CITYSCAPES), tuple(CITYSCAPES.values()))
    save_detector(path, model, DetectorInfo(preset="lite", categories=categories))
    return path
