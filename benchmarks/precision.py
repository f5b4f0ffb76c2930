"""What fewer bits cost in mask quality and save in time, against float32.

    python -m benchmarks.precision --data ../shared/data

bfloat16 is OpenVINO's; int8 is ONNX Runtime's, convolutions with a scale for each channel,
calibrated on patches of the training photographs, and its time is compared with float32 in the
same runtime. Every row refines the same coarse masks; quality is judged on the masks.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from benchmarks.quality import WORSE, read_pairs, scores
from pipeline.images import read_image
from pipeline.instance import Float32Array, Instance, Mask, Prediction, UInt8Array, differing_pixels
from pipeline.predictor import MaskPredictor
from pipeline.refine import Plan, merge, plan, predict
from pipeline.settings import PatchSettings
from pipeline.training_patches import PatchStream, StreamSettings, find_labelled_images
from pipeline.version import VERSION
from refiner.checkpoints import LoadedModel, load_model
from refiner.export import INPUT, OUTPUT, export_onnx
from refiner.model_config import DEFAULT_WEIGHTS
from refiner.openvino_model import convert
from refiner.openvino_predictor import OpenVINOPredictor

CALIBRATION_BATCHES = 16  # of 8 patches


class OnnxPredictor:
    """An ONNX model as a predictor, timed."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options)
        self.input_size: int = self._session.get_inputs()[0].shape[1]

    def __call__(self, patches: UInt8Array) -> Float32Array:
        return np.asarray(self._session.run([OUTPUT], {INPUT: patches})[0], np.float32)


class Timed:
    """Adds up the time of a predictor."""

    def __init__(self, predictor: MaskPredictor) -> None:
        self._predictor, self.input_size = predictor, predictor.input_size
        self.seconds, self.patches = 0.0, 0

    def __call__(self, patches: UInt8Array) -> Float32Array:
        started = time.perf_counter()
        logits = self._predictor(patches)
        self.seconds += time.perf_counter() - started
        self.patches += len(patches)
        return logits


class TrainingPatches(CalibrationDataReader):  # type: ignore[misc]
    """Patches as the network meets them in training."""

    def __init__(self, train: Path, input_size: int) -> None:
        images = find_labelled_images(train / "images", train / "masks")
        self._stream = PatchStream(images, StreamSettings(input_size, 8))
        self._next = 0

    def get_next(self) -> dict[str, UInt8Array] | None:
        if self._next == CALIBRATION_BATCHES:
            return None
        self._next += 1
        return {INPUT: self._stream.batch(self._next)[0]}


def predictors(
    model: LoadedModel, train: Path, work: Path
) -> Iterator[tuple[str, str, Callable[[], MaskPredictor]]]:
    """Name, the name of the row its time is compared with, and how to make it."""
    side = model.config.input_size
    converted = convert(model.network, side)
    yield "float32", "float32", lambda: OpenVINOPredictor(converted, side, 1)
    yield "bfloat16", "float32", lambda: OpenVINOPredictor(converted, side, 1, bfloat16=True)
    path, small = work / "float32.onnx", work / "int8.onnx"
    path.write_bytes(export_onnx(model, f"bpr {VERSION}"))
    yield "float32, ONNX Runtime", "float32, ONNX Runtime", lambda: OnnxPredictor(path)
    quantize_static(
        path,
        small,
        TrainingPatches(train, side),
        QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["Conv"],
    )
    yield "int8, ONNX Runtime", "float32, ONNX Runtime", lambda: OnnxPredictor(small)


def refined(plans: Sequence[Plan], predictor: MaskPredictor) -> list[Mask]:
    """The one refined mask of each plan."""
    return [merge(answer).instances[0].mask for answer in predict(plans, predictor)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="train/, val/, val_predictions/")
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each n-th mask")
    arguments = parser.parse_args(argv)
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer gives advice
    data, every = arguments.data, arguments.every
    model = load_model(arguments.weights)
    with tempfile.TemporaryDirectory() as work:
        made = [(n, b, make()) for n, b, make in predictors(model, data / "train", Path(work))]
    print(f"{'':32}{'bIoU':>8}{'F@1':>8}{'worse':>8}{'differs':>10}{'time':>8}")
    for kind in ("maskhead", "polygon"):
        pairs = list(read_pairs(data / "val_predictions" / kind, data / "val"))[::every]
        plans = [
            plan(
                read_image(pair.image).pixels,
                Prediction(pair.mask.size, (Instance(pair.mask, 0, 1.0),)),
                PatchSettings(model.config.patch_size, model.config.padding),
            )
            for pair in pairs
        ]
        before = np.array([scores(pair)[0] for pair in pairs])
        exact: list[Mask] = []
        per_patch: dict[str, float] = {}
        for name, base, predictor in made:
            timed = Timed(predictor)
            masks = refined(plans, timed)
            exact = exact or masks
            per_patch[name] = timed.seconds / timed.patches
            after = np.array(
                [
                    scores(type(pair)(pair.name, pair.image, mask, pair.gt, pair.ignore))
                    for pair, mask in zip(pairs, masks, strict=True)
                ]
            )
            differs = sum(differing_pixels(a, b) for a, b in zip(masks, exact, strict=True))
            pixels = sum(mask.bitmap.size for mask in exact)
            print(
                f"{kind + ', ' + name:32}{100 * after[:, 0].mean():8.2f}"
                f"{100 * after[:, 1].mean():8.2f}"
                f"{100 * (after[:, 0] < before - WORSE).mean():6.1f} %"
                f"{100 * differs / pixels:8.3f} %"
                f"{per_patch[name] / per_patch[base]:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
